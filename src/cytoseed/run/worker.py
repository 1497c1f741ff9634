"""Functions that a worker of `cytoseed.run.cluster` runs: it opens image and model itself and returns objects."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed import __version__
from cytoseed.images import Image, open_image
from cytoseed.models.weights import Model, load_model
from cytoseed.run.engine import check_precision, choose_device, engine_for
from cytoseed.run.executor import LocalExecutor
from cytoseed.run.tile import Clock, SlideContext

_OPEN_IMAGES = 4  # a worker may receive tiles of several images in turn


class WorkerTask(NamedTuple):
    """Image and model that tiles are made from: how a worker finds both, and recognises them."""

    source: str
    """Path or URL of the image."""
    identity: Mapping[str, Any]
    """`Image.identity` of the image."""
    model: str
    """Folder of the model."""
    sha256: str
    """Of the model's weights."""
    version: str
    """Of cytoseed."""
    device: str
    """As in `SegmentOptions.device`."""
    precision: str
    """As in `SegmentOptions.precision`."""


class PackedTile(NamedTuple):
    """One tile's objects, as a worker returns them."""

    tile: int
    objects: bytes | None
    """`Objects.to_bytes`; None where the tile failed."""
    cause: str
    """Why it failed."""


def check(task: WorkerTask) -> str:
    """Kind of device that this process would use.

    Raises
    ------
    FileNotFoundError, ValueError
        This process has another version of cytoseed, no or another model under that path, or no such device.
    """
    _model(task)
    device = choose_device(task.device)
    check_precision(task.precision, device)
    return device.type


def run(
    task: WorkerTask, context: tuple[Any, ...], batches: Sequence[Sequence[int]]
) -> tuple[list[PackedTile], Mapping[str, float]]:
    """Process tiles, given by the fields of `SlideContext` after the image and the tiles' numbers; with timings."""
    full_context, clock = SlideContext(_image(task), *context), Clock()
    tiles = [[full_context.plan.grid.tile(number) for number in batch] for batch in batches]
    packed = []
    with full_context.image.regions() as regions:
        for result in _executor(task).run(full_context, regions, tiles, clock):
            data = None if result.objects is None else result.objects.to_bytes()
            cause = "" if result.error is None else " ".join(str(result.error).split()) or type(result.error).__name__
            packed.append(PackedTile(result.tile.number, data, cause))
    return packed, clock.seconds


def run_single(task: WorkerTask, context: tuple[Any, ...]) -> tuple[bytes, tuple[int, ...]]:
    """Labels of an image that is one tile: int32 compressed by zlib, and their shape (T,H,W)."""
    full_context = SlideContext(_image(task), *context)
    with full_context.image.regions() as regions:
        labels = _executor(task).run_single(full_context, regions, Clock())
    return zlib.compress(labels.tobytes(), 1), labels.shape


def unpack_labels(packed: tuple[bytes, tuple[int, ...]]) -> NDArray[np.int32]:
    """Labels that `run_single` packed."""
    data, shape = packed
    return np.frombuffer(zlib.decompress(data), np.int32).reshape(shape)


def _executor(task: WorkerTask) -> LocalExecutor:
    return LocalExecutor(engine_for(_model(task), choose_device(task.device), task.precision))


def _model(task: WorkerTask) -> Model:
    """Model of a task, unless it or cytoseed differs here."""
    if task.version != __version__:
        raise ValueError(f"has cytoseed {__version__}, not {task.version}: install the same version everywhere")
    model = _loaded(task.model)
    if model.config.sha256 != task.sha256:
        raise ValueError(f"has another model in {task.model}: its weights have the SHA-256 {model.config.sha256}")
    return model


@functools.lru_cache(2)
def _loaded(folder: str) -> Model:
    return load_model(folder)


def _image(task: WorkerTask) -> Image:
    """Image of a task, unless it differs here."""
    return _opened(task.source, tuple(sorted((name, repr(value)) for name, value in task.identity.items())))


@functools.lru_cache(_OPEN_IMAGES)
def _opened(source: str, identity: tuple[tuple[str, str], ...]) -> Image:
    image = open_image(source)
    if tuple(sorted((name, repr(value)) for name, value in image.identity().items())) != identity:
        raise ValueError(f"sees another image at {source}: the path must lead to the same file everywhere")
    return image
