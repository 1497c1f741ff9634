"""Reading, network and what follows it side by side, with little in between: each waits for the other."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from cytoseed.results.objects import Objects
from cytoseed.run.part import Maker, Seen
from cytoseed.run.tiles import Tile

_IN_FLIGHT = 3  # batches held at a time: one for each stage; more would only take memory
_TRIES = 2
_PATIENCE_S = 0.1  # between two looks whether the work was called off

_T = TypeVar("_T")


class Made(NamedTuple):
    """What became of one tile."""

    tile: Tile
    objects: Objects | None
    """None where it failed."""
    error: Exception | None
    """Why it failed."""


class _Batch(NamedTuple):
    """Tiles on their way: the pixels and fields of each, or its error."""

    tiles: tuple[Tile, ...]
    seen: dict[int, Seen]
    views: dict[int, torch.Tensor]
    errors: dict[int, Exception]


def make_tiles(maker: Maker, batches: Sequence[Sequence[Tile]]) -> Iterator[Made]:
    """Make tiles, batch after batch, in order.

    Parameters
    ----------
    maker : Maker
        It reads and finishes in a thread each, and runs the network in the caller's.
    batches : sequence of sequences of Tile
        Tiles of a batch are of one size and go through the network together.

    Yields
    ------
    Made
        One for each tile, as soon as it is done. What fails is tried once more, alone, before it is given up.
    """
    cores = torch.get_num_threads()
    stop = threading.Event()
    places = threading.Semaphore(_IN_FLIGHT)
    read: _Channel[_Batch] = _Channel(stop)
    looked: _Channel[_Batch] = _Channel(stop)
    made: _Channel[Made] = _Channel(stop)
    stages = [
        (partial(_reading, maker, batches, read, places), read),
        (partial(_finishing, maker, looked, made, places), made),
    ]
    threads = [threading.Thread(target=_feeding, args=stage, daemon=True) for stage in stages]
    for thread in threads:
        thread.start()
    try:
        for batch in read:
            looked.put(_look(maker, batch))
            yield from made.ready()
        looked.put(None)
        yield from made
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(cores)  # what a stage chose for itself is otherwise the default of all threads to come


class _Channel(Generic[_T]):
    """A short queue that ends, or fails as what feeds it has failed."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._queue: queue.Queue[_T | BaseException | None] = queue.Queue(_IN_FLIGHT)

    def put(self, item: _T | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE_S)
                return
            except queue.Full:
                continue
        raise _StoppedError

    def ready(self) -> Iterator[_T]:
        """Give what is there already."""
        while not self._queue.empty():
            item = self._queue.get()
            if item is None:  # the end is for those who wait for it
                self._queue.put(item)
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def wait_for(self, place: threading.Semaphore) -> None:
        while not place.acquire(timeout=_PATIENCE_S):
            if self._stop.is_set():
                raise _StoppedError

    def __iter__(self) -> Iterator[_T]:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=_PATIENCE_S)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item


class _StoppedError(Exception):
    """Nobody waits for the result any more."""


def _reading(
    maker: Maker, batches: Sequence[Sequence[Tile]], to: _Channel[_Batch], places: threading.Semaphore
) -> None:
    for tiles in batches:
        to.wait_for(places)
        to.put(_read(maker, tiles))


def _finishing(maker: Maker, of: _Channel[_Batch], to: _Channel[Made], places: threading.Semaphore) -> None:
    for batch in of:
        for tile in batch.tiles:
            to.put(_finish(maker, batch, tile))
        places.release()


def _feeding(stage: Callable[[], None], channel: _Channel[Any]) -> None:
    """Run a stage to its end, on one core; hand on that it ended, or why it broke.

    Stages that all want every core wait for each other actively, and take twice as long as one after the other.
    """
    try:
        torch.set_num_threads(1)
        stage()
        channel.put(None)
    except _StoppedError:
        pass
    except BaseException as error:  # a fault of ours: to be raised where the tiles are waited for
        with contextlib.suppress(_StoppedError):
            channel.put(error)


def _read(maker: Maker, tiles: Sequence[Tile]) -> _Batch:
    batch = _Batch(tuple(tiles), {}, {}, {})
    for tile in tiles:
        try:
            batch.seen[tile.number] = maker.read(tile)
        except Exception as error:
            batch.errors[tile.number] = error
    return batch


def _look(maker: Maker, batch: _Batch) -> _Batch:
    """Run the network on the tiles that could be read."""
    ready = [tile.number for tile in batch.tiles if tile.number in batch.seen]
    if ready:
        try:
            views = maker.look([batch.seen[index].picture for index in ready])
            batch.views.update({index: views[:, place : place + 1] for place, index in enumerate(ready)})
        except Exception as error:
            batch.errors.update(dict.fromkeys(ready, error))
    return batch


def _finish(maker: Maker, batch: _Batch, tile: Tile) -> Made:
    """Find a tile's objects; where anything failed, make the tile again from its beginning."""
    error = batch.errors.get(tile.number)
    if error is None:
        try:
            return Made(tile, maker.finish(tile, batch.seen.pop(tile.number), batch.views.pop(tile.number)), None)
        except Exception as own:
            error = own
    for _ in range(_TRIES - 1):
        try:
            seen = maker.read(tile)
            return Made(tile, maker.finish(tile, seen, maker.look([seen.picture])), None)
        except Exception as again:
            error = again
    return Made(tile, None, error)
