"""Blocks of a result: a crop of the label image with its table, to packed objects and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.runs import Runs, find_runs, portions
from cytoseed.results.objects import Objects, around, join_objects, numbers_of

if TYPE_CHECKING:
    import pandas as pd

Part: TypeAlias = tuple[Objects, NDArray[np.int64]]
"""Objects, and the id (K,) of each."""

_PART_PX = 1 << 25  # of the boxes of one part's objects: a byte each while they are packed
_OBJECT_PX = 1 << 12  # counts on top for each object, so that a part has 8192 of them at most


class Block(NamedTuple):
    """Some of a result's objects, of consecutive ids; each is whole and in exactly one block.

    A cell and the nucleus of its id are in the same block.
    """

    top: int
    """Row of the crop's first pixel in the image."""
    left: int
    """Column of the crop's first pixel in the image."""
    labels: NDArray[np.int32]
    """Labels (T,h,w) of the crop, one plane per target: ids of this block's objects, else 0, also where objects of
    other blocks lie."""
    table: pd.DataFrame
    """Measurements, one row per object: see `cytoseed.results.measure.table`."""


def block_of(part: Part, targets: Sequence[str]) -> Block:
    """Block of packed objects, in the smallest crop around them; of two targets, the table names each object's."""
    objects, ids = part
    box = around(objects.box_yxhw)
    labels = np.zeros((len(targets), *box[2:]), np.int32)
    objects.paint(labels, box, ids)
    table = objects.table()
    if len(targets) > 1:
        table.insert(0, "target", [targets[target] for target in objects.target])
    table.insert(0, "id", ids.astype(np.int32))
    return Block(box[0], box[1], labels, table)


def join_parts(parts: Sequence[Part]) -> Part:
    """Parts, at least one, as one."""
    if len(parts) == 1:
        return parts[0]
    return join_objects([objects for objects, _ in parts]), np.concatenate([ids for _, ids in parts])


def pack_block(block: Block, targets: Sequence[str]) -> Iterator[Part]:
    """Pack the objects of a block, in parts of bounded size; at least one part, which may have no objects.

    Objects are in the order of the table's rows, of which there is one per object of each target. Scores are unknown:
    NaN.

    Raises
    ------
    ValueError
        If a row's object is not in the labels.
    """
    table = block.table
    ids = table["id"].to_numpy(np.int64)
    single = len(targets) == 1
    target = np.zeros(len(ids), np.uint8)
    if not single:
        target[:] = [targets.index(name) for name in table["target"]]
        table = table.drop(columns="target")
    found = _found(block.labels, ids, target)
    measured = numbers_of(table)
    offset = np.array([block.top, block.left, 0, 0])
    sizes = found.box_yxhw[:, 2] * found.box_yxhw[:, 3] + _OBJECT_PX
    for rows in list(portions(sizes, _PART_PX)) or [slice(0, 0)]:
        own = found.take(rows)
        count = len(own.begins)
        yield (
            Objects(
                target=target[rows],
                box_yxhw=own.box_yxhw + offset,
                bits=_bits(own),
                score=np.full(count, np.nan, np.float32),
                is_owned=np.ones(count, np.bool_),
                left_out_yxhw=np.zeros((0, 4), np.int64),
                **{**measured, "numbers": measured["numbers"][rows]},
            ),
            ids[rows],
        )


class _Found(NamedTuple):
    """K objects of one or several label planes, as runs."""

    box_yxhw: NDArray[np.int64]  # (K,4) in the crop
    begins: NDArray[np.int64]  # (K,) first run of each
    number: NDArray[np.int64]  # (K,) number of runs of each
    row: NDArray[np.int64]  # (R,)
    first: NDArray[np.int64]  # (R,)
    last: NDArray[np.int64]  # (R,)

    def take(self, chosen: slice | NDArray[np.int64]) -> _Found:
        """Some of the objects; the runs stay."""
        return self._replace(box_yxhw=self.box_yxhw[chosen], begins=self.begins[chosen], number=self.number[chosen])


def _found(planes: NDArray[np.int32], ids: NDArray[np.int64], target: NDArray[np.uint8]) -> _Found:
    """Find the objects with these ids and targets, in this order."""
    whose = np.zeros(len(ids), np.int64)
    each: list[_Found] = []
    for index, plane in enumerate(planes):
        runs = find_runs(plane)
        rows = np.flatnonzero(target == index)
        place = np.searchsorted(runs.ids, ids[rows])
        known = np.append(runs.ids, 0)  # ids beyond the largest
        if (known[place] != ids[rows]).any():
            lost = ids[rows][known[place] != ids[rows]]
            raise ValueError(f"the table has object {lost[0]}, which is not in the labels; they must belong together")
        whose[rows] = place + sum(len(found.begins) for found in each)
        each.append(_from_runs(runs, sum(len(found.row) for found in each)))
    return _Found(*map(np.concatenate, zip(*each, strict=True))).take(whose)


def _from_runs(runs: Runs, before: int) -> _Found:
    """Objects of a plane with their boxes; `before` runs of other planes come first."""
    begins, stops = runs.begins, np.append(runs.begins, len(runs.row))[1:]
    top, left = runs.row[begins], np.minimum.reduceat(runs.first, begins)
    height = runs.row[stops - 1] - top + 1
    width = np.maximum.reduceat(runs.last, begins) - left + 1
    box = np.stack([top, left, height, width], axis=1)
    return _Found(box, begins + before, stops - begins, runs.row, runs.first, runs.last)


def _bits(found: _Found) -> NDArray[np.uint8]:
    """Masks of the objects packed to bits as in `Objects.bits`."""
    top, left, height, width = found.box_yxhw.T
    sizes = -(-height * width // 8) * 8  # whole bytes
    begin = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(begin)), found.number)
    runs = np.arange(len(owner)) + np.repeat(found.begins - (np.cumsum(found.number) - found.number), found.number)
    start = begin[owner] + (found.row[runs] - top[owner]) * width[owner] + found.first[runs] - left[owner]
    end = start + found.last[runs] - found.first[runs] + 1
    steps = np.zeros(int(sizes.sum()) + 1, np.int8)
    steps[start] += 1  # no two runs begin, and none end, at the same pixel
    steps[end] -= 1
    return np.packbits(np.cumsum(steps, dtype=np.int8)[:-1].view(np.bool_))
