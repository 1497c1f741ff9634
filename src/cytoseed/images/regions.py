"""Regions of an opened image: the interface of every reader, and the checks in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import index as as_int
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.file_errors import ImageFileError, foreign_errors, name_of

Box = tuple[int, int, int, int]
"""Row and column of the first pixel, height, width (y, x, h, w)."""


class Regions(Protocol):
    """Access to any part of an image, open for many reads."""

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Read a region of one level; may be called from several threads.

        Parameters
        ----------
        box_yxhw : Box
            In px of the level; it must lie inside it.
        level : int, default 0
            Number of the resolution; 0 is the full one.
        channels : sequence of int, optional
            Numbers of the channels, in the order of the result; all by default.

        Returns
        -------
        ndarray, shape (C,h,w), of the image's `dtype`
            Values as stored, C-contiguous, writable.

        Raises
        ------
        ValueError
            A box outside the level, or a level or channel that does not exist.
        ImageFileError
            A `ValueError`: the file lacks the bytes, or they are damaged. Other regions can still be read.
        """
        ...


class Layout(NamedTuple):
    """Shape and type of an image's pixels."""

    shape: tuple[int, int, int]
    """Channels, height, width (C,H,W)."""
    dtype: np.dtype[Any]
    """Type of the pixels, in the machine's byte order."""
    level_shapes: tuple[tuple[int, int], ...]
    """Height and width of each resolution, full resolution first."""

    def require_same(self, path: Path, found: Layout) -> None:
        """Refuse a file that changed since it was opened."""
        if found != self:
            raise ImageFileError(
                f"{name_of(path)}: announced pixels of shape {self.shape} and type {self.dtype} when it was opened, "
                f"and holds {found.shape} and {found.dtype} now (levels {self.level_shapes}, now "
                f"{found.level_shapes}); it was changed meanwhile: open it again"
            )


class Checked:
    """A reader's regions behind the checks that all readers share."""

    def __init__(self, path: Path | None, layout: Layout, reader: Regions) -> None:
        self._path = path
        self._layout = layout
        self._reader: Regions | None = reader

    def close(self) -> None:
        """Refuse all further reads."""
        self._reader = None

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Read a region of one level; see `Regions.read`."""
        if self._reader is None:
            raise ValueError(f"{name_of(self._path)}: a region is read after `regions` ended; read it inside")
        chosen = self._channels(channels)
        box = self._box(box_yxhw, level)
        shape = (len(chosen), *box[2:])
        if 0 in shape:
            return np.empty(shape, self._layout.dtype)
        with foreign_errors(self._path):
            pixels = self._reader.read(box, level, chosen)
        if pixels.shape != shape or pixels.dtype != self._layout.dtype:
            raise ImageFileError(
                f"{name_of(self._path)}: should give pixels of shape {shape} and type {self._layout.dtype}, and "
                f"gives {pixels.shape} and {pixels.dtype}; it is damaged or was changed: open or export it again"
            )
        return np.require(pixels, requirements=["C", "W"])

    def _channels(self, channels: Sequence[int] | None) -> tuple[int, ...]:
        available = self._layout.shape[0]
        if channels is None:
            return tuple(range(available))
        chosen = tuple(as_int(channel) for channel in channels)
        if not chosen or not all(0 <= channel < available for channel in chosen):
            raise ValueError(f"channels is {chosen}; each must be from 0 to {available - 1}, and there must be one")
        return chosen

    def _box(self, box_yxhw: Box, level: int) -> Box:
        levels = self._layout.level_shapes
        if not 0 <= level < len(levels):
            raise ValueError(f"level is {level}; the image has {len(levels)}, from 0 to {len(levels) - 1}")
        top, left, height, width = box = tuple(as_int(side) for side in box_yxhw)
        rows, columns = levels[level]
        if min(box) < 0 or top + height > rows or left + width > columns:
            raise ValueError(
                f"box_yxhw is {box}; it must lie inside level {level}, which is {rows} x {columns} px (height x width)"
            )
        return top, left, height, width


def channel_runs(channels: Sequence[int]) -> Iterator[slice]:
    """Consecutive channels as slices, in order: each can be read at once."""
    first = 0
    for place in range(1, len(channels) + 1):
        if place == len(channels) or channels[place] != channels[place - 1] + 1:
            yield slice(channels[first], channels[place - 1] + 1)
            first = place


class InMemory:
    """Regions of pixels (C,H,W) in memory; they are not copied."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._pixels = pixels

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:  # noqa: ARG002
        """Copy a region; see `Regions.read`. There is one level."""
        top, left, height, width = box_yxhw
        part = self._pixels[:, top : top + height, left : left + width]
        return np.array(part) if channels is None else part[list(channels)]
