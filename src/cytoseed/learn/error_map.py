"""Errors of one predicted label image: missed, false, split and merged objects, found and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.annotations import read_mask
from cytoseed.learn.evaluate import ScoredImage
from cytoseed.learn.metrics import THRESHOLDS, find_overlaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100
_SHORTEST_PX, _LONGEST_PX = 1600, 4000  # longer side of the picture: small images are enlarged, huge ones reduced
_LARGEST_FACTOR = 24.0
_NARROWEST_PX = 1100  # room for title and legend
_TITLE_PX, _LEGEND_PX = 100, 110
_LETTER_PX = 15  # of the title
_DARK, _LIGHT = "#202020", "#f4f4f4"


class _Style(NamedTuple):
    """Line of one kind of object."""

    colour: str
    dashes: Any
    width: float  # points


_STYLES: Mapping[str, _Style] = {
    "left_out": _Style("#999999", (0, (1, 3)), 1.6),
    "found": _Style("#56B4E9", "-", 1.6),
    "missed": _Style("#F0E442", (0, (4, 1.6)), 2.6),
    "false": _Style("#FF7F2A", (0, (1.3, 1.0)), 2.8),
    "split": _Style("#FFA6DD", (0, (7, 1.5, 1.2, 1.5)), 2.8),
    "merged": _Style("#00C08F", (0, (10, 2)), 2.8),
}
_THIN = 1.5  # points
_RIM = 1.2  # points, both sides together: makes bright lines and their gaps visible on a light image


@dataclass(frozen=True, eq=False)
class Errors:
    """Ids of objects by kind of error, sorted.

    A true object is in exactly one of `found` (first column), `merged`, `split` and `missed`; a predicted one in
    exactly one of `found` (second column), `left_out`, `merging`, `parts` and `false`.
    """

    found: NDArray[np.int64]  # (M, 2): true and predicted id of each pair that `score` matches at IoU 0.5
    # true objects without a match, more than half of each in a predicted object that covers more than half of another
    merged: NDArray[np.int64]
    split: NDArray[np.int64]  # true objects without a match, not merged, that contain two or more `parts`
    missed: NDArray[np.int64]  # all other true objects
    left_out: NDArray[np.int64]  # predicted objects without a match, more than half not annotated: no error
    merging: NDArray[np.int64]  # predicted objects without a match, over more than half of two or more true objects
    parts: NDArray[np.int64]  # predicted objects without a match, not merging, more than half in a `split` true object
    false: NDArray[np.int64]  # all other predicted objects


def find_errors(predicted: NDArray[Any], true: NDArray[Any]) -> Errors:
    """Classify the objects of two label images (H, W) as found, missed, false, split or merged.

    The matching is that of `score` at IoU 0.5: `missed`, `split` and `merged` add up to its false negatives, `false`,
    `parts` and `merging` to its false positives. If several kinds apply, the first counts: found, left out, merged,
    split, then missed or false. "More than half" is of the annotated pixels.
    """
    overlaps = find_overlaps(predicted, true)
    rows = overlaps.matched(THRESHOLDS[0])
    true_free = np.ones(len(overlaps.true_areas), np.bool_)
    true_free[overlaps.true[rows]] = False
    predicted_free = np.ones(len(overlaps.predicted_areas), np.bool_)
    predicted_free[overlaps.predicted[rows]] = False
    left_out = predicted_free & overlaps.excused
    predicted_free &= ~left_out

    # A true object lies by more than half in at most one predicted object, and then matches no other.
    covered = 2 * overlaps.intersection > overlaps.true_areas[overlaps.true]
    hosts = np.bincount(overlaps.predicted[covered], minlength=len(predicted_free)) > 1
    merged = np.zeros_like(true_free)
    merged[overlaps.true[covered & hosts[overlaps.predicted]]] = True
    merged &= true_free
    merging = hosts & predicted_free
    true_free &= ~merged
    predicted_free &= ~merging

    within = 2 * overlaps.intersection > overlaps.predicted_areas[overlaps.predicted]
    within &= true_free[overlaps.true] & predicted_free[overlaps.predicted]
    split = np.bincount(overlaps.true[within], minlength=len(true_free)) > 1
    parts = np.zeros_like(predicted_free)
    parts[overlaps.predicted[within & split[overlaps.true]]] = True

    true_ids, predicted_ids = (np.unique(labels[labels > 0]).astype(np.int64) for labels in (true, predicted))
    found = np.stack([true_ids[overlaps.true[rows]], predicted_ids[overlaps.predicted[rows]]], axis=1)
    return Errors(
        found=found[np.argsort(found[:, 0])],
        merged=true_ids[merged],
        split=true_ids[split],
        missed=true_ids[true_free & ~split],
        left_out=predicted_ids[left_out],
        merging=predicted_ids[merging],
        parts=predicted_ids[parts],
        false=predicted_ids[predicted_free & ~parts],
    )


def draw_errors(image: ScoredImage, picture: Path | None, rank: int, note: str) -> Figure:
    """Matplotlib figure of one image of `evaluate_folders` with each object's outline in the style of its kind.

    `picture` is the image's file; without it, true objects are drawn on a plain background. `rank` (from 1) and `note`
    are for the title.
    """
    from matplotlib.figure import Figure

    if image.predicted_path is None or image.true_path is None:
        raise ValueError(f"{image.name} has no label images on disk to draw; give an evaluation of evaluate_folders")
    predicted, true = read_mask(image.predicted_path), read_mask(image.true_path)
    background = _read_background(picture, true)
    errors = find_errors(predicted, true)

    height, width = true.shape
    longer = max(height, width)
    factor = min(max(_SHORTEST_PX / longer, 1.0), _LARGEST_FACTOR, _LONGEST_PX / longer)
    full_x, full_y = max(width * factor, _NARROWEST_PX), height * factor + _TITLE_PX + _LEGEND_PX
    figure = Figure(figsize=(full_x / _DPI, full_y / _DPI), dpi=_DPI, facecolor=_DARK)
    axes = figure.add_axes((0, _LEGEND_PX / full_y, 1, height * factor / full_y))  # imshow centres the image
    axes.set_axis_off()
    axes.imshow(background, extent=(0, width, height, 0), interpolation="nearest" if factor > 1 else "antialiased")
    # errors on top of found objects
    _outline(axes, "left_out", predicted, errors.left_out)
    _outline(axes, "found", predicted, errors.found[:, 1])
    _outline(axes, "split", predicted, errors.parts, thin=True)
    _outline(axes, "split", true, errors.split)
    _outline(axes, "merged", predicted, errors.merging)
    _outline(axes, "merged", true, errors.merged, thin=True)
    _outline(axes, "false", predicted, errors.false)
    _outline(axes, "missed", true, errors.missed)
    result = image.score
    kind = " ".join(part for part in (image.dataset, image.modality) if part and part != "unknown")
    kind = f"  ({kind})" if kind else ""
    room = max(int(full_x / _LETTER_PX) - len(kind) - 5, 12)
    numbers = f"mean F1 {result.f1_mean:.3f}, F1 at 0.5 {result.f1:.3f}; objects: {result.true_objects} true, "
    numbers += f"{result.predicted_objects} predicted{f'; {note}' if note else ''}"
    title = f"{rank}.  {shorten(image.name, room)}{kind}"
    for text, down_px, size in ((title, 14, 17), (numbers, 56, 14)):
        figure.text(0.5, 1 - down_px / full_y, text, color=_LIGHT, fontsize=size, ha="center", va="top")
    _legend(figure, errors)
    return figure


def _outline(
    axes: Axes, style_name: str, labels: NDArray[np.int32], ids: NDArray[np.int64], thin: bool = False
) -> None:
    """Draw the outlines of some objects of one label image, on a slightly wider dark line."""
    from matplotlib.collections import LineCollection

    style = _STYLES[style_name]
    width, dashes = (_THIN, "-") if thin else (style.width, style.dashes)
    rings = _rings(labels, ids)
    for colour, wide, kind, alpha in (("black", width + _RIM, "-", 0.55), (style.colour, width, dashes, 1.0)):
        lines = LineCollection(rings, colors=colour, linewidths=wide, linestyles=[kind], alpha=alpha, capstyle="butt")
        axes.add_collection(lines, autolim=False)


def _rings(labels: NDArray[np.int32], ids: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Outer and inner outlines of some objects, each (N, 2), x and y."""
    from scipy import ndimage

    from cytoseed.results.outline import outline

    numbers = np.where(np.isin(labels, ids), np.searchsorted(ids, labels) + 1, 0)  # 1 to N
    return [
        np.asarray(ring, np.float64)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1)
        for rings in outline(numbers[rows, columns] == number, columns.start, rows.start)
        for ring in rings
    ]


def _legend(figure: Figure, errors: Errors) -> None:
    """Legend with the number of objects of each kind."""
    from matplotlib.lines import Line2D

    texts = {
        "found": f"found: {len(errors.found)}",
        "missed": f"missed: {len(errors.missed)}",
        "false": f"false: {len(errors.false)}",
        "split": f"split: {len(errors.split)} true, {len(errors.parts)} predicted (thin)",
        "merged": f"merged: {len(errors.merged)} true (thin), {len(errors.merging)} predicted",
    }
    if len(errors.left_out):
        texts["left_out"] = f"not scored, mostly where nobody annotated: {len(errors.left_out)}"
    handles = [
        Line2D([], [], color=_STYLES[name].colour, linestyle=_STYLES[name].dashes, lw=_STYLES[name].width, label=text)
        for name, text in texts.items()
    ]
    box: dict[str, Any] = {"facecolor": "#3c3c3c", "edgecolor": "none", "framealpha": 1.0, "labelcolor": _LIGHT}
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=12, handlelength=5, columnspacing=3, **box)


def _read_background(path: Path | None, true: NDArray[np.int32]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of an image, or twice as large, as in the overlays of `segment`.

    Without an image grey: true objects lighter, pixels that nobody annotated darker.
    """
    from cytoseed.images import open_image
    from cytoseed.results import Result
    from cytoseed.results.formats.overlay import draw_overlay

    if path is None:
        grey = np.select([true > 0, true < 0], [105, 40], default=70).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    image = open_image(path)
    pixels = image.read()
    if pixels.shape[1:] != true.shape:
        raise ValueError(
            f"{path} has {pixels.shape[1:]} pixels and its labels have {true.shape}; give the image that they belong to"
        )
    return draw_overlay(Result.from_labels(np.zeros_like(true), pixels, channel_names=image.channel_names))


def shorten(text: str, length: int) -> str:
    """The text, without its middle if it is longer than `length`."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
