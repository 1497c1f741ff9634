"""Where the tiles of a large image lie: what each owns, follows objects in, and looks at. Integers only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

Box = tuple[int, int, int, int]
"""Row and column of the first pixel, height, width (y, x, h, w)."""

GRAIN_PX = 64
"""Sides of cores and margins are multiples of this: of every network's stride, and of the cells in which the pixel
classifier thins the seeds of large objects (`core.pixels`), so that a tile computes what the whole image would."""


class Tile(NamedTuple):
    """One tile, in px of the image as the network sees it."""

    number: int
    """Its place among all tiles, row by row from 0."""
    core_yxhw: Box
    """What it owns: the cores of all tiles cover the image, each pixel once."""
    seen_yxhw: Box
    """Where its objects may lie: the core and a margin."""
    read_yxhw: Box
    """What the network looks at: everything that can change a field in `seen_yxhw`."""


class Grid(NamedTuple):
    """Tiles of equal cores over an image; those at the right and lower edge own what is left."""

    height: int
    """Of the image that the network sees, in px."""
    width: int
    """As `height`."""
    core_px: int
    """Side of a core, a multiple of `GRAIN_PX`."""
    margin_px: int
    """How far objects are followed beyond the core, a multiple of `GRAIN_PX`."""
    reach_px: int
    """How far a pixel of the image can change a field: the network's `REACH`, rounded up to its stride."""

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
        """Give a tile by its number, 0 to `tiles` - 1."""
        row, column = divmod(index, self.columns)
        top, left = row * self.core_px, column * self.core_px
        core = (top, left, min(self.core_px, self.height - top), min(self.core_px, self.width - left))
        return Tile(index, core, self._grown(core, self.margin_px), self._grown(core, self.margin_px + self.reach_px))

    def neighbours(self, index: int, margin_px: int) -> Iterator[int]:
        """Give the tiles, in order and without itself, whose objects can meet those of a tile.

        Parameters
        ----------
        index : int
        margin_px : int
            How far an object of any tile may reach beyond its core.
        """
        away = -(-2 * margin_px // self.core_px)
        row, column = divmod(index, self.columns)
        for other_row in range(max(0, row - away), min(self.rows, row + away + 1)):
            for other_column in range(max(0, column - away), min(self.columns, column + away + 1)):
                if (other_row, other_column) != (row, column):
                    yield other_row * self.columns + other_column

    def _grown(self, box_yxhw: Box, by_px: int) -> Box:
        """Widen a box to all sides, as far as the image goes."""
        top, left, height, width = box_yxhw
        first_row, first_column = max(0, top - by_px), max(0, left - by_px)
        last_row, last_column = min(self.height, top + height + by_px), min(self.width, left + width + by_px)
        return first_row, first_column, last_row - first_row, last_column - first_column
