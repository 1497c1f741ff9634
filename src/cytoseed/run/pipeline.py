"""Reading, network and post-processing of tiles, in three threads."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from cytoseed.run.tile import TileInput, TileProcessor, TileResult
from cytoseed.run.tiles import Tile

_IN_FLIGHT = 3  # batches at a time: one for each stage; more would only take memory
_TRIES = 2
_POLL_S = 0.1  # between two checks whether the work was cancelled

_T = TypeVar("_T")


class _Batch(NamedTuple):
    """Tiles on their way through the stages: input and fields of each, or its error."""

    tiles: tuple[Tile, ...]
    inputs: dict[int, TileInput]
    views: dict[int, torch.Tensor]
    errors: dict[int, Exception]


def run_tiles(processor: TileProcessor, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
    """Process batches of tiles of equal input size, in order; results come as soon as they are done.

    Reading and post-processing have a thread of one core each, the network runs in the caller's. A tile that fails
    is tried once more, alone.
    """
    cores = torch.get_num_threads()
    stop = threading.Event()
    slots = threading.Semaphore(_IN_FLIGHT)
    inputs: _Channel[_Batch] = _Channel(stop)
    fields: _Channel[_Batch] = _Channel(stop)
    results: _Channel[TileResult] = _Channel(stop)
    stages = [
        (partial(_read_stage, processor, batches, inputs, slots), inputs),
        (partial(_object_stage, processor, fields, results, slots), results),
    ]
    threads = [threading.Thread(target=_run_stage, args=stage, daemon=True) for stage in stages]
    for thread in threads:
        thread.start()
    try:
        for batch in inputs:
            fields.put(_run_network(processor, batch))
            yield from results.available()
        fields.put(None)
        yield from results
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(cores)  # a stage's own choice is otherwise the default of all threads to come


class _Channel(Generic[_T]):
    """A short queue between two stages that passes on the end and errors of the stage that feeds it."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._queue: queue.Queue[_T | BaseException | None] = queue.Queue(_IN_FLIGHT)

    def put(self, item: _T | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue
        raise _CancelledError

    def available(self) -> Iterator[_T]:
        """Items that are ready now."""
        while not self._queue.empty():
            item = self._queue.get()
            if item is None:  # leave the end for `__iter__`
                self._queue.put(item)
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def wait_for(self, slot: threading.Semaphore) -> None:
        while not slot.acquire(timeout=_POLL_S):
            if self._stop.is_set():
                raise _CancelledError

    def __iter__(self) -> Iterator[_T]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class _CancelledError(Exception):
    """The consumer of the results has gone."""


def _read_stage(
    processor: TileProcessor, batches: Sequence[Sequence[Tile]], output: _Channel[_Batch], slots: threading.Semaphore
) -> None:
    for tiles in batches:
        output.wait_for(slots)
        output.put(_read(processor, tiles))


def _object_stage(
    processor: TileProcessor, batches: _Channel[_Batch], output: _Channel[TileResult], slots: threading.Semaphore
) -> None:
    for batch in batches:
        for tile in batch.tiles:
            output.put(_find_objects(processor, batch, tile))
        slots.release()


def _run_stage(stage: Callable[[], None], output: _Channel[Any]) -> None:
    """Run a stage on one core, and pass on its end or its error.

    Stages that all use every core wait for each other actively, and take twice as long as one after the other.
    """
    try:
        torch.set_num_threads(1)
        stage()
        output.put(None)
    except _CancelledError:
        pass
    except BaseException as error:  # raised again in the consumer's thread
        with contextlib.suppress(_CancelledError):
            output.put(error)


def _read(processor: TileProcessor, tiles: Sequence[Tile]) -> _Batch:
    batch = _Batch(tuple(tiles), {}, {}, {})
    for tile in tiles:
        try:
            batch.inputs[tile.number] = processor.read(tile)
        except Exception as error:
            batch.errors[tile.number] = error
    return batch


def _run_network(processor: TileProcessor, batch: _Batch) -> _Batch:
    """Run the network on the tiles that could be read."""
    ready = [tile.number for tile in batch.tiles if tile.number in batch.inputs]
    if ready:
        try:
            views = processor.fields([batch.inputs[number].tensor for number in ready])
            batch.views.update({number: views[:, place : place + 1] for place, number in enumerate(ready)})
        except Exception as error:
            batch.errors.update(dict.fromkeys(ready, error))
    return batch


def _find_objects(processor: TileProcessor, batch: _Batch, tile: Tile) -> TileResult:
    """Find a tile's objects; where any stage failed, process the tile again from its beginning."""
    error = batch.errors.get(tile.number)
    if error is None:
        try:
            fields = batch.views.pop(tile.number)
            return TileResult(tile, processor.objects(tile, batch.inputs.pop(tile.number), fields), None)
        except Exception as first:
            error = first
    for _ in range(_TRIES - 1):
        try:
            tile_input = processor.read(tile)
            fields = processor.fields([tile_input.tensor])
            return TileResult(tile, processor.objects(tile, tile_input, fields), None)
        except Exception as again:
            error = again
    return TileResult(tile, None, error)
