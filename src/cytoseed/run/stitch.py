"""Stitching: which objects of the tiles belong to the result, without seams or duplicates.

An object is owned by the tile whose core holds its highest seed, and that tile sees all of it; a nucleus by the owner
of its cell. Rounding in the network can move a seed over a border, so that two tiles own an object, or none does:
duplicates are found by their IoU (section 2.7 of the paper), and an object that its owner missed is taken from the tile
that found it. Nuclei and cells are resolved separately, but pairs survive together. Two tiles in a row:

    tile 0 core | tile 1 core      1: owned by tile 0 alone: kept
     (1)    (2) |  (3)             2: crosses the border, highest seed in tile 0: kept from tile 0; tile 1 has it
              (22)                    too, but does not own it and finds it covered: dropped
                |                  3: owned by tile 1 alone: kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Regions
from cytoseed.results.objects import Objects, join_objects, pack_masks
from cytoseed.results.store import StitchedObjects, Store
from cytoseed.run.tile import WIDE_MARGIN_PX, Clock, SlideContext, measure_crop
from cytoseed.run.tiles import Box, Grid

_COVERED = 0.5  # an unowned object is a duplicate if others cover this share of it


_NO_OBJECTS = Objects(
    target=np.zeros(0, np.uint8),
    box_yxhw=np.zeros((0, 4), np.int64),
    bits=np.zeros(0, np.uint8),
    score=np.zeros(0, np.float32),
    is_owned=np.zeros(0, bool),
    numbers=np.zeros((0, 0)),
    columns=np.zeros(0, np.str_),
    is_count=np.zeros(0, bool),
    left_out_yxhw=np.zeros((0, 4), np.int64),
)


def stitch_tiles(context: SlideContext, regions: Regions, store: Store, clock: Clock) -> StitchedObjects:
    """Decide which objects of the tiles in a store are kept, number them, and store the decision."""
    grid, done = context.plan.grid, store.done()
    left_out: list[NDArray[np.int64]] = []

    def load(tile: int) -> Objects:
        objects = store.read(tile) if tile in done else _NO_OBJECTS
        left_out.append(objects.left_out_yxhw)
        return objects

    with clock("stitch"):
        agreement_iou = float(context.plan.record["agreement_iou"])
        found = stitch(grid, max(WIDE_MARGIN_PX, grid.margin_px), load, agreement_iou)
        changed, changed_at, last_read = [], [], (-1, _NO_OBJECTS)
        for trimmed in found.trimmed:  # those of one tile come one after the other
            if trimmed.tile != last_read[0]:
                last_read = trimmed.tile, store.read(trimmed.tile)
            changed.append(measure_trimmed(context, regions, last_read[1].take([trimmed.place]), trimmed))
            first, last = found.first[trimmed.tile : trimmed.tile + 2].tolist()
            changed_at.append(first + int(np.flatnonzero(found.place[first:last] == trimmed.place)[0]))
        kept = StitchedObjects(
            first=found.first,
            place=found.place,
            id=found.id,
            tile_box_yxhw=found.tile_box_yxhw,
            left_out_yxhw=_not_inside(np.concatenate(left_out), found.unowned_yxhw),
            changed_at=np.array(changed_at, np.int64),
            changed=join_objects(changed) if changed else _NO_OBJECTS,
        )
        store.write_kept(kept)
    return kept


def measure_trimmed(context: SlideContext, regions: Regions, before: Objects, trimmed: Trimmed) -> Objects:
    """Measure an object that lost pixels to another; `before` is the object alone, as it was."""
    box = trimmed.box_yxhw
    channels = (regions.read(box, 0, [channel])[0] for channel in range(context.image.shape[0]))
    tile, labels = context.plan.grid.tile(trimmed.tile), trimmed.mask.astype(np.int32)
    table = measure_crop(context, tile, labels, box[:2], channels)
    return replace(before, box_yxhw=np.array([box], np.int64), bits=pack_masks([trimmed.mask]), **table)


def _not_inside(boxes_yxhw: NDArray[np.int64], outer_yxhw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes that lie in none of the outer ones: an object inside was followed to its end by another tile."""
    begin, end = outer_yxhw[:, :2], outer_yxhw[:, :2] + outer_yxhw[:, 2:]
    alone = [
        box for box in boxes_yxhw if not ((begin <= box[:2]).all(axis=1) & (end >= box[:2] + box[2:]).all(axis=1)).any()
    ]
    return np.array(alone, np.int64).reshape(-1, 4)


class Trimmed(NamedTuple):
    """An object that lost pixels to another."""

    tile: int
    place: int  # index among the tile's objects
    box_yxhw: Box  # of the remaining pixels, in the image
    mask: NDArray[np.bool_]  # (h,w) remaining pixels: one piece


class Stitched(NamedTuple):
    """Objects of the tiles that belong to the result."""

    first: NDArray[np.int64]  # these four: as in `StitchedObjects`
    place: NDArray[np.int64]
    id: NDArray[np.int64]  # within a tile, cells come first, then nuclei without a cell
    tile_box_yxhw: NDArray[np.int64]
    unowned_yxhw: NDArray[np.int64]  # (N,4) boxes of kept objects that no tile owns
    trimmed: tuple[Trimmed, ...]  # kept objects that lost pixels, tile after tile


def stitch(grid: Grid, margin_px: int, load: Callable[[int], Objects], agreement_iou: float) -> Stitched:
    """Decide, in one pass over the tiles, which objects are kept; the order in which tiles were made does not matter.

    Objects reach at most `margin_px` px of the grid beyond their core. `load` is called once per tile; a few rows of
    tiles are held at a time. Of two objects with at least `agreement_iou` the lower-ranked one is dropped; with less
    overlap it loses the shared pixels. A pair of nucleus and cell outranks a single object, then the higher score
    does, then the earlier one.
    """
    work = _Work(agreement_iou)
    away = -(-2 * margin_px // grid.core_px)
    for row in range(grid.rows + 2 * away):
        if row < grid.rows:
            for index in grid.row(row):
                work.load(index, load(index))
                for other in grid.neighbours(index, margin_px):
                    if other < index:
                        work.settle_owned(other, index)
        if away <= row < grid.rows + away:
            for index in grid.row(row - away):
                work.settle_unowned(index, [*grid.neighbours(index, margin_px), index])
        if row >= 2 * away:
            for index in grid.row(row - 2 * away):
                work.forget(index)
    return work.result(grid.tiles)


class _Pixels(NamedTuple):
    """An object's mask and the position of its first pixel."""

    top: int
    left: int
    mask: NDArray[np.bool_]


class _Work:
    """The tiles in memory, and the decisions so far."""

    def __init__(self, agreement_iou: float) -> None:
        self._agreement_iou = agreement_iou
        self._objects: dict[int, Objects] = {}
        self._kept: dict[int, NDArray[np.bool_]] = {}
        self._changed: dict[tuple[int, int], _Pixels] = {}
        self._unowned: list[NDArray[np.int64]] = []
        self._boxes: dict[int, NDArray[np.int64]] = {}
        self._numbered: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def load(self, tile: int, objects: Objects) -> None:
        self._objects[tile] = objects
        self._kept[tile] = objects.is_owned.copy()

    def forget(self, tile: int) -> None:
        objects, kept = self._objects.pop(tile), self._kept[tile]
        self._numbered[tile] = _numbered(objects, kept)
        begin, end = _corners(objects.box_yxhw[kept])
        if len(begin):
            self._boxes[tile] = np.concatenate([begin.min(axis=0), end.max(axis=0) - begin.min(axis=0)])

    def settle_owned(self, earlier: int, later: int) -> None:
        """Resolve overlaps between the kept objects of two tiles."""
        for one, other in self._meeting(earlier, later, self._kept[later]):
            if not (self._kept[earlier][one] and self._kept[later][other]):
                continue
            first, second = self._pixels(earlier, one), self._pixels(later, other)
            common = _common(first, second)
            if not common:
                continue
            union = np.count_nonzero(first.mask) + np.count_nonzero(second.mask) - common
            loser, winner = (later, other), (earlier, one)
            if self._rank(*winner) < self._rank(*loser):
                loser, winner = winner, loser
            if common >= self._agreement_iou * union:
                self._kept[loser[0]][loser[1]] = False
            else:
                self._trim(loser, winner)

    def settle_unowned(self, tile: int, others: list[int]) -> None:
        """Keep those objects of a tile that no tile owns and no kept object covers."""
        unowned = ~self._objects[tile].is_owned
        rivals: dict[int, list[tuple[int, int]]] = {index: [] for index in np.flatnonzero(unowned).tolist()}
        for other in others:
            for rival, index in self._meeting(other, tile, unowned):
                rivals[index].append((other, rival))
        for index, of_index in rivals.items():
            own = self._pixels(tile, index)
            shared = sum(_common(own, self._pixels(*their)) for their in of_index)
            if shared >= _COVERED * np.count_nonzero(own.mask):
                continue
            self._kept[tile][index] = True
            self._unowned.append(self._objects[tile].box_yxhw[index])
            for stronger in of_index:
                self._trim((tile, index), stronger)

    def result(self, tiles: int) -> Stitched:
        places, ids = zip(*(self._numbered[tile] for tile in range(tiles)), strict=True)
        counts = [len(of_tile) for of_tile in places]
        before = _sums([int(of_tile.max(initial=0)) for of_tile in ids])  # ids of earlier tiles
        trimmed = [
            Trimmed(tile, index, (own.top, own.left, own.mask.shape[0], own.mask.shape[1]), own.mask)
            for (tile, index), own in sorted(self._changed.items(), key=lambda entry: entry[0])
            if self._kept[tile][index]
        ]
        return Stitched(
            _sums(counts),
            np.concatenate(places),
            np.concatenate(ids) + np.repeat(before[:-1], counts),
            np.array([self._boxes.get(tile, np.zeros(4, np.int64)) for tile in range(tiles)]),
            np.array(self._unowned, np.int64).reshape(-1, 4),
            tuple(trimmed),
        )

    def _meeting(self, earlier: int, later: int, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Pairs of a kept object of one tile and a chosen one of another, of one target, whose boxes meet.

        Cells come before nuclei, so that it is known whether a nucleus still has its cell.
        """
        one, other = self._objects[earlier], self._objects[later]
        if not len(one) or not chosen.any():
            return
        first, second = np.flatnonzero(self._kept[earlier]), np.flatnonzero(chosen)
        near = _near(one.box_yxhw[first], other.box_yxhw[second])
        first = first[near]
        begin, end = _corners(one.box_yxhw[first])
        other_begin, other_end = _corners(other.box_yxhw[second])
        meets = (begin[:, None] < other_end).all(axis=2) & (other_begin < end[:, None]).all(axis=2)
        meets &= one.target[first][:, None] == other.target[second]
        pairs = np.argwhere(meets)
        order = np.argsort(-one.target[first[pairs[:, 0]]].astype(np.int64), kind="stable")
        for here, there in pairs[order].tolist():
            yield int(first[here]), int(second[there])

    def _rank(self, tile: int, index: int) -> tuple[bool, float]:
        """Rank of an object against an overlapping one: a pair beats a single object, then the higher score."""
        objects = self._objects[tile]
        partner = int(objects.partner[index])
        if partner < 0 or not self._kept[tile][partner]:
            return False, float(objects.score[index])
        cell = max(index, partner, key=lambda place: int(objects.target[place]))
        return True, float(objects.score[cell])

    def _pixels(self, tile: int, index: int) -> _Pixels:
        if (tile, index) not in self._changed:
            objects = self._objects[tile]
            top, left = objects.box_yxhw[index, :2].tolist()
            return _Pixels(top, left, objects.mask(index))
        return self._changed[tile, index]

    def _trim(self, loser: tuple[int, int], winner: tuple[int, int]) -> None:
        """Remove the winner's pixels from the loser; its largest remaining piece stays, or nothing."""
        from scipy.ndimage import find_objects, label

        own, other = self._pixels(*loser), self._pixels(*winner)
        if not _common(own, other):
            return
        here, there = _shared(own, other)
        left = own.mask.copy()
        left[here] &= ~other.mask[there]
        pieces, count = label(left)
        if not count:
            self._kept[loser[0]][loser[1]] = False
            return
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        box = find_objects(pieces)[largest - 1]
        mask = pieces[box] == largest
        self._changed[loser] = _Pixels(own.top + box[0].start, own.left + box[1].start, mask)


def _numbered(objects: Objects, kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of a tile's kept objects, by target and id, and their ids from 1; a nucleus has its cell's."""
    target = objects.target.astype(np.int64)
    partner = objects.partner
    follows = kept & (partner >= 0) & kept[partner] & (target < target[partner])  # a nucleus its cell
    own = np.flatnonzero(kept & ~follows)
    own = own[np.argsort(-target[own], kind="stable")]
    number = np.zeros(len(objects), np.int64)
    number[own] = np.arange(1, len(own) + 1)
    number[follows] = number[partner[follows]]
    place = np.flatnonzero(kept)
    place = place[np.lexsort((number[place], target[place]))]
    return place, number[place]


def _sums(numbers: list[int]) -> NDArray[np.int64]:
    """Cumulative sums, from 0 to the total."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers, dtype=np.int64)])


def _corners(box_yxhw: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return box_yxhw[:, :2], box_yxhw[:, :2] + box_yxhw[:, 2:]


def _near(boxes_yxhw: NDArray[np.int64], others_yxhw: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which boxes meet the box around all the others: most objects of a tile are far from any neighbour."""
    begin, end = _corners(boxes_yxhw)
    other_begin, other_end = _corners(others_yxhw)
    near: NDArray[np.bool_] = (begin < other_end.max(axis=0)).all(axis=1) & (end > other_begin.min(axis=0)).all(axis=1)
    return near


def _shared(one: _Pixels, other: _Pixels) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of each mask that lie in the other's box."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = max(top, min(one.top + one.mask.shape[0], other.top + other.mask.shape[0]))
    right = max(left, min(one.left + one.mask.shape[1], other.left + other.mask.shape[1]))
    here = slice(top - one.top, bottom - one.top), slice(left - one.left, right - one.left)
    there = slice(top - other.top, bottom - other.top), slice(left - other.left, right - other.left)
    return here, there


def _common(one: _Pixels, other: _Pixels) -> int:
    """Number of pixels that two objects share."""
    here, there = _shared(one, other)
    return int(np.count_nonzero(one.mask[here] & other.mask[there]))
