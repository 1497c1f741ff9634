"""The objects of a large image in parts, each read when it is needed: labels and blocks made from them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Objects
from cytoseed.results.result import Block, Box

Part: TypeAlias = tuple[Objects, NDArray[np.int64]]
"""Objects, and the id (K,) of each."""

_HELD_BYTES = 256 << 20  # of objects that are kept for neighbouring regions
_PART_BYTES = 1 << 14  # what a part takes beside its arrays


class Parts:
    """Objects in parts of an image; those used last are held, so that neighbouring regions find them.

    Parameters
    ----------
    box_yxhw : ndarray, shape (N,4), int64
        A box in the image that holds all objects of each part: row, column, height, width, in px. Parts whose box has
        no size have none, and are not read.
    load : callable
        Reads a part, by its number. Called from one thread at a time.
    held_bytes : int
        How much of what was read is held, at most, beside the part read last.
    """

    def __init__(self, box_yxhw: NDArray[np.int64], load: Callable[[int], Part], held_bytes: int = _HELD_BYTES) -> None:
        self.box_yxhw = box_yxhw
        self._load = load
        self._free_bytes = held_bytes
        self._held: OrderedDict[int, Part] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.box_yxhw)

    def of(self, part: int) -> Part:
        """Give a part's objects and their ids."""
        with self._lock:
            if part in self._held:
                self._held.move_to_end(part)
                return self._held[part]
            found = self._load(part)
            self._held[part] = found
            self._free_bytes -= _size(found)
            while self._free_bytes < 0 and len(self._held) > 1:
                self._free_bytes += _size(self._held.popitem(last=False)[1])
            return found

    def filled(self) -> list[int]:
        """List the parts that have objects, in their order."""
        found: list[int] = np.flatnonzero(self.box_yxhw[:, 2:].all(axis=1)).tolist()
        return found

    def meeting(self, box_yxhw: Sequence[int]) -> list[int]:
        """List the parts that may have objects in a box of the image, in their order."""
        begin, end = self.box_yxhw[:, :2], self.box_yxhw[:, :2] + self.box_yxhw[:, 2:]
        top_left = np.array(box_yxhw[:2])
        meets = (begin < top_left + box_yxhw[2:]).all(axis=1) & (end > top_left).all(axis=1) & (begin < end).all(axis=1)
        found: list[int] = np.flatnonzero(meets).tolist()
        return found

    def labels_in(self, targets: int, box_yxhw: Sequence[int]) -> NDArray[np.int32]:
        """Give the labels (targets,h,w) of a box of the image; 0 is background."""
        labels = np.zeros((targets, *box_yxhw[2:]), np.int32)
        for part in self.meeting(box_yxhw):
            objects, ids = self.of(part)
            objects.paint(labels, box_yxhw, ids)
        return labels

    def labels_at(self, targets: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        """Give the labels at some rows and columns of the image, as for a reduced picture of it.

        Parameters
        ----------
        targets : int
            Number of label planes.
        rows, columns : ndarray, shapes (h,) and (w,), int64
            Pixels of the image, rising.

        Returns
        -------
        ndarray, shape (targets,h,w), int32
            0 is background.
        """
        labels = np.zeros((targets, len(rows), len(columns)), np.int32)
        for part in self.filled():
            _paint_at(labels, self.of(part), rows, columns)
        return labels


def block_of(part: Part, targets: Sequence[str]) -> Block:
    """Give a part as a `Block`, with the labels of the smallest crop that holds its objects.

    Parameters
    ----------
    part : objects and ids
    targets : sequence of str
        What each label plane shows; where there are two, the table says which of them each object is of.
    """
    objects, ids = part
    box = around(objects.box_yxhw)
    labels = np.zeros((len(targets), *box[2:]), np.int32)
    objects.paint(labels, box, ids)
    table = objects.table()
    if len(targets) > 1:
        table.insert(0, "target", [targets[target] for target in objects.target])
    table.insert(0, "id", ids.astype(np.int32))
    return Block(box[0], box[1], labels, table)


def around(boxes_yxhw: NDArray[np.int64]) -> Box:
    """Give the smallest box around boxes (N,4); one of no size where there are none."""
    if not len(boxes_yxhw):
        return 0, 0, 0, 0
    begin = boxes_yxhw[:, :2].min(axis=0)
    size = (boxes_yxhw[:, :2] + boxes_yxhw[:, 2:]).max(axis=0) - begin
    (top, left), (height, width) = begin.tolist(), size.tolist()
    return top, left, height, width


def _paint_at(labels: NDArray[np.int32], part: Part, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    """Write the ids of a part's objects where the chosen rows and columns meet them; pixels with an id keep it."""
    objects, ids = part
    box = objects.box_yxhw
    tops, bottoms = np.searchsorted(rows, box[:, 0]), np.searchsorted(rows, box[:, 0] + box[:, 2])
    lefts, rights = np.searchsorted(columns, box[:, 1]), np.searchsorted(columns, box[:, 1] + box[:, 3])
    for index in np.flatnonzero((tops < bottoms) & (lefts < rights)).tolist():
        here = slice(tops[index], bottoms[index]), slice(lefts[index], rights[index])
        y, x = rows[here[0]] - box[index, 0], columns[here[1]] - box[index, 1]
        own = labels[(objects.target[index], *here)]
        own[objects.mask(index)[y[:, None], x] & (own == 0)] = ids[index]


def _size(part: Part) -> int:
    objects, ids = part
    arrays = (objects.bits, objects.numbers, objects.box_yxhw, ids)
    return _PART_BYTES + sum(array.nbytes for array in arrays)
