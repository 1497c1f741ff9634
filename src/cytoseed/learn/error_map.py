"""Errors of one predicted label image: missed, false, split and merged objects, found and drawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.annotations import read_mask
from cytoseed.learn.evaluate import ScoredImage
from cytoseed.learn.metrics import THRESHOLDS, Overlaps, find_overlaps

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

    merged, merging = _merges(overlaps, true_free, predicted_free)
    split, parts = _splits(overlaps, true_free & ~merged, predicted_free & ~merging)
    true_ids, predicted_ids = _ids(true), _ids(predicted)
    found = np.stack([true_ids[overlaps.true[rows]], predicted_ids[overlaps.predicted[rows]]], axis=1)
    return Errors(
        found=found[np.argsort(found[:, 0])],
        merged=true_ids[merged],
        split=true_ids[split],
        missed=true_ids[true_free & ~merged & ~split],
        left_out=predicted_ids[left_out],
        merging=predicted_ids[merging],
        parts=predicted_ids[parts],
        false=predicted_ids[predicted_free & ~merging & ~parts],
    )


def _merges(
    overlaps: Overlaps, true_free: NDArray[np.bool_], predicted_free: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the merged true objects and of the predicted objects that merge them.

    A true object lies by more than half in at most one predicted object, and then matches no other.
    """
    covered = 2 * overlaps.intersection > overlaps.true_areas[overlaps.true]
    counts = np.bincount(overlaps.predicted[covered], minlength=len(overlaps.predicted_areas))
    rows = np.flatnonzero(covered)
    merged = np.zeros_like(true_free)
    merged[overlaps.true[rows[counts[overlaps.predicted[rows]] > 1]]] = True
    return merged & true_free, (counts > 1) & predicted_free


def _splits(
    overlaps: Overlaps, true_free: NDArray[np.bool_], predicted_free: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the split true objects and of their predicted parts, among the objects without a match."""
    within = 2 * overlaps.intersection > overlaps.predicted_areas[overlaps.predicted]
    rows = np.flatnonzero(within & true_free[overlaps.true] & predicted_free[overlaps.predicted])
    counts = np.bincount(overlaps.true[rows], minlength=len(true_free))
    parts = np.zeros_like(predicted_free)
    parts[overlaps.predicted[rows[counts[overlaps.true[rows]] > 1]]] = True
    return counts > 1, parts


def _ids(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Ids of the objects, in the order of `Overlaps`."""
    return np.unique(labels[labels > 0]).astype(np.int64)


def draw_errors(image: ScoredImage, picture: Path | None, rank: int, note: str) -> Figure:
    """Matplotlib figure of one image of `evaluate_folders` with each object's outline in the style of its kind.

    `picture` is the image's file; without it, true objects are drawn on a plain background. `rank` (from 1) and `note`
    are for the title.
    """
    from matplotlib.figure import Figure

    if image.predicted_path is None or image.true_path is None:
        raise ValueError(f"{image.name} has no label images on disk to draw; give an evaluation of evaluate_folders")
    predicted, true = read_mask(image.predicted_path), read_mask(image.true_path)
    background = _plain_background(true) if picture is None else _read_rgb(picture, true.shape)
    errors = find_errors(predicted, true)

    height, width = true.shape
    longer = max(height, width)
    factor = min(max(_SHORTEST_PX / longer, 1.0), _LARGEST_FACTOR, _LONGEST_PX / longer)
    drawn_y, drawn_x = height * factor, width * factor
    full_x, full_y = max(drawn_x, _NARROWEST_PX), drawn_y + _TITLE_PX + _LEGEND_PX
    figure = Figure(figsize=(full_x / _DPI, full_y / _DPI), dpi=_DPI, facecolor=_DARK)
    left = (full_x - drawn_x) / 2
    axes = figure.add_axes((left / full_x, _LEGEND_PX / full_y, drawn_x / full_x, drawn_y / full_y))
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
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)

    result = image.score
    kind = " ".join(part for part in (image.dataset, image.modality) if part and part != "unknown")
    kind = f"  ({kind})" if kind else ""
    room = max(int(full_x / _LETTER_PX) - len(kind) - 5, 12)
    lines = [
        f"{rank}.  {shorten(image.name, room)}{kind}",
        f"mean F1 {result.f1_mean:.3f}, F1 at 0.5 {result.f1:.3f}; objects: {result.true_objects} true, "
        f"{result.predicted_objects} predicted{f'; {note}' if note else ''}",
    ]
    for text, down_px, size in zip(lines, (14, 56), (17, 14), strict=True):
        figure.text(0.5, 1 - down_px / full_y, text, color=_LIGHT, fontsize=size, ha="center", va="top")
    _legend(figure, errors)
    return figure


def _outline(
    axes: Axes, style_name: str, labels: NDArray[np.int32], ids: NDArray[np.int64], thin: bool = False
) -> None:
    """Draw the outlines of some objects of one label image, on a slightly wider dark line."""
    from matplotlib.collections import LineCollection

    rings = list(_rings(labels, ids))
    if not rings:
        return
    style = _STYLES[style_name]
    width = _THIN if thin else style.width
    dashes = "-" if thin else style.dashes
    for colour, wide, kind, alpha in (("black", width + _RIM, "-", 0.55), (style.colour, width, dashes, 1.0)):
        lines = LineCollection(rings, colors=colour, linewidths=wide, linestyles=[kind], alpha=alpha)
        lines.set_capstyle("butt")
        lines.set_joinstyle("round")
        axes.add_collection(lines, autolim=False)


def _rings(labels: NDArray[np.int32], ids: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Outer and inner outlines of some objects, each (N, 2), x and y."""
    from scipy import ndimage

    from cytoseed.results.outline import outline

    if not len(ids):
        return
    found, ranks = np.unique(labels.ravel(), return_inverse=True)
    # find_objects returns one box per number up to the largest id
    compact = np.where(labels > 0, ranks.reshape(labels.shape) + 1, 0)
    boxes = ndimage.find_objects(compact)
    for index in np.searchsorted(found, ids):
        rows, columns = boxes[index]
        mask = compact[rows, columns] == index + 1
        for rings in outline(mask, columns.start, rows.start):
            yield from (np.asarray(ring, np.float64) for ring in rings)


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
    handles = []
    for name, text in texts.items():
        colour, dashes, width = _STYLES[name]
        handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=width, label=text))
    legend = figure.legend(
        handles=handles, loc="lower center", ncols=3, fontsize=12, labelcolor=_LIGHT, handlelength=5, columnspacing=3
    )
    legend.get_frame().set(facecolor="#3c3c3c", edgecolor="none", alpha=1.0)


def _read_rgb(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Image as RGB (H, W, 3), or twice as large, as in the overlays of `segment`."""
    from cytoseed.images import open_image
    from cytoseed.results import Result
    from cytoseed.results.formats.overlay import draw_overlay

    image = open_image(path)
    pixels = image.read()
    if pixels.shape[1:] != shape:
        raise ValueError(
            f"{path} has {pixels.shape[1:]} pixels and its labels have {shape}; give the image they are of"
        )
    no_objects = np.zeros(shape, np.int32)
    return draw_overlay(Result.from_labels(no_objects, pixels, channel_names=image.channel_names))


def _plain_background(true: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Grey background: true objects lighter, pixels that nobody annotated darker."""
    grey = np.select([true > 0, true < 0], [105, 40], default=70).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def shorten(text: str, length: int) -> str:
    """The text, without its middle if it is longer than `length`."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
