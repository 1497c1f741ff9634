"""Images at low resolution, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import Image
from cytoseed.images.regions import Box, Regions

_READ_BYTES = 1 << 26  # read at a time
_BAND_PX, _BLOCK_PX = 256, 1024  # lower bands would decode compressed tiles too often: then blocks


class Overview(NamedTuple):
    """An image at low resolution."""

    pixels: NDArray[np.float32]
    """(C,h,w) Means over areas of the image; 0 where `unread`."""
    step: float
    """Pixels of full resolution per pixel, down and across."""
    unread: NDArray[np.bool_]
    """(h,w) Areas with values that are NaN or infinite."""


def overview(regions: Regions, image: Image, channels: Sequence[int], largest_px: int = 4096) -> Overview:
    """Channels of an open image at low resolution.

    The longer side is at most `largest_px`, and at least half of it where the image is so large. The coarsest level
    that is large enough is read, piece by piece.
    """
    sides = [max(shape) for shape in image.level_shapes]
    level = min((i for i, side in enumerate(sides) if 2 * side >= largest_px), key=sides.__getitem__, default=0)
    height, width = image.level_shapes[level]
    by = -(-max(height, width) // largest_px)
    pixels = np.zeros((len(channels), -(-height // by), -(-width // by)), np.float32)
    for box in bands((height, width), len(channels) * image.dtype.itemsize, by):
        top, left, rows, columns = box[0] // by, box[1] // by, -(-box[2] // by), -(-box[3] // by)
        here = slice(top, top + rows), slice(left, left + columns)
        for index, channel in enumerate(regions.read(box, level, channels)):
            with np.errstate(over="ignore", invalid="ignore"):
                pixels[(index, *here)] = area_means(channel, by)
    unread = np.logical_not(np.isfinite(pixels).all(axis=0, keepdims=True))[0]
    pixels[:, unread] = 0
    return Overview(pixels, by * max(image.shape[1:]) / max(height, width), unread)


def thumbnail(image: Image, largest_px: int) -> tuple[NDArray[Any], float]:
    """All channels (C,h,w) of an image at low resolution, in its own type, and full-resolution pixels per pixel.

    A side is at most `largest_px`; less where the image has many channels.
    """
    many = max(1.0, image.shape[0] / 4)  # all channels are held at once
    with image.regions() as regions:
        small = overview(regions, image, range(image.shape[0]), int(largest_px / math.sqrt(many)))
    pixels = np.rint(small.pixels) if image.dtype.kind in "iu" else small.pixels
    return pixels.astype(image.dtype), small.step


def reduce(pixels: NDArray[Any], largest_px: int) -> tuple[NDArray[Any], float]:
    """The same for pixels (C,H,W) in memory."""
    by = -(-max(pixels.shape[1:]) // largest_px)
    if by == 1:
        return pixels, 1.0
    means = np.stack([area_means(channel, by) for channel in pixels])
    return (np.rint(means) if pixels.dtype.kind in "iu" else means).astype(pixels.dtype), by


def bands(shape_yx: tuple[int, int], px_bytes: int, grain: int = 1) -> Iterator[Box]:
    """Bands of a level that fit in memory, or blocks where bands would be low; corners are multiples of `grain`."""
    height, width = shape_yx
    room = _READ_BYTES // px_bytes
    rows, columns = room // width, width
    if rows < min(_BAND_PX, height):
        rows = -(-_BLOCK_PX // grain) * grain
        columns = max(grain, room // rows // grain * grain)
    rows = max(grain, rows // grain * grain)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield top, left, min(rows, height - top), min(columns, width - left)


def area_means(channel: NDArray[Any], by: int) -> NDArray[np.float32]:
    """Means over squares of `by` px per side; smaller ones at the lower and right edge."""
    if by == 1:
        return channel.astype(np.float32, copy=False)
    sums = _row_sums(_row_sums(channel, by).T, by).T
    height, width = (np.minimum(by, side - np.arange(0, side, by)).astype(np.float32) for side in channel.shape)
    means: NDArray[np.float32] = sums / (height[:, None] * width)
    return means


def _row_sums(values: NDArray[Any], by: int) -> NDArray[np.float32]:
    """Sums of every `by` rows; ten times as fast as `np.add.reduceat`."""
    sums = values[::by].astype(np.float32)
    for offset in range(1, by):
        rows = values[offset::by]
        sums[: len(rows)] += rows
    return sums
