"""Reading, network and post-processing of tiles, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import torch

from cytoseed.run.tile import TileInput, TileProcessor, TileResult
from cytoseed.run.tiles import Tile


class _Batch(NamedTuple):
    """Tiles on their way through the stages: input and fields of each, or its error."""

    tiles: Sequence[Tile]
    inputs: dict[int, TileInput]
    views: dict[int, torch.Tensor]
    errors: dict[int, Exception]


def run_tiles(processor: TileProcessor, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
    """Process batches of tiles of equal input size, in order; results come batch by batch.

    Reading and post-processing have a thread of one core each, the network runs in the caller's: stages that all use
    every core wait for each other actively, and take twice as long. At most three batches are in memory, one for
    each stage. A tile that fails is tried once more, alone.
    """
    cores = torch.get_num_threads()
    reader, finisher = (ThreadPoolExecutor(1, name, torch.set_num_threads, (1,)) for name in ("read", "objects"))
    waiting = iter(batches)
    reads = deque(reader.submit(_read, processor, batch) for batch in islice(waiting, 1))
    finishing: deque[Future[list[TileResult]]] = deque()
    try:
        while reads:
            batch = reads.popleft().result()
            reads.extend(reader.submit(_read, processor, following) for following in islice(waiting, 1))
            finishing.append(finisher.submit(_finish, processor, _run_network(processor, batch)))
            while len(finishing) > 1 or (finishing and finishing[0].done()):
                yield from finishing.popleft().result()
        for last in finishing:
            yield from last.result()
    finally:
        for pool in (reader, finisher):
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # a thread's own choice is otherwise the default of all threads to come


def _read(processor: TileProcessor, tiles: Sequence[Tile]) -> _Batch:
    batch = _Batch(tiles, {}, {}, {})
    for tile in tiles:
        try:
            batch.inputs[tile.number] = processor.read(tile)
        except Exception as error:
            batch.errors[tile.number] = error
    return batch


def _run_network(processor: TileProcessor, batch: _Batch) -> _Batch:
    """Run the network on the tiles that could be read."""
    ready = list(batch.inputs)
    if ready:
        try:
            views = processor.fields([batch.inputs[number].tensor for number in ready])
            batch.views.update({number: views[:, place : place + 1] for place, number in enumerate(ready)})
        except Exception as error:
            batch.errors.update(dict.fromkeys(ready, error))
    return batch


def _finish(processor: TileProcessor, batch: _Batch) -> list[TileResult]:
    return [_find_objects(processor, batch, tile) for tile in batch.tiles]


def _find_objects(processor: TileProcessor, batch: _Batch, tile: Tile) -> TileResult:
    """Find a tile's objects; where any stage failed, process the tile again from its beginning."""
    if tile.number not in batch.errors:
        try:
            fields = batch.views.pop(tile.number)
            return TileResult(tile, processor.objects(tile, batch.inputs.pop(tile.number), fields), None)
        except Exception:
            pass
    try:
        tile_input = processor.read(tile)
        fields = processor.fields([tile_input.tensor])
        return TileResult(tile, processor.objects(tile, tile_input, fields), None)
    except Exception as error:
        return TileResult(tile, None, error)
