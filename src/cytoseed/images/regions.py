"""Regions of an open image: the interface of every reader, the checks that all readers share, and file errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import index as as_int
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoseed.paths import display

Box = tuple[int, int, int, int]
"""Row and column of the first pixel, height, width (y, x, h, w)."""
LARGEST_PIECE_BYTES = 1 << 30
"""Most bytes of a tile, strip or chunk, which can only be decoded as a whole."""
STACKS = {"z": "z planes", "t": "time points"}


class ImageFileError(ValueError):
    """A file that cannot be read as an image; the message names the file, the cause and the remedy."""


class CutFileError(ImageFileError):
    """A file that is truncated, or lacks a part."""


def cut_short(path: Path | None, what: str) -> CutFileError:
    """Error for a file that lacks a part; `what` describes the part in words."""
    return CutFileError(f"{name_of(path)}: is cut short or damaged ({what}); copy or export it again")


def name_of(path: Path | None) -> str:
    """Name of an image in messages."""
    return "image" if path is None else display(path)


@contextmanager
def foreign_errors(path: Path | None) -> Iterator[None]:
    """Turn any exception that a decoder raises on a damaged file into an `ImageFileError` that names the file.

    Memory errors, errors of the file system, and errors of a Python array (`path` is None) pass through.
    """
    try:
        yield
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # decoders raise RuntimeError, struct.error, KeyError, ... on damaged files
        if path is None or (isinstance(error, OSError) and _is_of_system(error, name_of(path))):
            raise
        raise ImageFileError(
            f"{name_of(path)}: cannot be read ({type(error).__name__}: {error}); "
            f"the file is damaged, cut short or of an unusual kind: copy or export it again"
        ) from error


def _is_of_system(error: OSError, name: str) -> bool:
    """Whether an error names its file or has a cause outside of it; others are a decoder's, on damaged files."""
    return error.errno not in (None, errno.EINVAL) or bool(error.filename) or name in str(error)


class Layout(NamedTuple):
    """Shape and type of an image's pixels."""

    shape: tuple[int, int, int]  # (C,H,W)
    dtype: np.dtype[Any]  # in the machine's byte order
    level_shapes: tuple[tuple[int, int], ...]  # height and width of each resolution, full resolution first

    def require_same(self, path: Path | None, found: Layout) -> None:
        """Refuse a file that changed since it was opened."""
        if found != self:
            then, now = (f"{one.shape}, {one.dtype}, levels {one.level_shapes}" for one in (self, found))
            raise ImageFileError(f"{name_of(path)}: was {then} when opened, now {now}; the file changed: open it again")


class Stack(NamedTuple):
    """Time points and z planes of an image, whose reader holds all of them as channels."""

    planes: NDArray[np.int64]
    """(T,Z,C): the reader's channel of each."""
    channel_names: tuple[str, ...]
    """Name of each channel."""


def flat_planes(axes: Sequence[str], sizes: Sequence[int]) -> NDArray[np.int64] | None:
    """Numbers (T,Z,C) of planes that a reader holds in the order of `axes`; None without several of time or depth.

    `axes` and `sizes` are those of the file without y and x; axes other than t and z together are the channels.
    """
    lower = [axis.lower() for axis in axes]
    if all(size == 1 for axis, size in zip(lower, sizes, strict=True) if axis in STACKS):
        return None
    numbers = np.arange(np.prod(sizes, dtype=np.int64)).reshape(sizes)
    order = [lower.index(axis) for axis in "tz" if axis in lower]
    others = [place for place in range(len(lower)) if place not in order]
    depth = dict(zip(lower, sizes, strict=True))
    return numbers.transpose([*order, *others]).reshape(depth.get("t", 1), depth.get("z", 1), -1)


class Reader(Protocol):
    """An open file or array."""

    layout: Layout

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        """Read a region like `Regions.read`; box, level and channels have been checked, and the box is not empty."""
        ...


class Regions:
    """Access to any part of an open image, for many reads: a reader, and the checks that all readers share."""

    def __init__(self, path: Path | None, reader: Reader) -> None:
        self._path, self._layout = path, reader.layout
        self._reader: Reader | None = reader

    def close(self) -> None:
        """Refuse all further reads."""
        self._reader = None

    def read(self, box_yxhw: Box | None = None, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        """Read a region (C,h,w) of one level: values as stored, C-contiguous, writable. May be called from any thread.

        `box_yxhw` is in px of the level, must lie inside it, and is the whole level by default; `channels` are numbers,
        in the order of the result, by default all. Raises `ValueError` for a box that is not inside, or a level or
        channel that does not exist; `ImageFileError` if bytes are missing or damaged. Other regions stay readable.
        """
        if self._reader is None:
            raise ValueError(f"{name_of(self._path)}: a region is read after `with regions()` ended; read it inside")
        count, dtype, levels = self._layout.shape[0], self._layout.dtype, self._layout.level_shapes
        chosen = tuple(range(count)) if channels is None else tuple(as_int(channel) for channel in channels)
        if not all(0 <= channel < count for channel in chosen) or (channels is not None and not chosen):
            raise ValueError(f"channels is {chosen}; give at least one, each from 0 to {count - 1}")
        if not 0 <= level < len(levels):
            raise ValueError(f"level is {level}; the image has {len(levels)}, counted from 0")
        rows, columns = levels[level]
        sides = (0, 0, rows, columns) if box_yxhw is None else box_yxhw
        top, left, height, width = box = tuple(as_int(side) for side in sides)
        if min(box) < 0 or top + height > rows or left + width > columns:
            raise ValueError(
                f"box_yxhw is {box}; it must lie inside level {level}, which is {rows} x {columns} px (height x width)"
            )
        if not height or not width:
            return np.empty((len(chosen), height, width), dtype)
        with foreign_errors(self._path):
            return self._reader.read((top, left, height, width), level, chosen)


class Slices:
    """Regions of arrays that can be sliced, one array per level; all axes but y and x together are the channels."""

    def __init__(self, arrays: Sequence[Any], axes: Sequence[str], channels: int | None = None) -> None:
        self._arrays, self._axes = arrays, axes
        shapes = [dict(zip(axes, map(int, array.shape), strict=True)) for array in arrays]
        levels = tuple((shape["y"], shape["x"]) for shape in shapes)
        dtype = np.dtype(arrays[0].dtype).newbyteorder("=")
        self._outer = {axis: size for axis, size in shapes[0].items() if axis not in "yx"}
        count = channels or int(np.prod(list(self._outer.values()), dtype=np.int64))
        self.layout = Layout((count, *levels[0]), dtype, levels)

    def opened(self) -> AbstractContextManager[Slices]:
        """A context that returns this object; there is nothing to close."""
        return nullcontext(self)

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        """Copy a region; neighbouring channels are read at once."""
        top, left, height, width = box_yxhw
        place: dict[str, int | slice] = dict.fromkeys(self._axes, 0)
        place |= {"y": slice(top, top + height), "x": slice(left, left + width)}
        if any(size > 1 for axis, size in self._outer.items() if axis != "c"):
            return self._read_planes(place, level, channels)
        kept = [axis for axis in self._axes if axis in ("c", "y", "x")]
        result = np.empty((len(channels), height, width), self.layout.dtype)
        first = 0
        for run in np.split(np.array(channels), np.flatnonzero(np.diff(channels) != 1) + 1):
            place["c"] = slice(int(run[0]), int(run[-1]) + 1)
            part = np.asarray(self._arrays[level][tuple(place[axis] for axis in self._axes)])
            result[first : first + len(run)] = part.transpose([kept.index(axis) for axis in "cyx" if axis in kept])
            first += len(run)
        return result

    def _read_planes(self, place: dict[str, int | slice], level: int, channels: Sequence[int]) -> NDArray[Any]:
        """Copy a region of planes along several axes, one by one."""
        planes = []
        for channel in channels:
            at = np.unravel_index(channel, tuple(self._outer.values()))
            place |= dict(zip(self._outer, map(int, at), strict=True))
            part = np.asarray(self._arrays[level][tuple(place[axis] for axis in self._axes)])
            planes.append(part if self._axes.index("y") < self._axes.index("x") else part.T)
        return np.stack(planes).astype(self.layout.dtype)


def paste(result: NDArray[Any], block: NDArray[Any], top: int, left: int) -> None:
    """Copy a block (rows, columns, samples) to a place in a larger array; parts outside of it are dropped."""
    rows = slice(max(top, 0), min(top + block.shape[0], result.shape[0]))
    columns = slice(max(left, 0), min(left + block.shape[1], result.shape[1]))
    result[rows, columns] = block[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
