"""The tiles of one image: processed into a store, then stitched."""

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
from cytoseed.run.executor import Executor
from cytoseed.run.memory import trim
from cytoseed.run.stitch import Stitched, Trimmed, stitch
from cytoseed.run.tile import WIDE_MARGIN_PX, Clock, SlideContext, measure_trimmed
from cytoseed.run.tiles import Box


class Progress(NamedTuple):
    """Progress of a run in tiles."""

    done: int
    """Tiles that are done or have failed."""
    total: int
    """Tiles to process."""
    objects: int
    """Objects found in this run; at borders some count twice."""
    input_px: int
    """Pixels of the image, at full resolution, processed in this run."""
    seconds: float
    """Since the first tile of this run."""


class Failure(NamedTuple):
    """A tile that could not be processed."""

    box_yxhw: Box
    """Its core, in the image."""
    cause: str


def process_missing(
    context: SlideContext,
    regions: Regions,
    executor: Executor,
    store: Store,
    clock: Clock,
    progress: Callable[[Progress], object],
) -> tuple[Failure, ...]:
    """Process the tiles that are not in the store yet; tiles that failed twice are returned."""
    grid, plan = context.plan.grid, context.plan
    todo, done = store.todo().tolist(), store.done()
    batches = grid.batches(todo, executor.batch)  # always of all tiles: companions decide the rounding
    batches = [batch for batch in batches if any(tile.number not in done for tile in batch)]
    failures: dict[int, Failure] = {}
    objects, input_px, number = 0, 0, len(done)
    started = time.perf_counter()
    if batches:
        store.drop_kept()
    for result in executor.run(context, regions, batches, clock):
        tile = result.tile
        if tile.number in done:  # processed again only as a companion in its batch
            continue
        box = plan.full_box(tile.core_yxhw)
        if result.objects is None:
            cause = " ".join(str(result.error).split()) or type(result.error).__name__
            failures[tile.number] = Failure(box, cause)
        else:
            with clock("store"):
                store.write(tile.number, result.objects)
            objects += int(result.objects.is_owned.sum())
        trim()
        number, input_px = number + 1, input_px + box[2] * box[3]
        progress(Progress(number, len(todo), objects, input_px, time.perf_counter() - started))
    return tuple(failures[tile] for tile in sorted(failures))


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
        changed = _measure_trimmed(context, regions, store, found.trimmed)
        kept = StitchedObjects(
            first=found.first,
            place=found.place,
            id=found.id,
            tile_box_yxhw=found.tile_box_yxhw,
            left_out_yxhw=_not_inside(np.concatenate(left_out), found.unowned_yxhw),
            changed_at=np.array([_index_of(found, trimmed) for trimmed in found.trimmed], np.int64),
            changed=join_objects(changed) if changed else _NO_OBJECTS,
        )
        store.write_kept(kept)
    return kept


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


def _measure_trimmed(
    context: SlideContext, regions: Regions, store: Store, trimmed: Sequence[Trimmed]
) -> list[Objects]:
    """Measure the objects that lost pixels; those of one tile come one after the other."""
    measured = []
    for tile, of_tile in itertools.groupby(trimmed, key=lambda one: one.tile):
        objects = store.read(tile)
        measured += [measure_trimmed(context, regions, objects.take([one.place]), one) for one in of_tile]
    return measured


def _not_inside(boxes_yxhw: NDArray[np.int64], outer_yxhw: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes that lie in none of the outer ones: an object inside was followed to its end by another tile."""
    begin, end = outer_yxhw[:, :2], outer_yxhw[:, :2] + outer_yxhw[:, 2:]
    alone = [
        box for box in boxes_yxhw if not ((begin <= box[:2]).all(axis=1) & (end >= box[:2] + box[2:]).all(axis=1)).any()
    ]
    return np.array(alone, np.int64).reshape(-1, 4)


def _index_of(found: Stitched, trimmed: Trimmed) -> int:
    """Index of a trimmed object among all that are kept."""
    first, last = found.first[trimmed.tile : trimmed.tile + 2].tolist()
    return int(first + np.flatnonzero(found.place[first:last] == trimmed.place)[0])
