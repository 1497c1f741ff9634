"""Executors: they process the tiles of an image, in this process or on workers (`cytoseed.run.cluster`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Regions
from cytoseed.run.engine import Engine
from cytoseed.run.pipeline import run_tiles
from cytoseed.run.plan import Plan
from cytoseed.run.tile import Clock, SlideContext, TileProcessor, TileResult, full_size_labels
from cytoseed.run.tiles import Tile

_BATCH = {"cuda": 4}  # tiles per pass of the network; on a CPU more than one would only take memory
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")  # PyTorch's words


class Executor(Protocol):
    """Processes the tiles of one image."""

    @property
    def batch(self) -> int:
        """Number of tiles that go through the network together."""

    def run(
        self, context: SlideContext, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[TileResult]:
        """Process batches of tiles of equal size; results come in any order."""

    def run_single(self, context: SlideContext, regions: Regions, clock: Clock) -> NDArray[np.int32]:
        """Labels (T,H,W) at full resolution of an image that is one tile."""


class LocalExecutor:
    """Processes tiles in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.batch = batch_size(engine.device.type)

    def run(
        self, context: SlideContext, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[TileResult]:
        """Process tiles in their order."""
        return run_tiles(TileProcessor(context, regions, self._engine, clock), batches)

    def run_single(self, context: SlideContext, regions: Regions, clock: Clock) -> NDArray[np.int32]:
        """Labels (T,H,W) of the only tile: it owns every object, so nothing is stitched."""
        processor = TileProcessor(context, regions, self._engine, clock)
        with memory_errors(context.plan):
            views = processor.fields([processor.read(context.plan.grid.tile(0)).tensor])
            return full_size_labels(processor.labels(views), *context.plan.full_yx)


def batch_size(device: str) -> int:
    """Number of tiles that go through the network together on a kind of device, such as `cuda`."""
    return _BATCH.get(device, 1)


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
