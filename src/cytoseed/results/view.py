"""Read-only view of a result for writers: its metadata, and its objects block by block."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import PixelSize
from cytoseed.results.measure.table import measure_planes
from cytoseed.results.objects import Block, Box, Part, block_of, join_parts

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.images import Image

SINGULAR = {"nuclei": "nucleus", "cells": "cell"}

_CACHE_BYTES = 256 << 20  # size of the cache of parts, which neighbouring regions need again
_PART_BYTES = 1 << 14  # size of a part in addition to its arrays


def _no_image() -> Image:
    raise FileNotFoundError("this result does not know its image")


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ResultView:
    """Metadata and objects of a result, read block by block, for images of any size."""

    contents: LabelImage | Parts  # where the objects come from
    shape: tuple[int, int, int]  # (C,H,W) of the image at full resolution, in px
    targets: tuple[str, ...]  # names of the T label planes, `nuclei` or `cells`, in order
    channel_names: tuple[str, ...]  # name of each of the C channels
    pixel_size_um: PixelSize  # side of a pixel in µm; height and width if it is not square; None if it is unknown
    source: str  # path of the image's file, or `array`
    settings: Mapping[str, Any]  # model and options that made the objects, in values that JSON can hold
    find_input: Callable[[], Mapping[str, Any]]  # returns `input`; called on first use
    find_stains: Callable[[], tuple[str, ...]]  # returns `stains`; called on first use
    thumbnail: Callable[[int], tuple[NDArray[Any], float]]
    """Takes a largest side in px; returns the image (C,h,w), shrunk if necessary, and image px per px of it."""
    find_image: Callable[[], Image] = _no_image  # opens the image; raises what `overview` does
    failed: tuple[str, ...] = ()  # parts of the image that could not be segmented, described in one line each
    version: str = field(default_factory=lambda: metadata.version("cytoseed"))  # cytoseed's
    was_in_memory: bool = False  # the image was segmented in memory, not tile by tile
    has_scores: bool = False  # the table has a column `score`
    path: Path | None = None  # file of a stored result, from which the objects are read; None for others

    @cached_property
    def input(self) -> Mapping[str, Any]:
        """Identity of the image, in values that JSON can hold: its `name`, `shape`, `dtype` and a digest."""
        return self.find_input()

    @cached_property
    def stains(self) -> tuple[str, ...]:
        """Stains in `cytoseed.settings.STAINS` whose optical density is measured; only in brightfield images."""
        return self.find_stains()

    @cached_property
    def fingerprint(self) -> str:
        """A string that is the same for the same image name and settings; ids of objects are derived from it."""
        name = Path(self.source).name.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8
        series = self.input.get("series")
        return f"{name}/{'' if series is None else f'{series}/'}{canonical_json(self.settings)}"

    @property
    def stem(self) -> str:
        """Beginning of the names of its files."""
        return stem_of(self.source, self.input.get("series"))

    @property
    def record(self) -> Record:
        """Everything that determines the result."""
        return Record.of(self.input, self.settings, self.version)

    @property
    def count(self) -> int:
        """Number of objects; a cell and its nucleus count once."""
        return self.contents.count

    def blocks(self) -> Iterator[Block]:
        """All objects in the order of their ids, a group at a time: their labels, and their rows of the table."""
        return self.contents.blocks()

    @property
    def empty_table(self) -> pd.DataFrame:
        """Table without rows, with the columns that objects of this result would have."""
        import pandas as pd

        if stored := self.contents.columns:
            return pd.DataFrame({name: np.zeros(0, kind) for name, kind in stored.items()})
        pixels = np.zeros((len(self.channel_names), 0, 0), np.uint8)
        planes = np.zeros((len(self.targets), 0, 0), np.int32)
        scores = np.zeros((len(planes), 1)) if self.has_scores else None
        return measure_planes(planes, pixels, self.targets, self.channel_names, self.pixel_size_um, self.stains, scores)

    def tables(self) -> Iterator[pd.DataFrame]:
        """Tables of all blocks; if there are no blocks, one table without rows."""
        has_blocks = False
        for block in self.blocks():
            has_blocks = True
            yield block.table
        if not has_blocks:
            yield self.empty_table

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the table; those of a stored result are those of the version that made it."""
        return tuple(map(str, next(self.tables()).columns))

    def measured(self, names: Sequence[str]) -> list[NDArray[np.float64]]:
        """Columns of the table: measurements of all objects of the last target."""
        parts: list[list[NDArray[np.float64]]] = [[] for _ in names]
        for table in self.tables():
            own = table[table["target"] == self.targets[-1]] if len(self.targets) > 1 else table
            for part, name in zip(parts, names, strict=True):
                part.append(own[name].to_numpy(np.float64))
        return [np.concatenate(part) for part in parts]

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) int32 of a box (row, column, height, width) inside the image, in px; must not be modified."""
        top, left, height, width = box_yxhw
        sides = self.shape[1:]
        if min(box_yxhw) < 0 or top + height > sides[0] or left + width > sides[1]:
            raise ValueError(f"box_yxhw is {box_yxhw}; it must lie inside the image of {sides[0]} x {sides[1]} px")
        return self.contents.labels_in(box_yxhw)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Image (C,h,w) and labels (T,h,w) at a size of at most `largest_px` per side.

        Pixels of a smaller image are means over areas; labels are those at their centres. Raises FileNotFoundError
        if the image of a stored result is not found, ValueError if it is a different image.
        """
        if largest_px < 1:
            raise ValueError(f"largest_px is {largest_px}; it must be 1 or more")
        pixels, step = self.thumbnail(largest_px)
        rows, columns = (
            ((np.arange(small) + 0.5) * step).astype(np.int64).clip(max=side - 1)
            for small, side in zip(pixels.shape[1:], self.shape[1:], strict=True)
        )
        return pixels, self.contents.labels_at(rows, columns)


# Metadata


@dataclass(frozen=True)
class Record:
    """Everything that determines a result: the same record means the same files."""

    version: str  # version of cytoseed
    input: Mapping[str, Any]  # the image, as in `Result.input`
    settings: Mapping[str, Any]  # settings of the segmentation, with the model's name and version

    @classmethod
    def of(cls, described: Mapping[str, Any], settings: Mapping[str, Any], version: str | None = None) -> Record:
        """Record of `Result.input` and `Result.settings`, by default of this version of cytoseed."""
        return cls(version or metadata.version("cytoseed"), described, json.loads(canonical_json(settings)))

    def to_json(self, files: Sequence[str], pending: Sequence[str] = (), failed: Sequence[str] = ()) -> str:
        """Content of the file: the record, the names of existing files and of files being replaced, failed parts."""
        values = {"version": self.version, "input": self.input, "settings": self.settings, "files": list(files)}
        values |= {key: list(lines) for key, lines in (("pending", pending), ("failed_tiles", failed)) if lines}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def stem_of(source: str | os.PathLike[str], series: str | None = None) -> str:
    """Name that the result files of a source begin with: its name without the ending, or without `.ome.tif`.

    That of one of several images in a file is followed by its own.
    """
    stem = Path(source).stem
    stem = stem.removesuffix(".ome") or stem
    return stem if series is None else f"{stem}_{series}"


def input_of(pixels: NDArray[Any], source: str) -> Mapping[str, Any]:
    """Identity of an image (C,H,W) in memory: its `name`, `shape`, `dtype`, and the `sha256` of its pixels."""
    return {
        "name": Path(source).name,
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "sha256": hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
    }


def canonical_json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON with sorted keys; raises TypeError for values that JSON cannot hold."""
    try:
        return json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"settings hold a value that JSON cannot hold ({error}); allowed are strings, finite numbers, true, false, "
            f"None, and lists and mappings of these"
        ) from error


# Contents


class LabelImage:
    """A label image (T,H,W) in memory; one block, whose table is measured on first use."""

    columns: Mapping[str, str] = MappingProxyType({})

    def __init__(self, planes: NDArray[np.int32], measure: Callable[[], pd.DataFrame]) -> None:
        self._planes = planes
        self._measure = measure

    @cached_property
    def count(self) -> int:
        """Number of distinct ids."""
        if self._planes.max(initial=0) > self._planes.size:
            return len(np.unique(self._planes[self._planes > 0]))
        return int(np.count_nonzero(np.bincount(self._planes.ravel())[1:]))

    @cached_property
    def _table(self) -> pd.DataFrame:
        return self._measure()

    def blocks(self) -> Iterator[Block]:
        """Everything, in one block."""
        yield Block(0, 0, self._planes, self._table)

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region: a view, which must not be modified."""
        top, left, height, width = box_yxhw
        return self._planes[:, top : top + height, left : left + width]

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels (T,h,w) at chosen rows (h,) and columns (w,), both ascending."""
        return self._planes[:, rows[:, None], columns]


class Parts:
    """Packed objects in parts of an image, read on demand; the most recently used parts stay in memory.

    `box_yxhw` (N,4) is the box around each part's objects; its size is 0 for a part without objects, which is not read.
    `load` reads a part, called by one thread at a time. `blocks_of_parts` are the parts of each block, by default
    one each; `columns` are names and dtypes of the blocks' tables, where they differ from the packed ones.
    """

    def __init__(
        self,
        box_yxhw: NDArray[np.int64],
        load: Callable[[int], Part],
        targets: Sequence[str],
        count: int,
        blocks_of_parts: Sequence[Sequence[int]] | None = None,
        columns: Sequence[tuple[str, str]] = (),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.count, self._box_yxhw, self._load, self._targets = count, box_yxhw, load, tuple(targets)
        self._filled: list[int] = np.flatnonzero(box_yxhw[:, 2:].all(axis=1)).tolist()
        self._blocks = [[part] for part in self._filled] if blocks_of_parts is None else blocks_of_parts
        self.columns: Mapping[str, str] = dict(columns)
        self._free_bytes = cache_bytes
        self._cache: OrderedDict[int, Part] = OrderedDict()
        self._lock = threading.Lock()

    def blocks(self) -> Iterator[Block]:
        """The objects, some parts at a time."""
        for numbers in self._blocks:
            block = block_of(join_parts([self._part(number) for number in numbers]), self._targets)
            if self.columns:
                block = block._replace(table=block.table[list(self.columns)].astype(dict(self.columns)))
            yield block

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region."""
        labels = np.zeros((len(self._targets), *box_yxhw[2:]), np.int32)
        begin, size = self._box_yxhw[:, :2] - box_yxhw[:2], self._box_yxhw[:, 2:]
        meets = (begin < box_yxhw[2:]) & (begin + size > 0) & (size > 0)
        for number in np.flatnonzero(meets.all(axis=1)).tolist():
            objects, ids = self._part(number)
            objects.paint(labels, box_yxhw, ids)
        return labels

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels (T,h,w) at chosen rows (h,) and columns (w,), both ascending."""
        labels = np.zeros((len(self._targets), len(rows), len(columns)), np.int32)
        for number in self._filled:
            top, left, height, width = box = self._box_yxhw[number].tolist()
            y = slice(*np.searchsorted(rows, (top, top + height)))
            x = slice(*np.searchsorted(columns, (left, left + width)))
            own = labels[:, y, x]
            if not own.size:
                continue
            objects, ids = self._part(number)
            whole = np.zeros((len(labels), height, width), np.int32)
            objects.paint(whole, box, ids)
            np.copyto(own, whole[:, rows[y, None] - top, columns[x] - left], where=own == 0)
        return labels

    def _part(self, number: int) -> Part:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            found = self._load(number)
            self._cache[number] = found
            self._free_bytes -= _size_bytes(found)
            while self._free_bytes < 0 and len(self._cache) > 1:
                self._free_bytes += _size_bytes(self._cache.popitem(last=False)[1])
            return found


def _size_bytes(part: Part) -> int:
    objects, ids = part
    return _PART_BYTES + sum(array.nbytes for array in (objects.bits, objects.numbers, objects.box_yxhw, ids))
