"""One image with its errors marked: what was found, missed, false, split and merged, each in a style of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.errors import Errors, find_errors
from cytoseed.learn.evaluate import ScoredImage
from cytoseed.learn.samples import read_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 100
_SHORTEST_PX, _LONGEST_PX = 1600, 4000  # a picture's longer side: small images are enlarged, huge ones reduced
_LARGEST_FACTOR = 24.0
_NARROWEST_PX = 1100  # room for title and legend
_TITLE_PX, _LEGEND_PX = 100, 110
_LETTER_PX = 15  # of the title
_GROUND, _INK = "#202020", "#f4f4f4"


class _Style(NamedTuple):
    """How one verdict is drawn."""

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
_RIM = 1.2  # points to both sides together: keeps bright lines visible on light ground, and the gaps between dashes


class _Layer(NamedTuple):
    """Outlines of some objects of one of the two label images, in one style."""

    style: str
    labels: NDArray[np.int32]
    ids: NDArray[np.int64]
    thin: bool


def draw_errors(image: ScoredImage, picture: Path | None, rank: int, note: str) -> Figure:
    """Draw one image, large enough to see, and around each object an outline in the style of its verdict.

    Parameters
    ----------
    image : ScoredImage
        Of `evaluate_folders`: its label images are read again.
    picture : Path, optional
        The image's file. Without it, true objects are drawn lighter on a plain ground.
    rank : int
        Its place among the worst, from 1, for the title.
    note : str
        What else the title is to say; may be empty.

    Returns
    -------
    matplotlib Figure
        At 100 dots an inch.

    Raises
    ------
    ValueError
        The image's labels are not on disk; the picture differs in size from them, or cannot be read.
    """
    from matplotlib.figure import Figure

    if image.predicted_path is None or image.true_path is None:
        raise ValueError(f"{image.name} has no label images on disk to draw; give an evaluation of evaluate_folders")
    predicted, true = read_mask(image.predicted_path), read_mask(image.true_path)
    ground = _plain_ground(true) if picture is None else _shown(picture, true.shape)
    errors = find_errors(predicted, true)

    height, width = true.shape
    longer = max(height, width)
    factor = min(max(_SHORTEST_PX / longer, 1.0), _LARGEST_FACTOR, _LONGEST_PX / longer)
    drawn_y, drawn_x = height * factor, width * factor
    full_x, full_y = max(drawn_x, _NARROWEST_PX), drawn_y + _TITLE_PX + _LEGEND_PX
    figure = Figure(figsize=(full_x / _DPI, full_y / _DPI), dpi=_DPI, facecolor=_GROUND)
    left = (full_x - drawn_x) / 2
    axes = figure.add_axes((left / full_x, _LEGEND_PX / full_y, drawn_x / full_x, drawn_y / full_y))
    axes.set_axis_off()
    axes.imshow(ground, extent=(0, width, height, 0), interpolation="nearest" if factor > 1 else "antialiased")
    for layer in _layers(errors, predicted, true):
        _outline(axes, layer)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)

    result = image.score
    kind = " ".join(part for part in (image.dataset, image.modality) if part and part != "unknown")
    kind = f"  ({kind})" if kind else ""
    room = max(int(full_x / _LETTER_PX) - len(kind) - 5, 12)
    lines = [
        f"{rank}.  {shortened(image.name, room)}{kind}",
        f"mean F1 {result.f1_mean:.3f}, F1 at 0.5 {result.f1:.3f}; objects: {result.true_objects} true, "
        f"{result.predicted_objects} predicted{f'; {note}' if note else ''}",
    ]
    for text, down_px, size in zip(lines, (14, 56), (17, 14), strict=True):
        figure.text(0.5, 1 - down_px / full_y, text, color=_INK, fontsize=size, ha="center", va="top")
    _legend(figure, errors)
    return figure


def _layers(errors: Errors, predicted: NDArray[np.int32], true: NDArray[np.int32]) -> Iterator[_Layer]:
    """Yield what is drawn, in this order: errors on top of what was found."""
    yield _Layer("left_out", predicted, errors.left_out, False)
    yield _Layer("found", predicted, errors.found[:, 1], False)
    yield _Layer("split", predicted, errors.parts, True)
    yield _Layer("split", true, errors.split, False)
    yield _Layer("merged", predicted, errors.merging, False)
    yield _Layer("merged", true, errors.merged, True)
    yield _Layer("false", predicted, errors.false, False)
    yield _Layer("missed", true, errors.missed, False)


def _outline(axes: Axes, layer: _Layer) -> None:
    """Add the outlines of some objects, on a dark line that is a little wider."""
    from matplotlib.collections import LineCollection

    rings = list(_rings(layer.labels, layer.ids))
    if not rings:
        return
    style = _STYLES[layer.style]
    width = _THIN if layer.thin else style.width
    dashes = "-" if layer.thin else style.dashes
    for colour, wide, kind, alpha in (("black", width + _RIM, "-", 0.55), (style.colour, width, dashes, 1.0)):
        lines = LineCollection(rings, colors=colour, linewidths=wide, linestyles=[kind], alpha=alpha)
        lines.set_capstyle("butt")
        lines.set_joinstyle("round")
        axes.add_collection(lines, autolim=False)


def _rings(labels: NDArray[np.int32], ids: NDArray[np.int64]) -> Iterator[NDArray[np.float64]]:
    """Outer and inner outlines of some objects, each (N, 2) in x and y."""
    from scipy import ndimage

    from cytoseed.results.outline import outline

    if not len(ids):
        return
    found, ranks = np.unique(labels.ravel(), return_inverse=True)
    # Ids may be large, and there is a box for each number up to the largest.
    compact = np.where(labels > 0, ranks.reshape(labels.shape) + 1, 0)
    boxes = ndimage.find_objects(compact)
    for index in np.searchsorted(found, ids):
        rows, columns = boxes[index]
        mask = compact[rows, columns] == index + 1
        for rings in outline(mask, columns.start, rows.start):
            yield from (np.asarray(ring, np.float64) for ring in rings)


def _legend(figure: Figure, errors: Errors) -> None:
    """Name the styles, with how many objects have each."""
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
        handles=handles, loc="lower center", ncols=3, fontsize=12, labelcolor=_INK, handlelength=5, columnspacing=3
    )
    legend.get_frame().set(facecolor="#3c3c3c", edgecolor="none", alpha=1.0)


def _shown(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Show an image as the overlays of `segment` do, (H, W, 3), or twice as large."""
    from cytoseed.images import open_image
    from cytoseed.results import Result
    from cytoseed.results.formats.overlay import draw_overlay

    opened = open_image(path)
    pixels = opened.read()
    if pixels.shape[1:] != shape:
        raise ValueError(
            f"{path} has {pixels.shape[1:]} pixels and its labels have {shape}; give the image they are of"
        )
    nothing = np.zeros(shape, np.int32)
    return draw_overlay(Result.from_labels(nothing, pixels, channel_names=opened.channel_names))


def _plain_ground(true: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Ground to draw on where there is no image: true objects lighter, pixels that nobody annotated darker."""
    grey = np.select([true > 0, true < 0], [105, 40], default=70).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def shortened(text: str, length: int) -> str:
    """Leave out the middle of a text of more characters than this."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"
