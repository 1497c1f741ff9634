"""The image with the objects' outlines drawn on it, for looking at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.stains import RGB_NAMES
from cytoseed.results.view import ResultView

Range: TypeAlias = tuple[float, float]
"""Values of a channel that are shown darkest and brightest."""

_LARGEST_PX = 4096  # per side; larger images are drawn smaller
_SMALL_PX = 1024  # images of this side at most are drawn twice as large: lines stay thin compared with small nuclei
_PERCENTILES = (0.5, 99.8)
# colours of two or three fluorescent channels, blue first, as the nuclear stain most often is
_TINTS = np.array([[0.25, 0.45, 1.0], [0.2, 1.0, 0.3], [1.0, 0.25, 0.45]], np.float32)
# outlines per target, on dark and on light images
_ON_DARK = np.array([[255, 214, 10], [0, 229, 255]], np.uint8)
_ON_LIGHT = np.array([[57, 255, 20], [0, 102, 255]], np.uint8)


def draw_overlay(result: ResultView, largest_px: int = _LARGEST_PX) -> NDArray[np.uint8]:
    """Draw every object's outline, one pixel wide and inside the object, on the image, as RGB (H,W,3) of 8 bits.

    An RGB image of 8 bits (three channels called so, or without names) is shown as it is. Other channels are
    stretched, each between its percentiles 0.5 and 99.8: one is shown in grey, two and three are tinted and added up,
    the mean of more is shown in grey. Images of up to 1024 px per side are drawn twice as large, of more than
    `largest_px` at that size.
    """
    image, planes = result.overview(largest_px)
    picture = as_rgb(image, result.channel_names)
    colours = colours_on(picture)
    factor = 2 if max(picture.shape[:2]) <= min(_SMALL_PX, largest_px // 2) else 1
    canvas = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    for index, labels in reversed(list(enumerate(planes))):  # nuclei on top of cells
        canvas[borders(labels.repeat(factor, axis=0).repeat(factor, axis=1))] = colours[index % len(colours)]
    return canvas


def colours_on(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Colours of the outlines of each target that stand out from a picture."""
    return _ON_DARK if picture.size == 0 or float(picture.mean()) < 110 else _ON_LIGHT


def write_overlay(result: ResultView, path: Path) -> None:
    """Write the drawing as PNG."""
    import imagecodecs

    path.write_bytes(imagecodecs.png_encode(draw_overlay(result)))


def as_rgb(image: NDArray[Any], names: tuple[str, ...], ranges: Sequence[Range] = ()) -> NDArray[np.uint8]:
    """An image (C,H,W) as RGB (H,W,3) of 8 bits; `ranges` of the channels are its own unless they are given."""
    is_rgb = len(image) == 3 and names in RGB_NAMES
    if is_rgb and image.dtype == np.uint8:
        return np.ascontiguousarray(np.moveaxis(image, 0, 2))
    if 2 <= len(image) <= 3:
        stretched = np.stack([_stretch(*pair) for pair in zip(image, ranges or ranges_of(image), strict=True)])
        if not is_rgb:
            stretched = np.tensordot(_TINTS[: len(stretched)], stretched, axes=(0, 0))
    else:
        total = np.zeros(image.shape[1:], np.float32)
        for pair in zip(image, ranges or ranges_of(image), strict=True):  # one at a time: there may be a hundred
            total += _stretch(*pair)
        total /= len(image)
        stretched = total[None].repeat(3, axis=0)
    return (np.moveaxis(stretched, 0, 2).clip(0, 1) * 255 + 0.5).astype(np.uint8)


def ranges_of(image: NDArray[Any]) -> list[Range]:
    """Range in which each channel of an image (C,H,W) is shown: between its percentiles."""
    ranges = []
    for channel in image:
        values = channel.astype(np.float32)
        low, high = np.percentile(values, _PERCENTILES)
        if high <= low:  # a few bright pixels on nothing, or one value throughout
            low, high = values.min(), values.max()
        ranges.append((float(low), float(high)))
    return ranges


def _stretch(channel: NDArray[Any], between: Range) -> NDArray[np.float32]:
    """One channel (H,W) stretched to 0..1."""
    low, high = between
    shown: NDArray[np.float32] = ((channel.astype(np.float32) - low) / (high - low or 1)).clip(0, 1).astype(np.float32)
    return shown


def borders(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels of objects that have a neighbour above, below, left or right outside their object."""
    border = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differs = labels[here] != labels[there]
        border[here] |= differs
        border[there] |= differs
    return border & (labels > 0)
