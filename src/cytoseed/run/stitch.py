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

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Objects, around, join_objects, pack_masks
from cytoseed.results.store import StitchedObjects, Store
from cytoseed.run.tile import SlideContext, measure_crop
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


class ObjectMask(NamedTuple):
    """Pixels of one object of a tile."""

    tile: int
    place: int  # index among the tile's objects
    box_yxhw: Box  # in the image
    mask: NDArray[np.bool_]  # (h,w)


def stitch_tiles(context: SlideContext, store: Store) -> StitchedObjects:
    """Decide which objects of the tiles in a store are kept, number them, and store the decision."""
    grid, done = context.plan.grid, store.done()

    def load(tile: int) -> Objects:
        return store.read(tile) if tile in done else _NO_OBJECTS

    with context.clock("stitch"):
        margin_px, agreement_iou = context.plan.wide_margin_px, float(context.plan.record["agreement_iou"])
        kept, trimmed = stitch(grid, margin_px, load, agreement_iou)
        changed, changed_at = [], []
        for tile, group in groupby(trimmed, lambda own: own.tile):
            objects = store.read(tile)
            first, last = kept.first[tile : tile + 2].tolist()
            at = {place: first + index for index, place in enumerate(kept.place[first:last].tolist())}
            for own, nucleus in _to_measure(objects, list(group), at):
                changed.append(measure_trimmed(context, objects.take([own.place]), own, nucleus))
                changed_at.append(at[own.place])
        if changed:
            kept = kept._replace(changed_at=np.array(changed_at, np.int64), changed=join_objects(changed))
        store.write_kept(kept)
    return kept


def _to_measure(
    objects: Objects, trimmed: Sequence[ObjectMask], kept: Container[int]
) -> Iterator[tuple[ObjectMask, ObjectMask | None]]:
    """Objects of a tile to measure again, each with its nucleus: those that lost pixels, and cells whose nucleus did.

    `kept` are the places of the kept ones.
    """
    now, tile = {own.place: own for own in trimmed}, trimmed[0].tile
    cells = [int(objects.partner[place]) for place in now if objects.target[place] == 0]
    for place in sorted({*now, *(cell for cell in cells if cell in kept)}):
        nucleus = int(objects.partner[place]) if objects.target[place] > 0 else -1
        own, inner = (
            now.get(each) or _mask_of(objects, tile, each) if each >= 0 else None for each in (place, nucleus)
        )
        assert own is not None
        yield own, inner


def measure_trimmed(
    context: SlideContext, before: Objects, trimmed: ObjectMask, nucleus: ObjectMask | None = None
) -> Objects:
    """Measure an object that lost pixels, or whose nucleus did; `before` is the object alone, as it was."""
    box = trimmed.box_yxhw
    channels = (context.regions.read(box, 0, [channel])[0] for channel in range(context.image.shape[0]))
    tile, labels = context.plan.grid.tile(trimmed.tile), trimmed.mask.astype(np.int32)
    nuclei = None
    if len(context.plan.targets) > 1:
        nuclei = labels if before.target[0] == 0 else np.zeros_like(labels)
        if nucleus is not None:
            here, there = _shared(trimmed, nucleus)
            nuclei[here] = nucleus.mask[there]
    scores = before.numbers[:, np.flatnonzero(before.columns == "score")[0]]
    table = measure_crop(context, tile, labels, box[:2], channels, nuclei, scores)
    return replace(before, box_yxhw=np.array([box], np.int64), bits=pack_masks([trimmed.mask]), **table)


def _not_inside(boxes_yxhw: NDArray[np.int64], outer_yxhw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes that lie in none of the outer ones: an object inside was followed to its end by another tile."""
    begin, end = _corners(boxes_yxhw)
    outer_begin, outer_end = _corners(outer_yxhw)
    inside = np.asarray(((outer_begin <= begin[:, None]) & (outer_end >= end[:, None])).all(axis=2))
    return boxes_yxhw[~inside.any(axis=1)]


def stitch(
    grid: Grid, margin_px: int, load: Callable[[int], Objects], agreement_iou: float
) -> tuple[StitchedObjects, list[ObjectMask]]:
    """Decide, in one pass over the tiles, which objects are kept; the order in which tiles were made does not matter.

    Returns them, and those that lost pixels to others as they are now, tile after tile. Objects reach at most
    `margin_px` px of the grid beyond their core. `load` is called once per tile; a few rows of tiles are held at a
    time. Of two objects with at least `agreement_iou` the lower-ranked one is dropped; with less overlap it loses the
    shared pixels. A pair of nucleus and cell outranks a single object, then the higher score does, then the earlier
    one. Within a tile, cells are numbered first, then nuclei without a cell.
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
    return work.result()


class _Work:
    """The tiles in memory, and the decisions so far."""

    def __init__(self, agreement_iou: float) -> None:
        self._agreement_iou = agreement_iou
        self._objects: dict[int, Objects] = {}
        self._kept: dict[int, NDArray[np.bool_]] = {}
        self._changed: dict[tuple[int, int], ObjectMask] = {}
        self._unowned: list[NDArray[np.int64]] = []  # boxes of kept objects that no tile owns
        self._left_out: list[NDArray[np.int64]] = []
        self._boxes: list[Box] = []  # these three: of tiles that have left memory
        self._places: list[NDArray[np.int64]] = []
        self._ids: list[NDArray[np.int64]] = []

    def load(self, tile: int, objects: Objects) -> None:
        self._objects[tile] = objects
        self._kept[tile] = objects.is_owned.copy()
        self._left_out.append(objects.left_out_yxhw)

    def forget(self, tile: int) -> None:
        """Number the kept objects of the next tile, and free its memory."""
        objects, kept = self._objects.pop(tile), self._kept[tile]
        place, number = _numbered(objects, kept)
        self._places.append(place)
        self._ids.append(number)
        self._boxes.append(around(objects.box_yxhw[kept]))

    def settle_owned(self, earlier: int, later: int) -> None:
        """Resolve overlaps between the kept objects of two tiles."""
        for one, other in self._meeting(earlier, later, self._kept[later]):
            if not (self._kept[earlier][one] and self._kept[later][other]):
                continue
            winner, loser = self._object(earlier, one), self._object(later, other)
            common = _common(winner, loser)
            if not common:
                continue
            union = np.count_nonzero(winner.mask) + np.count_nonzero(loser.mask) - common
            if self._rank(winner) < self._rank(loser):
                winner, loser = loser, winner
            if common >= self._agreement_iou * union:
                self._kept[loser.tile][loser.place] = False
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
            own, stronger = self._object(tile, index), [self._object(*rival) for rival in of_index]
            if sum(_common(own, their) for their in stronger) >= _COVERED * np.count_nonzero(own.mask):
                continue
            self._kept[tile][index] = True
            self._unowned.append(self._objects[tile].box_yxhw[index])
            for their in stronger:
                self._trim(self._object(tile, index), their)

    def result(self) -> tuple[StitchedObjects, list[ObjectMask]]:
        counts = [len(of_tile) for of_tile in self._places]
        before = _sums([int(of_tile.max(initial=0)) for of_tile in self._ids])  # ids of earlier tiles
        kept = StitchedObjects(
            first=_sums(counts),
            place=np.concatenate(self._places),
            id=np.concatenate(self._ids) + np.repeat(before[:-1], counts),
            tile_box_yxhw=np.array(self._boxes, np.int64),
            left_out_yxhw=_not_inside(np.concatenate(self._left_out), np.array(self._unowned, np.int64).reshape(-1, 4)),
            changed_at=np.zeros(0, np.int64),
            changed=_NO_OBJECTS,
        )
        changed = sorted(self._changed.items(), key=lambda entry: entry[0])
        return kept, [own for (tile, place), own in changed if self._kept[tile][place]]

    def _meeting(self, earlier: int, later: int, chosen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
        """Pairs of a kept object of one tile and a chosen one of another, of one target, whose boxes meet.

        Cells come before nuclei, so that it is known whether a nucleus still has its cell.
        """
        one, other = self._objects[earlier], self._objects[later]
        if not len(one) or not chosen.any():
            return
        first, second = np.flatnonzero(self._kept[earlier]), np.flatnonzero(chosen)
        other_begin, other_end = _corners(other.box_yxhw[second])
        begin, end = _corners(one.box_yxhw[first])  # most objects of a tile are far from any neighbour
        near = ((begin < other_end.max(axis=0)) & (end > other_begin.min(axis=0))).all(axis=1)
        first, begin, end = first[near], begin[near], end[near]
        meets = (begin[:, None] < other_end).all(axis=2) & (other_begin < end[:, None]).all(axis=2)
        meets &= one.target[first][:, None] == other.target[second]
        pairs = np.argwhere(meets)
        order = np.argsort(-one.target[first[pairs[:, 0]]].astype(np.int64), kind="stable")
        for here, there in pairs[order].tolist():
            yield int(first[here]), int(second[there])

    def _rank(self, own: ObjectMask) -> tuple[bool, float]:
        """Rank of an object against an overlapping one: a pair beats a single object, then the higher score."""
        objects = self._objects[own.tile]
        partner = int(objects.partner[own.place])
        if partner < 0 or not self._kept[own.tile][partner]:
            return False, float(objects.score[own.place])
        cell = max(own.place, partner, key=lambda place: int(objects.target[place]))
        return True, float(objects.score[cell])

    def _object(self, tile: int, place: int) -> ObjectMask:
        """Object of a tile with the pixels that it has now."""
        if (tile, place) in self._changed:
            return self._changed[tile, place]
        return _mask_of(self._objects[tile], tile, place)

    def _trim(self, loser: ObjectMask, winner: ObjectMask) -> None:
        """Remove the winner's pixels from the loser; its largest remaining piece stays, or nothing."""
        from scipy.ndimage import find_objects, label

        if not _common(loser, winner):
            return
        here, there = _shared(loser, winner)
        left = loser.mask.copy()
        left[here] &= ~winner.mask[there]
        pieces, count = label(left)
        if not count:
            self._kept[loser.tile][loser.place] = False
            return
        largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
        y, x = find_objects(pieces)[largest - 1]
        box = (loser.box_yxhw[0] + y.start, loser.box_yxhw[1] + x.start, y.stop - y.start, x.stop - x.start)
        self._changed[loser.tile, loser.place] = loser._replace(box_yxhw=box, mask=pieces[y, x] == largest)


def _mask_of(objects: Objects, tile: int, place: int) -> ObjectMask:
    """Object of a tile as the tile found it."""
    top, left, height, width = objects.box_yxhw[place].tolist()
    return ObjectMask(tile, place, (top, left, height, width), objects.mask(place))


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


def _shared(one: ObjectMask, other: ObjectMask) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of each mask that lie in the other's box."""
    (y, x, height, width), (other_y, other_x, other_height, other_width) = one.box_yxhw, other.box_yxhw
    top, left = max(y, other_y), max(x, other_x)
    bottom = max(top, min(y + height, other_y + other_height))
    right = max(left, min(x + width, other_x + other_width))
    here = slice(top - y, bottom - y), slice(left - x, right - x)
    return here, (slice(top - other_y, bottom - other_y), slice(left - other_x, right - other_x))


def _common(one: ObjectMask, other: ObjectMask) -> int:
    """Number of pixels that two objects share."""
    here, there = _shared(one, other)
    return int(np.count_nonzero(one.mask[here] & other.mask[there]))
