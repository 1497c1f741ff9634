"""Plots of an evaluation: F1 of groups, and the worst images with their errors marked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoseed.learn.error_map import draw_errors, shorten
from cytoseed.learn.evaluate import Evaluation, ScoredImage
from cytoseed.learn.metrics import THRESHOLDS, ImageScore, pool
from cytoseed.learn.samples import IMAGE_SUFFIXES
from cytoseed.paths import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette for the colour-blind
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (2, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STALE = re.compile(r"worst_\d{2,}_.*\.png")


def require_matplotlib() -> None:
    """Raise `ModuleNotFoundError` with the remedy if matplotlib, of the extra `plot`, is not installed."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'cytoseed[plot]'", name="matplotlib")


def write_plots(
    evaluation: Evaluation,
    folder: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    worst: int = 12,
) -> tuple[Path, ...]:
    """Write PNG plots of an evaluation of folders; returns the files, the worst image's first after the two of groups.

    `f1_box.png`: F1 at IoU 0.5 and mean F1 of the images by group (box: quartiles, whiskers: 1.5 times the box, dots:
    images, diamond: pooled). `f1_iou.png`: pooled F1 against IoU. `worst_01_STEM.png` and so on: the `worst` images by
    mean F1, then name, with outlines of found, missed, false, split and merged objects (`find_errors`), on the files of
    the folder `images` with the stems of the label images, or without them on a plain background. Pictures of worst
    images from an earlier run are removed.
    """
    require_matplotlib()
    if worst < 0:
        raise ValueError(f"worst is {worst}; it must be 0 or more")
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
    from matplotlib.figure import Figure

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
    words = [[shorten(word, 20) for word in name.split()] for name in groups]
    names = ["\n".join([*name, _images(len(scores))]) for name, scores in zip(words, groups.values(), strict=True)]
    lower.set_xticks(range(1, len(groups) + 1), names, fontsize=9)
    upper.set_title("F1 of each image (dots); pooled over objects (diamonds)", fontsize=11, wrap=True)
    return figure


def _draw_f1_by_iou(evaluation: Evaluation) -> Figure:
    """Pooled F1 against the IoU threshold, one line per group."""
    from matplotlib.figure import Figure

    groups = _groups(evaluation)
    figure = Figure(figsize=(11.0, max(5.5, 1.0 + 0.45 * len(groups))), layout="constrained")
    axes = figure.subplots()
    for (name, scores), *style in zip(groups.items(), cycle(_COLOURS), cycle(_DASHES), cycle(_MARKERS), strict=False):
        pooled = pool(scores)
        colour, dashes, marker = ("black", "-", "") if name == "all" else style
        axes.plot(
            THRESHOLDS,
            [pooled.f1_at(threshold) for threshold in THRESHOLDS],
            color=colour,
            linestyle=dashes,
            marker=marker,
            linewidth=3.2 if name == "all" else 2.0,
            label=f"{name}: {_images(len(scores))}, mean {pooled.f1_mean:.3f}",
        )
    axes.set_xlabel("IoU from which two objects match")
    axes.set_ylabel("F1, pooled over objects")
    axes.set_xticks(THRESHOLDS)
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.35)
    figure.legend(loc="outside right upper", fontsize=9, handlelength=4.5)
    return figure


def _pictures(folder: Path, images: Sequence[ScoredImage]) -> dict[str, Path]:
    """Image files by name; an error if there is none of them."""
    from cytoseed.results import stem_of

    if not folder.is_dir():
        raise FileNotFoundError(f"images is {str(folder)!r}, which is no folder; give the folder of the images")
    names = {image.name for image in images}
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            for name in {path.stem, stem_of(path)} & names:
                found.setdefault(name, path)
    if names and not found:
        raise FileNotFoundError(
            f"images is {str(folder)!r}, which holds no image of {', '.join(sorted(names)[:3])}; give the folder of "
            f"the images that the labels belong to"
        )
    return found


def _save(figure: Figure, path: Path) -> Path:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", facecolor=figure.get_facecolor())
    return path


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count} images"
