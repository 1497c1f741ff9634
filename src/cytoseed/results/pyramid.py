"""A label image at several resolutions: which pixel stands for others, and all levels in one pass over a result.

Labels have no means, so a pixel of a lower resolution is one of those that it covers: the one at its centre, and of the
four around the centre of an even number the lower right. So every level shows an object at the same place, to half a
pixel of full resolution, in viewers that lay the levels over each other and in those that read translations alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cytoseed.results.view import ResultView

_READ_PX = 2048  # side of the regions in which a result is read
_SMALLEST_LARGE_PX = 1024  # an image no larger than this needs no lower resolution
_WHOLE = 1e-6  # ratios of pixel sizes this close to a whole number, relatively, are meant to be it


class Level(NamedTuple):
    """One resolution: which pixels of the full one it consists of."""

    rows: NDArray[np.int64]
    """(h,) Row, at full resolution, that each of its rows shows; never falling."""
    columns: NDArray[np.int64]
    """(w,) Column, at full resolution, that each of its columns shows; never falling."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the level, in its px."""
        return len(self.rows), len(self.columns)


class Tile(NamedTuple):
    """A part of one level, in which there is some object."""

    level: int
    """Number of the level; 0 is the first of those given."""
    row: int
    """Number of its row of tiles."""
    column: int
    """Its number in that row."""
    labels: NDArray[np.int32]
    """(T,h,w) Ids, 0 where there is no object; smaller than other tiles at the lower and right edge only. Not to be
    changed."""


def halved(sides: tuple[int, int]) -> tuple[Level, ...]:
    """Give the levels of an image of its own: each half as large as the one before, the last of at most 1024 px a side.

    Parameters
    ----------
    sides : tuple of int
        Height and width of the image, in px.

    Returns
    -------
    tuple of Level
        The full resolution first. Sides are rounded up: level k has ceil(side / 2**k) px.
    """
    levels = []
    factor = 1
    while True:
        smaller = [-(-side // factor) for side in sides]
        levels.append(level_of(sides, (smaller[0], smaller[1]), (factor, factor)))
        if max(smaller) <= _SMALLEST_LARGE_PX:
            return tuple(levels)
        factor *= 2


def level_of(sides: tuple[int, int], smaller: tuple[int, int], factors: Sequence[float] | None = None) -> Level:
    """Give the level of a certain size.

    Parameters
    ----------
    sides, smaller : tuple of int
        Height and width of the image and of the level, in px.
    factors : sequence of float, optional
        How many px of the image one of the level is high and wide, as stated. Where they do not go with the sizes, or
        none are given, the ratio of the sizes is taken: a whole number where some rows or columns may have been left
        over.

    Returns
    -------
    Level
        Its pixels at their centres; those of which the centre lies beyond the image, at its edge.
    """
    rows, columns = (
        _centres(large, small, _factor(large, small, None if factors is None else factors[axis]))
        for axis, (large, small) in enumerate(zip(sides, smaller, strict=True))
    )
    return Level(rows, columns)


def tiles_of(result: ResultView, levels: Sequence[Level], side_px: int) -> Iterator[Tile]:
    """Cut the labels into tiles at every level, going once over the result.

    Regions are read along a curve that stays close to itself (Z order), so that tiles of all levels are soon complete:
    at any time a few regions and tiles are held, whatever the size of the image.

    Parameters
    ----------
    result : ResultView
        What to cut.
    levels : sequence of Level
        The resolutions.
    side_px : int
        Height and width of a tile, in px of its level.

    Yields
    ------
    Tile
        In no order of use. Tiles without any object are left out.
    """
    _, height, width = result.shape
    begun: dict[tuple[int, int, int], _Begun] = {}
    for row, column in _along_z(-(-height // _READ_PX), -(-width // _READ_PX)):
        top, left = row * _READ_PX, column * _READ_PX
        box = (top, left, min(_READ_PX, height - top), min(_READ_PX, width - left))
        labels = result.labels_in(box)
        is_empty = not labels.any()
        for number, level in enumerate(levels):
            for piece in _pieces(level, box, side_px):
                taken = None if is_empty else labels[:, piece.from_rows][:, :, piece.from_columns]
                key = (number, piece.row, piece.column)
                if key not in begun and piece.size == piece.tile:  # all of it at once, as most are at level 0
                    if taken is not None and taken.any():
                        yield Tile(*key, taken)
                    continue
                tile = begun.setdefault(key, _Begun(piece.tile[0] * piece.tile[1]))
                tile.add(piece, taken)
                if not tile.missing_px:
                    del begun[key]
                    if tile.labels is not None:
                        yield Tile(*key, tile.labels)


class _Piece(NamedTuple):
    """What one region gives to one tile."""

    row: int
    column: int
    tile: tuple[int, int]
    """Height and width of the tile."""
    corner: tuple[int, int]
    """Row and column of the piece's first pixel in the tile."""
    size: tuple[int, int]
    """Its height and width."""
    from_rows: slice | NDArray[np.int64]
    """Where its rows are in the region."""
    from_columns: slice | NDArray[np.int64]


@dataclass
class _Begun:
    """A tile of which some pieces are still to come."""

    missing_px: int
    labels: NDArray[np.int32] | None = None
    """(T,h,w) None as long as there is no object in it."""

    def add(self, piece: _Piece, labels: NDArray[np.int32] | None) -> None:
        """Put a piece into its place; None is one without objects."""
        self.missing_px -= piece.size[0] * piece.size[1]
        if labels is None or not labels.any():
            return
        if self.labels is None:
            self.labels = np.zeros((len(labels), *piece.tile), np.int32)
        (y, x), (height, width) = piece.corner, piece.size
        self.labels[:, y : y + height, x : x + width] = labels


class _Span(NamedTuple):
    """What a region gives to a tile along one axis."""

    number: int
    tile: int
    corner: int
    size: int
    source: slice | NDArray[np.int64]


def _pieces(level: Level, box_yxhw: tuple[int, int, int, int], side_px: int) -> Iterator[_Piece]:
    """List what a region gives to the tiles of a level."""
    top, left, height, width = box_yxhw
    columns = list(_spans(level.columns, left, width, side_px))
    for y in _spans(level.rows, top, height, side_px):
        for x in columns:
            yield _Piece(
                row=y.number,
                column=x.number,
                tile=(y.tile, x.tile),
                corner=(y.corner, x.corner),
                size=(y.size, x.size),
                from_rows=y.source,
                from_columns=x.source,
            )


def _spans(places: NDArray[np.int64], first: int, length: int, side_px: int) -> Iterator[_Span]:
    """Cut those places that lie in a region at the borders of tiles."""
    start, stop = np.searchsorted(places, (first, first + length)).tolist()
    while start < stop:
        number, corner = divmod(start, side_px)
        end = min(stop, (number + 1) * side_px)
        tile = min(side_px, len(places) - number * side_px)
        yield _Span(number, tile, corner, end - start, _evenly(places[start:end] - first))
        start = end


def _evenly(places: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Give a slice where the places are evenly apart: numpy copies nothing for it."""
    steps = np.diff(places)
    step = int(steps[0]) if len(steps) else 1
    if step < 1 or (steps != step).any():
        return places
    return slice(int(places[0]), int(places[-1]) + 1, step)


def _along_z(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Go over a grid quarter by quarter, and each of them likewise."""

    def within(row: int, column: int, side: int) -> Iterator[tuple[int, int]]:
        if row >= rows or column >= columns:
            return
        if side == 1:
            yield row, column
            return
        half = side // 2
        for y in (row, row + half):
            for x in (column, column + half):
                yield from within(y, x, half)

    return within(0, 0, 1 << (max(rows, columns) - 1).bit_length())


def _factor(large: int, small: int, stated: float | None) -> float:
    """Decide how many px of the image one of the level is wide."""
    if stated is not None and stated > 0 and abs(large / stated - small) < 1:
        whole = round(stated)
        return whole if abs(stated - whole) < _WHOLE * stated else stated
    ratio = large / small
    whole = round(ratio)
    return whole if whole and large // whole <= small <= -(-large // whole) else ratio


def _centres(large: int, small: int, factor: float) -> NDArray[np.int64]:
    """Find the pixels at the centres of larger ones."""
    found: NDArray[np.int64] = np.minimum(((np.arange(small) + 0.5) * factor).astype(np.int64), large - 1)
    return found
