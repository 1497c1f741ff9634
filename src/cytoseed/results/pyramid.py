"""A label image at several resolutions, all levels in one pass over a result.

Labels have no means, so a pixel of a lower level shows the label at its centre, of four pixels the lower right. Each
level is taken from full resolution: taken from the level before, objects would move by up to a pixel of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.view import ResultView

_READ_PX = 2048  # side of the regions in which a result is read
_SMALLEST_LARGE_PX = 1024  # an image no larger than this needs no lower level
_WHOLE = 1e-6  # ratios of pixel sizes this close to a whole number, relatively, are taken for that number


class Level(NamedTuple):
    """One resolution: the pixels of full resolution that it shows."""

    rows: NDArray[np.int64]  # (h,) row at full resolution of each of its rows; never decreasing
    columns: NDArray[np.int64]  # (w,) column at full resolution of each of its columns; never decreasing

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the level, in its px."""
        return len(self.rows), len(self.columns)


class Tile(NamedTuple):
    """A part of one level that has objects."""

    level: int  # 0 is the first of those given
    row: int  # number of the row of tiles
    column: int  # number of the column of tiles
    labels: NDArray[np.int32]  # (T,h,w) smaller than other tiles at the lower and right edge only; not to be changed


def halved(sides: tuple[int, int]) -> tuple[Level, ...]:
    """Levels of an image of height and width `sides`: level k has ceil(side / 2**k) px, the last 1024 px at most."""
    levels = []
    factor = 1
    while True:
        height, width = (-(-side // factor) for side in sides)
        levels.append(level_of(sides, (height, width), (factor, factor)))
        if max(height, width) <= _SMALLEST_LARGE_PX:
            return tuple(levels)
        factor *= 2


def level_of(sides: tuple[int, int], smaller: tuple[int, int], factors: tuple[float, float]) -> Level:
    """Level of height and width `smaller`, of an image of height and width `sides`.

    `factors` states how many px of the image one of the level is high and wide. Where it does not go with the sizes,
    their ratio is taken, or a whole number where rows or columns may have been left over. Pixels whose centre lies
    beyond the image show its edge.
    """
    rows, columns = (
        np.minimum(((np.arange(small) + 0.5) * _factor(large, small, stated)).astype(np.int64), large - 1)
        for large, small, stated in zip(sides, smaller, factors, strict=True)
    )
    return Level(rows, columns)


def _factor(large: int, small: int, stated: float) -> float:
    """Number of px of the image that one of the level is wide."""
    is_possible = stated > 0 and abs(large / stated - small) < 1
    factor = stated if is_possible else large / small
    whole = round(factor)
    if is_possible:
        return whole if abs(factor - whole) < _WHOLE * factor else factor
    return whole if whole and large // whole <= small <= -(-large // whole) else factor


def tiles_of(result: ResultView, levels: Sequence[Level], side_px: int) -> Iterator[Tile]:
    """Tiles of `side_px` px of all levels that have objects, in no order of use, in one pass over a result.

    Regions are read along a curve that stays close to itself (Z order), so that tiles of all levels are soon complete:
    only a few regions and tiles are held for an image of any size.
    """
    _, height, width = result.shape
    missing_px: dict[tuple[int, int, int], int] = {}
    begun: dict[tuple[int, int, int], NDArray[np.int32]] = {}  # those that have objects
    for row, column in _along_z(-(-height // _READ_PX), -(-width // _READ_PX)):
        top, left = row * _READ_PX, column * _READ_PX
        box = (top, left, min(_READ_PX, height - top), min(_READ_PX, width - left))
        labels = result.labels_in(box)
        is_empty = not labels.any()
        for number, level in enumerate(levels):
            spans = list(_spans(level.columns, left, box[3], side_px))
            for y in _spans(level.rows, top, box[2], side_px):
                for x in spans:
                    key = (number, y.tile, x.tile)
                    missing_px[key] = missing_px.get(key, y.tile_px * x.tile_px) - y.size * x.size
                    taken = None if is_empty else labels[:, y.source][:, :, x.source]
                    if taken is not None and taken.any():
                        tile = begun.setdefault(key, np.zeros((len(labels), y.tile_px, x.tile_px), np.int32))
                        tile[:, y.corner : y.corner + y.size, x.corner : x.corner + x.size] = taken
                    if not missing_px[key]:
                        del missing_px[key]
                        if key in begun:
                            yield Tile(*key, begun.pop(key))


class _Span(NamedTuple):
    """Overlap of a region and a tile along one axis."""

    tile: int  # number of the tile
    tile_px: int  # its size
    corner: int  # first pixel in the tile
    size: int  # number of pixels
    source: slice | NDArray[np.int64]  # their places in the region


def _spans(places: NDArray[np.int64], first: int, length: int, side_px: int) -> Iterator[_Span]:
    """Cut the places that lie in a region at the borders of tiles."""
    start, stop = np.searchsorted(places, (first, first + length)).tolist()
    while start < stop:
        number, corner = divmod(start, side_px)
        end = min(stop, (number + 1) * side_px)
        tile_px = min(side_px, len(places) - number * side_px)
        yield _Span(number, tile_px, corner, end - start, _as_slice(places[start:end] - first))
        start = end


def _as_slice(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """A slice where the places are evenly spaced, as numpy copies nothing for it."""
    steps = np.diff(places)
    step = int(steps[0]) if len(steps) else 1
    if step < 1 or (steps != step).any():
        return places
    return slice(int(places[0]), int(places[-1]) + 1, step)


def _along_z(rows: int, columns: int) -> list[tuple[int, ...]]:
    """Places of a grid in Z order: quarter by quarter, and each quarter likewise."""
    bits = range(max(rows, columns).bit_length(), -1, -1)
    return sorted(np.ndindex(rows, columns), key=lambda place: [[axis >> bit & 1 for axis in place] for bit in bits])
