"""Plots of an evaluation: F1 of groups, and the worst images with their errors marked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cytoseed.images import open_image
from cytoseed.images.label_image import read_labels
from cytoseed.learn.error_map import Errors, find_errors
from cytoseed.learn.evaluate import Evaluation, ScoredImage
from cytoseed.learn.metrics import THRESHOLDS, ImageScore, pool
from cytoseed.learn.samples import IMAGE_SUFFIXES, files_by_stem
from cytoseed.paths import atomic_file
from cytoseed.results import Result, stem_of
from cytoseed.results.formats.overlay import draw_overlay
from cytoseed.results.outline import outline

try:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("plots need matplotlib: pip install 'cytoseed[plot]'", name="matplotlib") from error

# Okabe and Ito's palette for the colour-blind
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (2, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DPI = 100
_SHORTEST_PX, _LONGEST_PX = 1600, 4000  # longer side of the picture: small images are enlarged, huge ones reduced
_LARGEST_FACTOR = 24.0
_NARROWEST_PX = 1100  # room for title and legend
_TITLE_PX, _LEGEND_PX = 100, 110
_DARK, _LIGHT = "#202020", "#f4f4f4"
_STYLES: dict[str, tuple[str, Any, float]] = {  # colour, dashes and width in points
    "left_out": ("#999999", (0, (1, 3)), 1.6),
    "found": ("#56B4E9", "-", 1.6),
    "missed": ("#F0E442", (0, (4, 1.6)), 2.6),
    "false": ("#FF7F2A", (0, (1.3, 1.0)), 2.8),
    "split": ("#FFA6DD", (0, (7, 1.5, 1.2, 1.5)), 2.8),
    "merged": ("#00C08F", (0, (10, 2)), 2.8),
}
_THIN = 1.5  # points
_RIM = 1.2  # points, both sides together: makes bright lines and their gaps visible on a light image
_STALE = re.compile(r"worst_\d{2,}_.*\.png")


def write_plots(
    evaluation: Evaluation,
    folder: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    worst: int = 12,
) -> tuple[Path, ...]:
    """Write PNG plots of an evaluation of folders; returns the files, the worst image's first after the two of groups.

    `f1_box.png`: F1 at IoU 0.5 and mean F1 of the images by group (box: quartiles, whiskers: 1.5 times the box, dots:
    images, diamond: pooled). `f1_iou.png`: pooled F1 against IoU. `worst_01_STEM.png` and so on: the `worst` images by
    mean F1, then name, with the outlines of `find_errors` on the files of the folder `images`; earlier ones are
    removed.
    """
    ranked = sorted(evaluation.images, key=lambda image: (image.score.f1_mean, image.name))[:worst]
    pictures = {} if images is None else _pictures(Path(images), ranked)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = [
        _save(_draw_boxes(evaluation), target / "f1_box.png"),
        _save(_draw_f1_by_iou(evaluation), target / "f1_iou.png"),
    ]
    digits = max(2, len(str(len(ranked))))
    for rank, image in enumerate(ranked, start=1):
        note = "" if image.name in pictures else "no image given" if images is None else "no image of it"
        figure = draw_errors(image, pictures.get(image.name), rank, note)
        written.append(_save(figure, target / f"worst_{rank:0{digits}d}_{image.name[:200]}.png"))
    for path in target.iterdir():
        if _STALE.fullmatch(path.name) and path not in written:
            path.unlink()
    return tuple(written)


def _groups(evaluation: Evaluation) -> dict[str, tuple[ImageScore, ...]]:
    """Scores of the images by data set and modality, and of all images if there is more than one group."""
    groups = {" ".join(key).strip(): scores for key, scores in evaluation.members.items()}
    return groups if len(groups) == 1 else groups | {"all": tuple(image.score for image in evaluation.images)}


def _draw_boxes(evaluation: Evaluation) -> Figure:
    """Box plots with one panel per metric and one box per group."""
    groups = _groups(evaluation)
    lowest = min(min(image.score.f1, image.score.f1_mean) for image in evaluation.images)
    floor = max(0.0, np.floor(10 * lowest - 0.5) / 10)
    figure = Figure(figsize=(max(5.0, 1.6 + 1.5 * len(groups)), 8.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, title, metric in ((upper, "F1 at IoU 0.5", "f1"), (lower, "mean F1, IoU 0.5 to 0.9", "f1_mean")):
        values = [[getattr(result, metric) for result in scores] for scores in groups.values()]
        pooled = [getattr(pool(scores), metric) for scores in groups.values()]
        axes.boxplot(values, widths=0.55, showfliers=False, medianprops={"color": _COLOURS[0], "linewidth": 2.2})
        for place, (column, all_objects) in enumerate(zip(values, pooled, strict=True), start=1):
            spread = (np.arange(1, len(column) + 1) * 0.618034) % 1 - 0.5  # even and deterministic
            axes.plot(place + 0.4 * spread, column, ".", color="#333333", markersize=5, alpha=0.45)
            axes.text(place + 0.31, all_objects, f"{all_objects:.3f}", color=_COLOURS[1], va="center", weight="bold")
        axes.plot(range(1, len(groups) + 1), pooled, "D", color=_COLOURS[1], markeredgecolor="white", markersize=9)
        axes.set_ylabel(title)
        axes.set_ylim(floor - 0.03 * (1 - floor), 1 + 0.03 * (1 - floor))
        axes.set_xlim(0.4, len(groups) + 0.75)
        axes.grid(axis="y", alpha=0.35)
    names = ["\n".join([*(word[:20] for word in name.split()), _images(len(groups[name]))]) for name in groups]
    lower.set_xticks(range(1, len(groups) + 1), names, fontsize=9)
    upper.set_title("F1 of each image (dots); pooled over objects (diamonds)", fontsize=11, wrap=True)
    return figure


def _draw_f1_by_iou(evaluation: Evaluation) -> Figure:
    """Pooled F1 against the IoU threshold, one line per group."""
    groups = _groups(evaluation)
    figure = Figure(figsize=(11.0, max(5.5, 1.0 + 0.45 * len(groups))), layout="constrained")
    axes = figure.subplots()
    for (name, scores), *style in zip(groups.items(), cycle(_COLOURS), cycle(_DASHES), cycle(_MARKERS), strict=False):
        pooled = pool(scores)
        colour, dashes, marker, width = ("black", "-", "", 3.2) if name == "all" else (*style, 2.0)
        label = f"{name}: {_images(len(scores))}, mean {pooled.f1_mean:.3f}"
        values = [pooled.f1_at(threshold) for threshold in THRESHOLDS]
        axes.plot(THRESHOLDS, values, color=colour, linestyle=dashes, marker=marker, linewidth=width, label=label)
    axes.set_xlabel("IoU from which two objects match")
    axes.set_ylabel("F1, pooled over objects")
    axes.set_xticks(THRESHOLDS)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.35)
    figure.legend(loc="outside right upper", fontsize=9, handlelength=4.5)
    return figure


def draw_errors(image: ScoredImage, picture: Path | None, rank: int, note: str) -> Figure:
    """Figure of one image with each object's outline in the style of its kind; `rank` (from 1) is in the title."""
    if image.predicted_path is None or image.true_path is None:
        raise ValueError(f"{image.name} has no label images on disk to draw; give an evaluation of evaluate_folders")
    predicted, true = (read_labels(path, warns=False) for path in (image.predicted_path, image.true_path))
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
    title = f"{rank}.  {image.name[:50]}{f'  ({kind})' if kind else ''}"
    numbers = f"mean F1 {result.f1_mean:.3f}, F1 at 0.5 {result.f1:.3f}; objects: {result.true_objects} true, "
    numbers += f"{result.predicted_objects} predicted{f'; {note}' if note else ''}"
    for text, down_px, size in ((title, 14, 17), (numbers, 56, 14)):
        figure.text(0.5, 1 - down_px / full_y, text, color=_LIGHT, fontsize=size, ha="center", va="top")
    _legend(figure, errors)
    return figure


def _outline(
    axes: Axes, style_name: str, labels: NDArray[np.int32], ids: NDArray[np.int64], thin: bool = False
) -> None:
    """Draw the outer and inner outlines of some objects of one label image, on a slightly wider dark line."""
    numbers = np.where(np.isin(labels, ids), np.searchsorted(ids, labels) + 1, 0)  # 1 to N
    rings = [
        np.asarray(ring, np.float64)
        for number, (rows, columns) in enumerate(ndimage.find_objects(numbers), start=1)
        for polygon in outline(numbers[rows, columns] == number, columns.start, rows.start)
        for ring in polygon
    ]
    colour, dashes, width = _STYLES[style_name]
    width, dashes = (_THIN, "-") if thin else (width, dashes)
    for shade, wide, kind, alpha in (("black", width + _RIM, "-", 0.55), (colour, width, dashes, 1.0)):
        lines = LineCollection(rings, colors=shade, linewidths=wide, linestyles=[kind], alpha=alpha, capstyle="butt")
        axes.add_collection(lines, autolim=False)


def _legend(figure: Figure, errors: Errors) -> None:
    """Legend with the number of objects of each kind."""
    texts = {
        "found": f"found: {len(errors.found)}",
        "missed": f"missed: {len(errors.missed)}",
        "false": f"false: {len(errors.false)}",
        "split": f"split: {len(errors.split)} true, {len(errors.parts)} predicted (thin)",
        "merged": f"merged: {len(errors.merged)} true (thin), {len(errors.merging)} predicted",
    }
    if len(errors.left_out):
        texts["left_out"] = f"not scored, mostly outside the annotated area: {len(errors.left_out)}"
    handles = []
    for name, text in texts.items():
        colour, dashes, width = _STYLES[name]
        handles.append(Line2D([], [], color=colour, linestyle=dashes, lw=width, label=text))
    box: dict[str, Any] = {"facecolor": "#3c3c3c", "edgecolor": "none", "framealpha": 1.0, "labelcolor": _LIGHT}
    figure.legend(handles=handles, loc="lower center", ncols=3, fontsize=12, handlelength=5, columnspacing=3, **box)


def _read_background(path: Path | None, true: NDArray[np.int32]) -> NDArray[np.uint8]:
    """RGB (H, W, 3) of an image, or twice as large, as in the overlays of `segment`; without an image, of its masks."""
    if path is None:
        grey = np.select([true > 0, true < 0], [105, 40], default=70).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    image = open_image(path)
    pixels = image.read()
    if pixels.shape[1:] != true.shape:
        raise ValueError(f"{path} has {pixels.shape[1:]} pixels and its labels have {true.shape}; give their own image")
    return draw_overlay(Result.from_labels(np.zeros_like(true), pixels, channel_names=image.channel_names))


def _pictures(folder: Path, images: Sequence[ScoredImage]) -> dict[str, Path]:
    """Image files by name; an error if none of the images is there."""
    found: dict[str, Path] = {}
    for path in reversed(files_by_stem(folder, IMAGE_SUFFIXES).values()):
        found |= {path.stem: path, stem_of(path): path}
    names = [image.name for image in images]
    if names and not found.keys() & names:
        some = ", ".join(sorted(names)[:3])
        raise FileNotFoundError(f"images is {str(folder)!r}, which holds no image of {some}; give their images' folder")
    return found


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", facecolor=figure.get_facecolor())
    return path


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
