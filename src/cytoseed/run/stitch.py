"""Objects of tiles to one labelling without seams: which are kept, and what overlaps. Arrays only.

An object is owned by the tile whose core holds its highest seed, and that tile saw all of it; a nucleus by the tile
that owns its cell. Where the network's rounding moves a seed over a border, two tiles may own an object, or none:
duplicates are found by their IoU (the paper's section 2.7), and an object that its owner did not find is taken from the
tile that did. Nuclei and cells are resolved each among themselves, but so that pairs survive together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Objects
from cytoseed.run.tiles import Grid

_COVERED = 0.5  # of an object that nobody owns: when others have so much of it, it has been found


class Trimmed(NamedTuple):
    """An object that gave up pixels to another."""

    tile: int
    place: int
    """Which of the tile's objects it is, from 0."""
    box_yxhw: tuple[int, int, int, int]
    """Of what is left, in the image."""
    mask: NDArray[np.bool_]
    """(h,w) What is left: one piece."""


class Stitched(NamedTuple):
    """Which objects of the tiles are the result's."""

    first: NDArray[np.int64]
    """(tiles + 1,) Tile t's objects are those from first[t] to first[t + 1] - 1 of the K that are kept."""
    place: NDArray[np.int64]
    """(K,) Place of each among its tile's objects; tile after tile, and in each by target and id."""
    id: NDArray[np.int64]
    """(K,) Id of each: 1 and so on without gaps, rising from tile to tile. A nucleus has its cell's where both are
    kept; of a tile, cells come first, then nuclei without a cell, each in their order."""
    tile_box_yxhw: NDArray[np.int64]
    """(tiles,4) A box in the image that holds all of a tile's kept objects; of no size where there are none."""
    unowned_yxhw: NDArray[np.int64]
    """(N,4) Boxes of those objects of the result that no tile owns."""
    trimmed: tuple[Trimmed, ...]
    """Those of the result that lost pixels, tile after tile."""


def stitch(grid: Grid, margin_px: int, load: Callable[[int], Objects], agreement_iou: float) -> Stitched:
    """Decide, in one pass over the tiles in their order, which objects are kept.

    Parameters
    ----------
    grid : Grid
        The tiles.
    margin_px : int
        How far an object of any tile may reach beyond its core, in px of the grid.
    load : callable
        Gives the objects of a tile, by number. Called once for each; a few rows of tiles are held at a time.
    agreement_iou : float
        Of two objects with at least this IoU, 0 to 1, the one with the lower score is dropped; of equal ones the
        later one. With less overlap, that one loses the shared pixels. One with a partner goes before one without,
        and for a nucleus with a cell the cell's score decides.

    Returns
    -------
    Stitched
        The same whatever the order in which the tiles were made.
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
    """An object's pixels: where they begin, and which they are."""

    top: int
    left: int
    mask: NDArray[np.bool_]


class _Work:
    """The tiles at hand, and what has been decided."""

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
        """Resolve what the kept objects of two tiles have in common."""
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
        """Keep the objects of a tile that nobody owns, where nobody else's cover them."""
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
        """Pairs of kept objects of one tile and chosen ones of another whose boxes meet, of the same target.

        Cells come before nuclei, so that it is known of these whether they have still got one.
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
        """Tell how much an object counts against another: whether it is one of a pair, then how well that was seen."""
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
        """Take from an object what another has; what is left is its largest piece, or nothing."""
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
    """The kept objects of a tile."""

    place: NDArray[np.int64]
    """(K,) Which of the tile's objects each is, by target and id."""
    id: NDArray[np.int64]
    """(K,) From 1 without gaps; a nucleus has its cell's."""


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
    """Sum of what comes before each number, and of all."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(numbers, dtype=np.int64)])


def _corners(box_yxhw: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return box_yxhw[:, :2], box_yxhw[:, :2] + box_yxhw[:, 2:]


def _near(boxes_yxhw: NDArray[np.int64], others_yxhw: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which boxes meet the one around all the others: most objects of a tile are far from any neighbour."""
    begin, end = _corners(boxes_yxhw)
    other_begin, other_end = _corners(others_yxhw)
    near: NDArray[np.bool_] = (begin < other_end.max(axis=0)).all(axis=1) & (end > other_begin.min(axis=0)).all(axis=1)
    return near


def _shared(one: _Pixels, other: _Pixels) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Give the part of each mask that lies in the other's box."""
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = max(top, min(one.top + one.mask.shape[0], other.top + other.mask.shape[0]))
    right = max(left, min(one.left + one.mask.shape[1], other.left + other.mask.shape[1]))
    here = slice(top - one.top, bottom - one.top), slice(left - one.left, right - one.left)
    there = slice(top - other.top, bottom - other.top), slice(left - other.left, right - other.left)
    return here, there


def _common(one: _Pixels, other: _Pixels) -> int:
    """How many pixels two objects share."""
    here, there = _shared(one, other)
    return int(np.count_nonzero(one.mask[here] & other.mask[there]))
