"""What a worker of `cytoseed.run.cluster` does: opens image and model itself, makes tiles, gives their objects back."""

from __future__ import annotations

import functools
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from cytoseed import __version__
from cytoseed.images import Image, open_image
from cytoseed.models.weights import Model, load_model
from cytoseed.run.crew import Here
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.part import Clock, Subject
from cytoseed.run.runtimes import choose_runtime
from cytoseed.run.segment import segment
from cytoseed.settings import SegmentOptions

_OPEN_IMAGES = 4  # kept by a worker, which may be given tiles of several images in turn


class Errand(NamedTuple):
    """Of which image and by which model tiles are made: what a worker needs to find both, and to know them again."""

    source: str
    """Path or URL of the image."""
    identity: Mapping[str, Any]
    """What `Image.identity` gives for it."""
    model: str
    """Folder of the model."""
    sha256: str
    """Of the model's weights."""
    version: str
    """Of cytoseed."""
    device: str
    """As `SegmentOptions.device` names it."""
    runtime: str
    """As `SegmentOptions.runtime` names it."""
    precision: str
    """As `SegmentOptions.precision` names it."""


class Parcel(NamedTuple):
    """One tile, made."""

    tile: int
    """Its number."""
    objects: bytes | None
    """What `Objects.to_bytes` gave; None where it failed."""
    cause: str
    """Why it failed."""


class Whole(NamedTuple):
    """One small image, segmented."""

    labels: bytes
    """int32, compressed by zlib."""
    shape: tuple[int, ...]
    pixel_size_um: float | None
    settings: Mapping[str, Any]
    notices: tuple[str, ...]


def describe(errand: Errand) -> str:
    """Tell which kind of device this process would use.

    Raises
    ------
    FileNotFoundError, ValueError
        It has another version of cytoseed, not the model, another model under its path, or no such device or runtime.
    """
    _model(errand)
    device = choose_device(errand.device)
    try:
        choose_runtime(errand.runtime, device, errand.precision)
    except ModuleNotFoundError as error:
        raise ValueError(f"cannot do this: {error}") from error
    return device.type


def make(
    errand: Errand, rest: tuple[Any, ...], batches: Sequence[Sequence[int]]
) -> tuple[list[Parcel], Mapping[str, float]]:
    """Make tiles.

    Parameters
    ----------
    errand : Errand
    rest : tuple
        The fields of the `Subject` after the image.
    batches : sequence of sequences of int
        Numbers of the tiles that go through the network together.

    Returns
    -------
    tuple
        The tiles, and the seconds that each part of the work took.

    Raises
    ------
    FileNotFoundError, ValueError
        As `describe`; there is not the image, or another one.
    """
    model, image = _model(errand), _image(errand)
    subject, clock = Subject(image, *rest), Clock()
    crew = Here(engine_for(model, choose_device(errand.device), errand.runtime, errand.precision))
    tiles = [[subject.grid.tile(number) for number in batch] for batch in batches]
    parcels = []
    with image.regions() as regions:
        for made in crew.make(subject, regions, tiles, clock):
            data = None if made.objects is None else made.objects.to_bytes()
            cause = "" if made.error is None else " ".join(str(made.error).split()) or type(made.error).__name__
            parcels.append(Parcel(made.tile.number, data, cause))
    return parcels, clock.seconds


def make_whole(errand: Errand, options: SegmentOptions) -> Whole:
    """Segment an image in one pass, or as `cytoseed.segment` does.

    Raises
    ------
    FileNotFoundError, MemoryError, ValueError
        As `make` and `cytoseed.segment`.
    """
    notices: list[str] = []
    found = segment(_image(errand), _model(errand), options, notices.append)
    labels = zlib.compress(found.labels.tobytes(), 1)
    return Whole(labels, found.labels.shape, found.pixel_size_um, dict(found.settings), tuple(notices))


def _model(errand: Errand) -> Model:
    """Load the model, unless it or cytoseed is another here."""
    if errand.version != __version__:
        raise ValueError(f"has cytoseed {__version__}, not {errand.version}: install the same version everywhere")
    model = _loaded(errand.model)
    if model.config.sha256 != errand.sha256:
        raise ValueError(f"has another model in {errand.model}: its weights have the SHA-256 {model.config.sha256}")
    return model


@functools.lru_cache(2)
def _loaded(folder: str) -> Model:
    return load_model(folder)


_IMAGES: OrderedDict[tuple[str, str], Image] = OrderedDict()


def _image(errand: Errand) -> Image:
    """Open the image, unless it is another here."""
    key = (errand.source, repr(sorted(errand.identity.items())))
    if key not in _IMAGES:
        image = open_image(errand.source)
        if dict(image.identity()) != dict(errand.identity):
            raise ValueError(f"sees another image at {errand.source}: the path must lead to the same file everywhere")
        _IMAGES[key] = image
        while len(_IMAGES) > _OPEN_IMAGES:
            _IMAGES.popitem(last=False)
    return _IMAGES[key]


def use_cores(count: int) -> None:
    """Let PyTorch use so many cores in this thread."""
    torch.set_num_threads(count)
