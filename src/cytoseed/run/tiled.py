"""The tiles of an image, one after the other, into a store; then one labelling of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Regions
from cytoseed.results.objects import Objects, join_objects
from cytoseed.results.store import StitchedObjects, Store
from cytoseed.run.crew import Crew
from cytoseed.run.memory import give_back
from cytoseed.run.part import WIDE_MARGIN_PX, Clock, Subject, measured_again
from cytoseed.run.stitch import Stitched, Trimmed, stitch
from cytoseed.run.tiles import Box, Grid, Tile


class Progress(NamedTuple):
    """How far a slide is."""

    done: int
    """Tiles that are done, or have failed."""
    total: int
    """Tiles to make."""
    objects: int
    """Objects found in this run; at borders some count twice."""
    input_px: int
    """Pixels of the image, at full resolution, done in this run."""
    seconds: float
    """Since the first tile of this run was begun."""


class Failure(NamedTuple):
    """A tile that could not be made."""

    box_yxhw: Box
    """Its core, in the image."""
    cause: str


def batches_of(grid: Grid, todo: Sequence[int], size: int) -> list[list[Tile]]:
    """Put tiles of one size that follow each other together, whichever of them are done: the same in every run.

    Parameters
    ----------
    grid : Grid
    todo : sequence of int
        Numbers of the tiles to make, rising.
    size : int
        Tiles that go through the network together, at most.
    """
    batches: list[list[Tile]] = []
    for tile in map(grid.tile, todo):
        last = batches[-1] if batches else []
        if last and len(last) < size and last[0].read_yxhw[2:] == tile.read_yxhw[2:]:
            last.append(tile)
        else:
            batches.append([tile])
    return batches


def make_missing(
    subject: Subject,
    regions: Regions,
    crew: Crew,
    store: Store,
    clock: Clock,
    watch: Callable[[Progress], object] | None = None,
) -> tuple[Failure, ...]:
    """Make the tiles that are to be done and are not in the store.

    Parameters
    ----------
    subject : Subject
    regions : Regions
        The image, open.
    crew : Crew
        Who makes them.
    store : Store
        A run was begun in it; each tile is written to it as soon as it is done.
    clock : Clock
    watch : callable, optional
        Called after every tile.

    Returns
    -------
    tuple of Failure
        What could not be made, twice; it is tried again by the next call.

    Raises
    ------
    OSError
        If the store cannot be written to.
    """
    todo, done = store.todo().tolist(), store.done()
    batches = [
        batch for batch in batches_of(subject.grid, todo, crew.batch) if any(tile.number not in done for tile in batch)
    ]
    failures: dict[int, Failure] = {}
    found, input_px, number = 0, 0, len(done)
    started = time.perf_counter()
    if batches:
        store.drop_kept()
    for made in crew.make(subject, regions, batches, clock):
        if made.tile.number in done:  # made again for the sake of the others in its batch, whose numbers it decides
            continue
        box = subject.plan.full_box(made.tile.core_yxhw)
        if made.objects is None:
            cause = " ".join(str(made.error).split()) or type(made.error).__name__
            failures[made.tile.number] = Failure(box, cause)
        else:
            with clock("store"):
                store.write(made.tile.number, made.objects)
            found += int(made.objects.is_owned.sum())
        give_back()
        number, input_px = number + 1, input_px + box[2] * box[3]
        if watch is not None:
            watch(Progress(number, len(todo), found, input_px, time.perf_counter() - started))
    return tuple(failures[tile] for tile in sorted(failures))  # in whatever order they came


def join_tiles(subject: Subject, regions: Regions, store: Store, clock: Clock) -> StitchedObjects:
    """Decide which objects of the tiles in a store are kept, number them, and keep that in the store.

    Raises
    ------
    ValueError
        If a tile's file is damaged.
    """
    grid, done = subject.grid, store.done()
    left_out: list[NDArray[np.int64]] = []

    def load(tile: int) -> Objects:
        objects = store.read(tile) if tile in done else _NOTHING
        left_out.append(objects.left_out_yxhw)
        return objects

    with clock("stitch"):
        found = stitch(grid, max(WIDE_MARGIN_PX, grid.margin_px), load, float(subject.plan.record["agreement_iou"]))
        changed = _changed(subject, regions, store, found.trimmed)
        kept = StitchedObjects(
            first=found.first,
            place=found.place,
            id=found.id,
            tile_box_yxhw=found.tile_box_yxhw,
            left_out_yxhw=_not_in(found.unowned_yxhw, np.concatenate(left_out)),
            changed_at=np.array([_number_of(found, trimmed) for trimmed in found.trimmed], np.int64),
            changed=join_objects(changed) if changed else _NOTHING,
        )
        store.write_kept(kept)
    return kept


_NOTHING = Objects(
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


def _changed(subject: Subject, regions: Regions, store: Store, trimmed: Sequence[Trimmed]) -> list[Objects]:
    """Measure the objects that lost pixels; those of one tile come one after the other."""
    changed = []
    for tile, of_tile in itertools.groupby(trimmed, key=lambda one: one.tile):
        objects = store.read(tile)
        for one in of_tile:
            was = objects.take([one.place])
            changed.append(measured_again(subject, regions, was, one))
    return changed


def _not_in(outer_yxhw: NDArray[np.int64], boxes_yxhw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Leave out the boxes that lie in one of others: such an object was followed to its end by another tile."""
    begin, end = outer_yxhw[:, :2], outer_yxhw[:, :2] + outer_yxhw[:, 2:]
    alone = [
        box for box in boxes_yxhw if not ((begin <= box[:2]).all(axis=1) & (end >= box[:2] + box[2:]).all(axis=1)).any()
    ]
    return np.array(alone, np.int64).reshape(-1, 4)


def _number_of(found: Stitched, trimmed: Trimmed) -> int:
    """Tell which of the kept objects one is."""
    first, last = found.first[trimmed.tile : trimmed.tile + 2].tolist()
    return int(first + np.flatnonzero(found.place[first:last] == trimmed.place)[0])
