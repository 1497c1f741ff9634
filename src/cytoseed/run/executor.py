"""Executors: they process the tiles of an image, in this process or on workers (`cytoseed.run.cluster`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.run.engine import Engine
from cytoseed.run.plan import Plan
from cytoseed.run.tile import SlideContext, TileInput, TileProcessor, TileResult, full_size_objects
from cytoseed.run.tiles import Tile

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")  # in PyTorch's messages


class Executor(Protocol):
    """Processes the tiles of one image."""

    @property
    def batch(self) -> int:
        """Number of tiles that go through the network together."""

    def run(self, context: SlideContext, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
        """Process batches of tiles of equal size; results come in any order."""

    def run_single(self, context: SlideContext) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Labels (T,H,W) at full resolution of an image that is one tile, and the score (T,K + 1) of each id."""


class LocalExecutor:
    """Processes tiles in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batch = batch_size(engine.device.type)

    def run(self, context: SlideContext, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
        """Process batches in their order."""
        return run_tiles(TileProcessor(context, self._engine), batches)

    def run_single(self, context: SlideContext) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Labels (T,H,W) of the only tile: it owns every object, so nothing is stitched; and the score of each id."""
        processor = TileProcessor(context, self._engine)
        with memory_errors(context.plan):
            tensor = processor.read(context.plan.grid.tile(0)).tensor
            # the fields are freed before labels are enlarged
            labels, scores = processor.labels(processor.fields([tensor]))
            full, ids = full_size_objects(labels, *context.plan.full_yx)
            return full, scores.numpy()[:, ids]


def batch_size(device: str) -> int:
    """Number of tiles that go through the network together; on a CPU more than one would only take memory."""
    return 4 if device == "cuda" else 1


@contextmanager
def memory_errors(plan: Plan) -> Iterator[None]:
    """Turn PyTorch's RuntimeError for a lack of memory into a MemoryError with a remedy."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise
        height, width = plan.size_yx
        raise MemoryError(
            f"not enough memory to segment {height} x {width} px at once: close other programs, give a smaller "
            f"--tile-size (tile_size_px in Python), or leave out --tta where it is given"
        ) from error


def run_tiles(processor: TileProcessor, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
    """Process batches of tiles of equal input size, in order; results come batch by batch.

    Reading and post-processing have a thread of one core each, the network runs in the caller's: stages that all use
    every core wait for each other actively, and take twice as long. At most three batches are in memory, one for
    each stage. A tile that fails is tried once more, alone.
    """
    cores = torch.get_num_threads()
    reader, finisher = (ThreadPoolExecutor(1, name, torch.set_num_threads, (1,)) for name in ("read", "objects"))
    finishing: deque[Future[list[TileResult]]] = deque()
    try:
        reading = reader.submit(_read, processor, batches[0] if batches else ())
        for following, tiles in enumerate(batches, start=1):
            inputs = reading.result()
            reading = reader.submit(_read, processor, batches[following] if following < len(batches) else ())
            views = _run_network(processor, inputs)
            finishing.append(finisher.submit(_finish, processor, tiles, inputs, views))
            while len(finishing) > 1 or (finishing and finishing[0].done()):
                yield from finishing.popleft().result()
        for last in finishing:
            yield from last.result()
    finally:
        for pool in (reader, finisher):
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # otherwise a thread's setting becomes the default of all later threads


def _read(processor: TileProcessor, tiles: Sequence[Tile]) -> list[TileInput]:
    """Inputs of tiles; none if one cannot be read: `_finish` reads each again."""
    with suppress(Exception):
        return [processor.read(tile) for tile in tiles]
    return []


def _run_network(processor: TileProcessor, inputs: list[TileInput]) -> list[torch.Tensor]:
    """Fields of each input; none if the network fails, for lack of memory: it then runs on each alone."""
    with suppress(Exception):
        views = processor.fields([each.tensor for each in inputs])
        return [views[:, place : place + 1] for place in range(len(inputs))]
    return []


def _finish(
    processor: TileProcessor, tiles: Sequence[Tile], inputs: list[TileInput], views: list[torch.Tensor]
) -> list[TileResult]:
    """Objects of tiles; where any stage failed, the tile is processed again from its beginning."""
    results = []
    for tile in tiles:
        try:
            results.append(TileResult(tile, processor.objects(tile, inputs.pop(0), views.pop(0))))
        except Exception:
            results.append(_process_alone(processor, tile))
    return results


def _process_alone(processor: TileProcessor, tile: Tile) -> TileResult:
    try:
        tile_input = processor.read(tile)
        return TileResult(tile, processor.objects(tile, tile_input, processor.fields([tile_input.tensor])))
    except Exception as error:
        return TileResult.failed(tile, error)
