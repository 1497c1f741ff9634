"""Positions of an image's tiles. Integers only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

Box = tuple[int, int, int, int]
"""Row and column of the first pixel, height, width (y, x, h, w)."""

GRAIN_PX = 64
"""Sides of cores and margins are multiples of this: of every network's stride, and of the cells in which the pixel
classifier thins the seeds of large objects (`core.pixels`), so that a tile computes what the whole image would."""


class Tile(NamedTuple):
    """One tile, in px of the image as the network receives it."""

    number: int  # row by row from 0
    core_yxhw: Box  # pixels that the tile owns: the cores of all tiles cover the image, each pixel once
    objects_yxhw: Box  # region in which its objects are followed: the core and a margin
    input_yxhw: Box  # region that the network receives: everything that can change a field in `objects_yxhw`


class Grid(NamedTuple):
    """Tiles of equal cores over an image; those at the right and lower edge may be smaller."""

    height: int  # height of the image as the network receives it, in px
    width: int
    core_px: int  # side of a core, a multiple of `GRAIN_PX`
    margin_px: int  # distance beyond the core in which objects are followed, a multiple of `GRAIN_PX`
    reach_px: int  # distance over which a pixel can change a field: the network's `REACH`, rounded up to its stride

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.core_px)

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.width // self.core_px)

    @property
    def tiles(self) -> int:
        """Number of tiles."""
        return self.rows * self.columns

    def tile(self, index: int) -> Tile:
        """Tile by its number, 0 to `tiles` - 1."""
        row, column = divmod(index, self.columns)
        top, left = row * self.core_px, column * self.core_px
        core = (top, left, min(self.core_px, self.height - top), min(self.core_px, self.width - left))
        return Tile(index, core, self._grow(core, self.margin_px), self._grow(core, self.margin_px + self.reach_px))

    def row(self, row: int) -> range:
        """Numbers of the tiles in a row."""
        return range(row * self.columns, (row + 1) * self.columns)

    def neighbours(self, index: int, margin_px: int) -> Iterator[int]:
        """Other tiles, in order, whose objects can meet those of a tile if they reach `margin_px` beyond their core."""
        away = -(-2 * margin_px // self.core_px)
        row, column = divmod(index, self.columns)
        for other_row in range(max(0, row - away), min(self.rows, row + away + 1)):
            near = self.row(other_row)[max(0, column - away) : column + away + 1]
            yield from (other for other in near if other != index)

    def batches(self, numbers: Sequence[int], size: int) -> list[list[Tile]]:
        """Tiles by their numbers, in batches of at most `size` consecutive tiles of equal input size."""
        batches: list[list[Tile]] = []
        for tile in map(self.tile, numbers):
            last = batches[-1] if batches else []
            if last and len(last) < size and last[0].input_yxhw[2:] == tile.input_yxhw[2:]:
                last.append(tile)
            else:
                batches.append([tile])
        return batches

    def _grow(self, box_yxhw: Box, by_px: int) -> Box:
        """Box widened on all sides, clipped to the image."""
        top, left, height, width = box_yxhw
        first_row, first_column = max(0, top - by_px), max(0, left - by_px)
        last_row, last_column = min(self.height, top + height + by_px), min(self.width, left + width + by_px)
        return first_row, first_column, last_row - first_row, last_column - first_column


def single_tile(height: int, width: int) -> Grid:
    """Grid whose one tile is the whole image."""
    side = -(-max(height, width) // GRAIN_PX) * GRAIN_PX
    return Grid(height, width, side, 0, 0)
