"""Stitching: which objects of the tiles belong to the result, without seams or duplicates. Arrays only.

An object is owned by the tile whose core holds its highest seed, and that tile sees all of it; a nucleus by the owner
of its cell. Rounding in the network can move a seed over a border, so that two tiles own an object, or none does:
duplicates are found by their IoU (section 2.7 of the paper), and an object that its owner missed is taken from the tile
that found it. Nuclei and cells are resolved separately, but so that pairs survive together. Two tiles in a row:

    tile 0 core | tile 1 core      1: owned by tile 0 alone: kept
     (1)    (2) |  (3)             2: crosses the border, highest seed in tile 0: kept from tile 0; tile 1 has it
              (22)                    too, but does not own it and finds it covered: dropped
                |                  3: owned by tile 1 alone: kept
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Objects
from cytoseed.run.tiles import Grid

_COVERED = 0.5  # an object without owner of which others cover this share has been found already


class Trimmed(NamedTuple):
    """An object that lost pixels to another."""

    tile: int
    place: int
    """Index among the tile's objects."""
    box_yxhw: tuple[int, int, int, int]
    """Box of the remaining pixels, in the image."""
    mask: NDArray[np.bool_]
    """(h,w) Remaining pixels: one piece."""


class Stitched(NamedTuple):
    """Objects of the tiles that belong to the result."""

    first: NDArray[np.int64]
    """(tiles + 1,) Tile t's objects are those from first[t] to first[t + 1] - 1 of the K that are kept."""
    place: NDArray[np.int64]
    """(K,) Index of each among its tile's objects; tile after tile, and in each by target and id."""
    id: NDArray[np.int64]
    """(K,) Ids 1..K, rising from tile to tile. A nucleus has its cell's id where both are kept; within a tile, cells
    come first, then nuclei without a cell."""
    tile_box_yxhw: NDArray[np.int64]
    """(tiles,4) Box in the image around a tile's kept objects; of no size where it has none."""
    unowned_yxhw: NDArray[np.int64]
    """(N,4) Boxes of kept objects that no tile owns."""
    trimmed: tuple[Trimmed, ...]
    """Kept objects that lost pixels, tile after tile."""


def stitch(grid: Grid, margin_px: int, load: Callable[[int], Objects], agreement_iou: float) -> Stitched:
    """Decide, in one pass over the tiles, which objects are kept; the order in which tiles were made does not matter.

    Parameters
    ----------
    grid : Grid
    margin_px : int
        Distance that an object of any tile may reach beyond its core, in px of the grid.
    load : callable
        Returns the objects of a tile, by number. Called once per tile; a few rows of tiles are held at a time.
    agreement_iou : float
        Of two objects with at least this IoU, 0 to 1, the lower-ranked one is dropped; with less overlap it loses the
        shared pixels. A pair of nucleus and cell outranks a single object, then the higher score does, then the
        earlier one.
    """
    work = _Work(agreement_iou)
    away = -(-2 * margin_px // grid.core_px)
    for row in range(grid.rows + 2 * away):
        if row < grid.rows:
            for index in _row(grid, row):
                work.load(index, load(index))
                for other in grid.neighbours(index, margin_px):
                    if other < index:
                        work.settle_owned(other, index)
        if away <= row < grid.rows + away:
            for index in _row(grid, row - away):
                work.settle_unowned(index, [*grid.neighbours(index, margin_px), index])
        if row >= 2 * away:
            for index in _row(grid, row - 2 * away):
                work.forget(index)
    return work.result(grid.tiles)


def _row(grid: Grid, row: int) -> range:
    return range(row * grid.columns, (row + 1) * grid.columns)


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
        self._numbered: dict[int, _Numbered] = {}

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
            ours, theirs = (earlier, one), (later, other)
            loser, winner = (theirs, ours) if self._rank(*ours) >= self._rank(*theirs) else (ours, theirs)
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
        numbered = [self._numbered[tile] for tile in range(tiles)]
        counts = [len(of_tile.place) for of_tile in numbered]
        before = _sums([int(of_tile.id.max(initial=0)) for of_tile in numbered])  # ids of earlier tiles
        trimmed = [
            Trimmed(tile, index, (own.top, own.left, own.mask.shape[0], own.mask.shape[1]), own.mask)
            for (tile, index), own in sorted(self._changed.items(), key=lambda entry: entry[0])
            if self._kept[tile][index]
        ]
        return Stitched(
            _sums(counts),
            np.concatenate([of_tile.place for of_tile in numbered]),
            np.concatenate([of_tile.id for of_tile in numbered]) + np.repeat(before[:-1], counts),
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


class _Numbered(NamedTuple):
    """The kept objects of a tile, numbered."""

    place: NDArray[np.int64]
    """(K,) Index among the tile's objects, by target and id."""
    id: NDArray[np.int64]
    """(K,) Ids from 1; a nucleus has its cell's."""


def _numbered(objects: Objects, kept: NDArray[np.bool_]) -> _Numbered:
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
    return _Numbered(place, number[place])


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
