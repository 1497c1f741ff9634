"""Tiles of an image, as JPEG, and of its labels, by zoom: one pixel of zoom z is 2 ** z pixels of the image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, Regions
from cytoseed.images.overview import thumbnail
from cytoseed.results import Result
from cytoseed.results.measure.stains import may_be_stained, stains_of

TILE_PX = 512
_OVERVIEW_PX = 4096
_COLOURS = {"dapi": "3b6cff", "hoechst": "3b6cff", "fitc": "00ff00", "gfp": "00ff00", "cy3": "ff9a00", "cy5": "ff0000"}


class Display(NamedTuple):
    """Display settings of a channel."""

    channel: int
    colour: tuple[int, int, int]
    low: float
    high: float


class ImageTiles:
    """Tiles of an image that is open as `regions`; coarse ones come from an overview, made once."""

    def __init__(self, image: Image, regions: Regions) -> None:
        self._image, self._regions, self._lock = image, regions, Lock()

    @cached_property
    def _overview(self) -> tuple[NDArray[Any], float]:
        return thumbnail(self._image, _OVERVIEW_PX)

    @cached_property
    def is_brightfield(self) -> bool:
        """Whether the image is shown as it is, rather than channel by channel."""
        pixels, _ = self.overview()
        names = self._image.channel_names
        return may_be_stained(names, self._image.dtype) and bool(stains_of(pixels, names))

    def overview(self) -> tuple[NDArray[Any], float]:
        """Image (C,h,w) at low resolution, and image px per px of it."""
        with self._lock:
            return self._overview

    @cached_property
    def displays(self) -> tuple[Display, ...]:
        """Initial display of each channel: from percentile 1 to 99.8, in its own colour."""
        pixels, _ = self.overview()
        found = []
        for channel, values in enumerate(pixels):
            finite = values[np.isfinite(values)]
            low, high = np.percentile(finite, (1, 99.8)) if finite.size else (0, 1)
            colour = _colour_of(self._image.channel_names[channel], channel, len(pixels))
            found.append(Display(channel, colour, float(low), float(max(high, low + 1e-6))))
        return tuple(found)

    def jpeg(self, zoom: int, column: int, row: int, displays: Sequence[Display] | None) -> bytes:
        """One tile; `displays` are mixed, None shows red, green and blue as they are."""
        import cv2
        import imagecodecs

        channels = range(3) if displays is None else [each.channel for each in displays]
        pixels = self._read(zoom, column, row, list(channels))
        if displays is None:
            mixed = pixels.transpose(1, 2, 0)
        else:
            light = np.zeros((*pixels.shape[1:], 3), np.float32)
            for values, each in zip(pixels.astype(np.float32), displays, strict=True):
                amount = np.nan_to_num((values - each.low) / (each.high - each.low)).clip(0, 1)
                light += amount[..., None] * np.array(each.colour, np.float32)
            mixed = light.clip(0, 255)
        height, width = (min(TILE_PX, -(-side // 2**zoom)) for side in self._sides(zoom, column, row))
        if mixed.shape[:2] != (height, width):
            mixed = cv2.resize(np.ascontiguousarray(mixed), (width, height), interpolation=cv2.INTER_AREA)
        return bytes(imagecodecs.jpeg_encode(np.ascontiguousarray(mixed, np.uint8), level=90))

    def _sides(self, zoom: int, column: int, row: int) -> tuple[int, int]:
        """Height and width of a tile in pixels of the image."""
        side = TILE_PX << zoom
        height, width = (
            min(side, size - place * side) for size, place in zip(self._image.shape[1:], (row, column), strict=True)
        )
        if height < 1 or width < 1 or row < 0 or column < 0:
            raise ValueError(f"there is no tile {column}, {row} at zoom {zoom}")
        return height, width

    def _read(self, zoom: int, column: int, row: int, channels: list[int]) -> NDArray[Any]:
        """Pixels (C,h,w) of a tile, from the coarsest source that is fine enough."""
        height, width = self._sides(zoom, column, row)
        top, left = row * TILE_PX << zoom, column * TILE_PX << zoom
        pixels, step = self.overview()
        if step <= 2**zoom:
            y, x, below, right = (int(np.floor(place / step)) for place in (top, left, top + height, left + width))
            return pixels[channels, y : max(below, y + 1), x : max(right, x + 1)]
        levels = self._image.level_shapes
        level = max((k for k in range(len(levels)) if self._image.shape[1] / levels[k][0] <= 2**zoom), default=0)
        down, across = (full / own for full, own in zip(self._image.shape[1:], levels[level], strict=True))
        y, x = int(top / down), int(left / across)
        tall = max(1, min(levels[level][0] - y, round(height / down)))
        wide = max(1, min(levels[level][1] - x, round(width / across)))
        return self._regions.read((y, x, tall, wide), level, channels)


def label_tile(result: Result, zoom: int, column: int, row: int, target: int) -> NDArray[np.int32]:
    """Labels (h,w) at the centres of a tile's pixels, at most 512 x 512."""
    height, width = result.shape[1:]
    side = TILE_PX << zoom
    top, left = row * side, column * side
    if not (0 <= top < height and 0 <= left < width):
        raise ValueError(f"there is no tile {column}, {row} at zoom {zoom}")
    if zoom == 0:
        planes = result.labels_in((top, left, min(side, height - top), min(side, width - left)))
        return np.asarray(planes[target])
    rows = np.arange(top + (1 << zoom) // 2, min(top + side, height), 1 << zoom)
    columns = np.arange(left + (1 << zoom) // 2, min(left + side, width), 1 << zoom)
    if not rows.size or not columns.size:
        return np.zeros((max(1, rows.size), max(1, columns.size)), np.int32)
    return np.asarray(result.contents.labels_at(rows, columns)[target])


def _colour_of(name: str, channel: int, channels: int) -> tuple[int, int, int]:
    """Colour of a channel: by its name, white if it is alone, else evenly around the colour wheel."""
    if channels == 1:
        return 255, 255, 255
    known = next((code for word, code in _COLOURS.items() if word in name.lower()), None)
    if known is not None:
        return int(known[:2], 16), int(known[2:4], 16), int(known[4:], 16)
    red, green, blue = colorsys.hsv_to_rgb((channel * 0.38 + 0.33) % 1, 0.8, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
