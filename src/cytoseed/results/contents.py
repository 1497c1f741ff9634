"""The objects of a result: a label image in memory, or parts that are read from files when needed."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.blocks import Block, Part, block_of, join_parts
from cytoseed.results.objects import Box

if TYPE_CHECKING:
    import pandas as pd

_CACHE_BYTES = 256 << 20  # of parts that neighbouring regions need again
_PART_BYTES = 1 << 14  # of a part beside its arrays


class Contents(Protocol):
    """Where a result's objects come from. Ids are 1 or more."""

    @property
    def count(self) -> int:
        """Number of objects; a cell and its nucleus count once."""

    def blocks(self) -> Iterator[Block]:
        """All objects, in the order of their ids."""

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region, not to be changed."""

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels (T,h,w) at chosen rows (h,) and columns (w,), both rising."""


class LabelImage:
    """A label image (T,H,W) in memory; one block, whose table is measured on first use."""

    def __init__(self, planes: NDArray[np.int32], measure: Callable[[], pd.DataFrame]) -> None:
        self._planes = planes
        self._measure = measure

    @cached_property
    def count(self) -> int:
        """Number of distinct ids."""
        return int(np.count_nonzero(np.bincount(self._planes.ravel())[1:]))

    @cached_property
    def _table(self) -> pd.DataFrame:
        return self._measure()

    def blocks(self) -> Iterator[Block]:
        """Everything, in one block."""
        yield Block(0, 0, self._planes, self._table)

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region: a view."""
        top, left, height, width = box_yxhw
        return self._planes[:, top : top + height, left : left + width]

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels (T,h,w) at chosen rows and columns."""
        return self._planes[:, rows[:, None], columns]


class Parts:
    """Packed objects in parts of an image, read on demand; the parts used last stay in memory.

    Parameters
    ----------
    box_yxhw : ndarray, shape (N,4), int64
        Box around the objects of each part, in px of the image. A box of size 0 has none and is not read.
    load : callable
        Reads a part by its number; called from one thread at a time.
    targets : sequence of str
        Names of the label planes.
    count : int
        Number of objects; a cell and its nucleus count once.
    blocks_of_parts : sequence of range, optional
        Parts of each block; by default each part with objects is a block.
    columns : sequence of (name, dtype), optional
        Columns of the blocks' tables, where order or types differ from the packed ones.
    cache_bytes : int
        Memory for parts beside the one read last.
    """

    def __init__(
        self,
        box_yxhw: NDArray[np.int64],
        load: Callable[[int], Part],
        targets: Sequence[str],
        count: int,
        blocks_of_parts: Sequence[range] | None = None,
        columns: Sequence[tuple[str, str]] = (),
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self.count = count
        self._box_yxhw = box_yxhw
        self._load = load
        self._targets = tuple(targets)
        alone = [range(part, part + 1) for part in self._filled()]
        self._blocks = alone if blocks_of_parts is None else blocks_of_parts
        self._columns = dict(columns)
        self._free_bytes = cache_bytes
        self._cache: OrderedDict[int, Part] = OrderedDict()
        self._lock = threading.Lock()

    def blocks(self) -> Iterator[Block]:
        """The objects, some parts at a time."""
        for numbers in self._blocks:
            block = block_of(join_parts([self._part(number) for number in numbers]), self._targets)
            if self._columns:
                block = block._replace(table=block.table[list(self._columns)].astype(self._columns))
            yield block

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region."""
        labels = np.zeros((len(self._targets), *box_yxhw[2:]), np.int32)
        for number in self._meeting(box_yxhw):
            objects, ids = self._part(number)
            objects.paint(labels, box_yxhw, ids)
        return labels

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Labels (T,h,w) at chosen rows and columns."""
        labels = np.zeros((len(self._targets), len(rows), len(columns)), np.int32)
        for number in self._filled():
            objects, ids = self._part(number)
            objects.paint_at(labels, rows, columns, ids)
        return labels

    def _part(self, number: int) -> Part:
        with self._lock:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            found = self._load(number)
            self._cache[number] = found
            self._free_bytes -= _size(found)
            while self._free_bytes < 0 and len(self._cache) > 1:
                self._free_bytes += _size(self._cache.popitem(last=False)[1])
            return found

    def _filled(self) -> list[int]:
        found: list[int] = np.flatnonzero(self._box_yxhw[:, 2:].all(axis=1)).tolist()
        return found

    def _meeting(self, box_yxhw: Box) -> list[int]:
        """Parts that may have objects in a box."""
        begin, end = self._box_yxhw[:, :2], self._box_yxhw[:, :2] + self._box_yxhw[:, 2:]
        top_left = np.array(box_yxhw[:2])
        meets = (begin < top_left + box_yxhw[2:]).all(axis=1) & (end > top_left).all(axis=1) & (begin < end).all(axis=1)
        found: list[int] = np.flatnonzero(meets).tolist()
        return found


def _size(part: Part) -> int:
    objects, ids = part
    arrays = (objects.bits, objects.numbers, objects.box_yxhw, ids)
    return _PART_BYTES + sum(array.nbytes for array in arrays)
