"""The door: from one image, a path or an array, to its objects."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from cytoseed.core.model import Thresholds
from cytoseed.core.pieces import whole_objects
from cytoseed.core.prepare import fit_channels, normalise, rescale, rescale_labels
from cytoseed.images import Image, array_channel_names, as_image, check_pixels, choose_channels, open_image
from cytoseed.images.stain import check_stain, unmix
from cytoseed.models.weights import Model, load_model
from cytoseed.results import Segmentation
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.settings import ModelConfig, SegmentOptions

Picture = str | os.PathLike[str] | Image | ArrayLike
"""What is taken for an image: a file's path, an opened file, or an array."""

_THRESHOLDS = ("peak_radius_px", "seed_threshold", "mask_threshold", "agreement_iou", "min_size_px")
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1 / 256, 16.0  # between them every microscope; a wrong unit is beyond
_LARGEST_AREA_PX = 1 << 28
_SUITABLE_PX = (8, 40)  # diameters at which images run as they are and scaled to the nominal one score alike
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # how PyTorch puts it
_SAME_SCALE = 0.01  # factors this near to 1 would only blur the image


def segment(
    image: Picture,
    model: Model | str | os.PathLike[str] = "nuclei",
    options: SegmentOptions | None = None,
    notice: Callable[[str], None] | None = None,
    **settings: Any,
) -> Segmentation:
    """Find every object in an image.

    Parameters
    ----------
    image : path, Image or array
        A file (PNG, JPEG, TIFF), what `open_image` gave for one, or an array (H,W), (H,W,3), (H,W,4) or
        (C,H,W) of booleans, integers or real numbers. It is never changed.
    model : Model, str or path
        What `load_model` gave, or the name or folder to give it. For many images load it once.
    options : SegmentOptions, optional
        How to segment.
    notice : callable, optional
        Called with a sentence when the result may not be what was meant, as when the image's pixel size is
        unknown; `Segmentation.settings` holds the same facts.
    **settings
        Fields of `SegmentOptions`, such as `pixel_size_um=0.25`; they go before those of `options`.

    Returns
    -------
    Segmentation
        Labels of the input's height and width, int32: (H,W), or (T,H,W) where the model has two targets; 0 is
        background, ids are 1..K without gaps.

    Raises
    ------
    FileNotFoundError
        There is no such file, or no such model.
    TypeError
        A setting that `SegmentOptions` has not, or an array of values that are no numbers.
    ValueError
        A file that cannot be read; NaN or infinite values; a number of channels that the model does not take;
        a pixel size or diameter that makes the image absurdly large or small; a device that is not there.
    MemoryError
        The image, at the model's pixel size, takes more memory than there is.
    """
    wishes = _with_settings(options, settings)
    ready = model if isinstance(model, Model) else load_model(model)
    opened = _open(image)
    plan = _plan(opened, ready.config, wishes)
    device = choose_device(wishes.device)
    if notice is not None and plan.pixel_size_um is None and wishes.diameter_px is None:
        notice(_unknown_scale())
    pixels = opened.read()
    _check_values(pixels)
    engine = engine_for(ready, device)
    thresholds = Thresholds(**{name: plan.record[name] for name in _THRESHOLDS})
    with _memory_errors(plan):
        seen = _seen(pixels, plan, ready.config.channels)
        labels = full_size_labels(engine.labels(seen, thresholds, wishes.tta), *pixels.shape[1:])  # (T, H, W)
    return Segmentation(
        labels=labels[0] if len(labels) == 1 else labels,
        image=pixels,
        targets=ready.config.targets,
        channel_names=opened.channel_names,
        pixel_size_um=plan.pixel_size_um,
        source="array" if opened.file is None else str(opened.file.path),
        settings=plan.record,
    )


def describe(image: Picture, config: ModelConfig, options: SegmentOptions | None = None) -> Mapping[str, Any]:
    """Tell everything that decides the objects of a run, without running it.

    Parameters
    ----------
    image : path, Image or array
        As for `segment`; of a file only the metadata is read.
    config : ModelConfig
        The model's.
    options : SegmentOptions, optional
        As for `segment`.

    Returns
    -------
    Mapping
        Plain values that JSON keeps: what `segment` would give as `Segmentation.settings`. The device is not
        among them: it does not change the objects.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As `segment` does, for all that shows before the pixels are read.
    """
    return _plan(_open(image), config, options or SegmentOptions()).record


def network_image(image: Picture, config: ModelConfig, options: SegmentOptions | None = None) -> torch.Tensor:
    """Make of an image what `segment` gives to the network: its channels, normalised, at the model's pixel size.

    Parameters
    ----------
    image : path, Image or array
        As for `segment`.
    config : ModelConfig
        The model's.
    options : SegmentOptions, optional
        As for `segment`.

    Returns
    -------
    Tensor, shape (C, h, w), float32, on the CPU
        In [-0.5, 1.5]; height and width are those that the network sees.

    Raises
    ------
    FileNotFoundError, MemoryError, TypeError, ValueError
        As `segment`.
    """
    wishes = options or SegmentOptions()
    opened = _open(image)
    plan = _plan(opened, config, wishes)
    pixels = opened.read()
    _check_values(pixels)
    with _memory_errors(plan):
        return _seen(pixels, plan, config.channels)


def full_size_labels(labels: torch.Tensor, height: int, width: int) -> NDArray[np.int32]:
    """Bring the labels of a `network_image` to the size of the input, as `segment` gives them.

    Parameters
    ----------
    labels : Tensor, shape (T, h, w), int32, on the CPU
        0 is background, ids are 1..K.
    height, width : int
        Of the input, 1 or more.

    Returns
    -------
    ndarray of int32, shape (T, height, width)
        0 is background, ids are 1..K without gaps.
    """
    if labels.shape[1:] != (height, width):
        labels = rescale_labels(labels, height, width)
        count = int(labels.max())  # shrunk objects may fall apart or vanish
        labels = torch.cat([whole_objects(target[None].long(), count, 0) for target in labels])
    result: NDArray[np.int32] = labels.numpy()
    return result


class _Opened(NamedTuple):
    """A file or an array, seen alike."""

    shape: tuple[int, int, int]
    channel_names: tuple[str, ...]
    file: Image | None
    read: Callable[[], NDArray[Any]]


class _Plan(NamedTuple):
    """What a run will do."""

    channels: tuple[int, ...]
    size: tuple[int, int]  # height and width that the network sees
    pixel_size_um: float | None  # of the input
    record: Mapping[str, Any]


def _with_settings(options: SegmentOptions | None, settings: Mapping[str, Any]) -> SegmentOptions:
    allowed = [field.name for field in dataclasses.fields(SegmentOptions)]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise TypeError(f"segment has no setting {unknown[0]!r}; its settings are: {', '.join(allowed)}")
    return dataclasses.replace(options or SegmentOptions(), **settings)


def _open(image: Picture) -> _Opened:
    if isinstance(image, (str, os.PathLike)):
        image = open_image(image)
    if isinstance(image, Image):
        return _Opened(image.shape, image.channel_names, image, image.read)
    pixels = as_image(image)
    channels, height, width = pixels.shape
    return _Opened((channels, height, width), array_channel_names(image), None, lambda: pixels)


def _plan(opened: _Opened, config: ModelConfig, options: SegmentOptions) -> _Plan:
    """Decide channels, scale and thresholds."""
    channels = choose_channels(options.channels, opened.channel_names)
    names = [opened.channel_names[index] for index in channels]
    if options.stain is not None:
        check_stain(len(channels), options.stain)
    elif len(channels) not in (1, config.channels):
        raise ValueError(_wrong_channels(len(channels), opened.channel_names, config))
    pixel_size_um, source = _pixel_size(opened, options)
    factor = _factor(pixel_size_um, options.diameter_px, config)
    by_diameter = options.diameter_px is not None
    cause = f"diameter_px is {options.diameter_px}" if by_diameter else f"pixel_size_um is {pixel_size_um} ({source})"
    size = _scaled_size(opened.shape, factor, cause)
    own = {name: getattr(options, name) for name in _THRESHOLDS}
    record = {
        "model": config.name,
        "model_version": config.version,
        "model_sha256": config.sha256,
        "channels": list(channels),
        "channel_names": names,
        "stain": options.stain,
        "pixel_size_um": pixel_size_um,
        "pixel_size_source": source,
        "diameter_px": options.diameter_px,
        "scale": factor,
        "tta": options.tta,
        **{name: getattr(config, name) if value is None else value for name, value in own.items()},
    }
    return _Plan(channels, size, pixel_size_um, record)


def _wrong_channels(chosen: int, names: tuple[str, ...], config: ModelConfig) -> str:
    listed = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    has = f"the image has {len(names)} channels" + ("" if chosen == len(names) else f", {chosen} are chosen,")
    wanted = "1" if config.channels == 1 else f"1 or {config.channels}"
    return (
        f"{has} and model {config.name!r} takes {wanted}: choose by number or name, such as --channels 0 "
        f"(channels=[0] in Python), of {listed}"
    )


def _pixel_size(opened: _Opened, options: SegmentOptions) -> tuple[float | None, str]:
    """Pixel size of the input in µm, and who says so."""
    if options.pixel_size_um is not None:
        return options.pixel_size_um, "given"
    if opened.file is None:
        return None, "not stated"
    return opened.file.pixel_size_um, opened.file.pixel_size_source


def _factor(pixel_size_um: float | None, diameter_px: float | None, config: ModelConfig) -> float:
    """Pixels that the network sees to one of the input's; a diameter goes before what the file says."""
    if diameter_px is not None:
        factor = config.diameter_px / diameter_px
    elif pixel_size_um is not None:
        factor = pixel_size_um / config.pixel_size_um
    else:
        return 1.0
    return 1.0 if abs(factor - 1) <= _SAME_SCALE else factor


def _scaled_size(shape: tuple[int, int, int], factor: float, cause: str) -> tuple[int, int]:
    """Height and width that the network sees; `cause` says, in an error, where the factor is from."""
    height, width = (max(1, round(side * factor)) for side in shape[1:])
    if _SMALLEST_FACTOR <= factor <= _LARGEST_FACTOR and height * width <= _LARGEST_AREA_PX:
        return height, width
    raise ValueError(
        f"{cause}, so an image of {shape[1]} x {shape[2]} px (height x width) would be segmented at {height} x "
        f"{width} px, {factor:.3g} times as large a side; from 1/{1 / _SMALLEST_FACTOR:g} to {_LARGEST_FACTOR:g} "
        f"times and at most {_LARGEST_AREA_PX} px are possible: state the right one with --pixel-size in µm or "
        f"--diameter in px (pixel_size_um, diameter_px in Python), or segment a part of the image"
    )


def _unknown_scale() -> str:
    smallest, largest = _SUITABLE_PX
    return (
        f"pixel size unknown, so segmented as it is, which suits nuclei {smallest} to {largest} px wide; for "
        f"others state --diameter in px or --pixel-size in µm (diameter_px, pixel_size_um in Python)"
    )


def _check_values(pixels: NDArray[Any]) -> None:
    check_pixels(pixels)
    limit = float(np.finfo(np.float32).max)
    if pixels.dtype.itemsize > 4 and pixels.dtype.kind == "f" and float(np.abs(pixels).max()) > limit:
        raise ValueError(f"image has values beyond {limit:.3g}, the largest that can be computed with: divide it")


@contextmanager
def _memory_errors(plan: _Plan) -> Iterator[None]:
    """Tell a lack of memory, of which PyTorch makes a `RuntimeError`, from a fault."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
            raise
        height, width = plan.size
        raise MemoryError(
            f"not enough memory to segment {height} x {width} px at once: close other programs, segment a part of "
            f"the image, or leave out --tta where it is given"
        ) from error


def _seen(pixels: NDArray[Any], plan: _Plan, channels: int) -> torch.Tensor:
    """Give what the network sees of an image (C,H,W) as it is stored."""
    stain = plan.record["stain"]
    chosen = pixels[list(plan.channels)] if stain is None else unmix(pixels, stain)
    image = normalise(torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32)))  # (C, H, W)
    return fit_channels(rescale(image, *plan.size), channels)
