"""What a run will do with an image: channels, scale, level, thresholds. Decided before any pixel is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.model import Thresholds
from cytoseed.core.prepare import fit_channels, scale_intensity
from cytoseed.core.scale import full_box, rescale_part
from cytoseed.images import Image, check_pixels, choose_channels
from cytoseed.images.unmix import check_stain, unmix
from cytoseed.run.tiles import Box
from cytoseed.settings import ModelConfig, SegmentOptions

_THRESHOLDS = ("peak_radius_px", "seed_threshold", "mask_threshold", "agreement_iou", "min_size_px")
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1 / 256, 16.0  # between them every microscope; a wrong unit is beyond
_LARGEST_AREA_PX = 1 << 40
_SUITABLE_PX = (8, 40)  # diameters at which images run as they are and scaled to the nominal one score alike
_SAME_SCALE = 0.01  # factors this near to 1 would only blur the image


class Plan(NamedTuple):
    """What a run will do."""

    channels: tuple[int, ...]
    """Channels of the image to read, by number."""
    level: int
    """Which of the image's resolutions is read: the coarsest that is not coarser than the model's."""
    level_yx: tuple[int, int]
    """Height and width of that level."""
    step_yx: tuple[float, float]
    """Px of the level to one that the network sees."""
    size_yx: tuple[int, int]
    """Height and width that the network sees."""
    full_yx: tuple[int, int]
    """Height and width of the image at full resolution."""
    pixel_size_um: float | None
    """Of the image at full resolution."""
    record: Mapping[str, Any]
    """Everything that decides the objects, in values that JSON keeps."""

    @property
    def thresholds(self) -> Thresholds:
        """What counts as a seed and as an object."""
        return Thresholds(**{name: self.record[name] for name in _THRESHOLDS})

    def full_box(self, box_yxhw: Box) -> Box:
        """Give the box, at full resolution, of the pixels whose centres lie in a box of what the network sees."""
        return full_box(box_yxhw, self.size_yx, self.full_yx)


def make_plan(image: Image, config: ModelConfig, options: SegmentOptions) -> Plan:
    """Decide channels, scale and thresholds.

    Parameters
    ----------
    image : Image
        Only its metadata is used.
    config : ModelConfig
        The model's.
    options : SegmentOptions
        What the user wishes.

    Raises
    ------
    TypeError, ValueError
        Channels that are not there or do not suit the model, a stain of an image without colours, pixels that are
        not square, a scale that is no microscope's.
    """
    channels = choose_channels(options.channels, image.channel_names)
    names = [image.channel_names[index] for index in channels]
    if options.stain is not None:
        check_stain(len(channels), options.stain)
    elif len(channels) not in (1, config.channels):
        raise ValueError(_wrong_channels(len(channels), image.channel_names, config))
    pixel_size_um, source = _pixel_size(image, options)
    factor = _factor(pixel_size_um, options.diameter_px, config)
    by_diameter = options.diameter_px is not None
    cause = f"diameter_px is {options.diameter_px}" if by_diameter else f"pixel_size_um is {pixel_size_um} ({source})"
    size_yx = _scaled_size(image.shape, factor, cause)
    level, step_yx = _level(image, size_yx)
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
        "precision": options.precision,
        **{name: getattr(config, name) if value is None else value for name, value in own.items()},
    }
    full_yx = (image.shape[1], image.shape[2])
    return Plan(channels, level, image.level_shapes[level], step_yx, size_yx, full_yx, pixel_size_um, record)


def scale_notice(plan: Plan) -> str | None:
    """Give the sentence to say where nobody states the scale; None where somebody does."""
    if plan.pixel_size_um is not None or plan.record["diameter_px"] is not None:
        return None
    smallest, largest = _SUITABLE_PX
    return (
        f"pixel size unknown, so segmented as it is, which suits nuclei {smallest} to {largest} px wide; for "
        f"others state --diameter in px or --pixel-size in µm (diameter_px, pixel_size_um in Python)"
    )


def check_values(pixels: NDArray[Any]) -> None:
    """Refuse pixels (C,h,w) that cannot be computed with: `check_pixels`, and values beyond float32.

    Raises
    ------
    ValueError
    """
    check_pixels(pixels)
    limit = float(np.finfo(np.float32).max)
    if pixels.dtype.itemsize > 4 and pixels.dtype.kind == "f" and float(np.abs(pixels).max()) > limit:
        raise ValueError(f"image has values beyond {limit:.3g}, the largest that can be computed with: divide it")


def choose_stain(pixels: NDArray[Any], plan: Plan) -> NDArray[Any]:
    """Give what is looked at of pixels (C,h,w) as stored: themselves, or the amount of one stain, (1,h,w)."""
    stain = plan.record["stain"]
    return pixels if stain is None else unmix(pixels, stain)


def see(
    pixels: NDArray[Any],
    origin_yx: tuple[int, int],
    limits: tuple[NDArray[np.float32], NDArray[np.float32]],
    plan: Plan,
    channels: int,
    box_yxhw: Box,
) -> torch.Tensor:
    """Make of a part of an image what the network sees in a box: normalised, at its scale, with its channels.

    Parameters
    ----------
    pixels : ndarray, shape (C,h,w)
        What `choose_stain` gave for a part of the plan's level.
    origin_yx : (int, int)
        Where the part begins in the level. It must hold what `core.scale.part_needed` says of the box.
    limits : two ndarrays, shape (C,), float32
        Values that become 0 and 1, of the whole image.
    plan : Plan
    channels : int
        Channels that the model takes.
    box_yxhw : Box
        In px that the network sees.

    Returns
    -------
    Tensor, shape (channels, h, w), float32
        In [-0.5, 1.5]; a value does not depend on which part or box it came in.
    """
    low, high = (torch.from_numpy(np.asarray(limit, np.float32)) for limit in limits)
    seen = []
    for index, channel in enumerate(pixels):  # one after the other: a tile at full resolution is large
        values = scale_channel(channel, low[index : index + 1], high[index : index + 1])
        seen.append(rescale_part(values, origin_yx, plan.level_yx, plan.step_yx, box_yxhw))
    return fit_channels(torch.cat(seen), channels)


def scale_channel(channel: NDArray[Any], low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Scale one channel (h,w) as `scale_intensity` does, (1,h,w); of 8 and 16 bits by a table of all values."""
    if channel.dtype.kind != "u" or channel.dtype.itemsize > 2 or channel.size < np.iinfo(channel.dtype).max:
        return scale_intensity(torch.from_numpy(np.ascontiguousarray(channel, np.float32))[None], low, high)
    every = torch.arange(np.iinfo(channel.dtype).max + 1, dtype=torch.float32)
    table = scale_intensity(every[None, None], low, high).flatten().numpy()
    return torch.from_numpy(np.take(table, channel))[None]


def _wrong_channels(chosen: int, names: tuple[str, ...], config: ModelConfig) -> str:
    listed = ", ".join(f"{index} ({name})" for index, name in enumerate(names))
    has = f"the image has {len(names)} channels" + ("" if chosen == len(names) else f", {chosen} are chosen,")
    wanted = "1" if config.channels == 1 else f"1 or {config.channels}"
    return (
        f"{has} and model {config.name!r} takes {wanted}: choose by number or name, such as --channels 0 "
        f"(channels=[0] in Python), of {listed}"
    )


def _pixel_size(image: Image, options: SegmentOptions) -> tuple[float | None, str]:
    """Pixel size of the input in µm, and who says so."""
    if options.pixel_size_um is not None:
        return options.pixel_size_um, "given"
    return image.pixel_size_um, image.pixel_size_source


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
        f"times and at most {_LARGEST_AREA_PX:.1e} px are possible: state the right one with --pixel-size in µm or "
        f"--diameter in px (pixel_size_um, diameter_px in Python), or segment a part of the image"
    )


def _level(image: Image, size_yx: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    """Choose the coarsest level that is not coarser than what the network sees; and its px to one of the network's."""
    full_yx = image.shape[1:]
    chosen, shrunk = 0, (1.0, 1.0)
    for index, level_yx in enumerate(image.level_shapes[1:], start=1):
        by = [_downsampling(full, own) for full, own in zip(full_yx, level_yx, strict=True)]
        fits = all(
            full / down >= size * (1 - _SAME_SCALE) for full, down, size in zip(full_yx, by, size_yx, strict=True)
        )
        if fits and min(by) > min(shrunk):
            chosen, shrunk = index, (by[0], by[1])
    steps = [full / size / down for full, size, down in zip(full_yx, size_yx, shrunk, strict=True)]
    return chosen, (steps[0], steps[1])


def _downsampling(full: int, level: int) -> float:
    """Px of full resolution to one of a level: a whole number where rounding a side down or up explains the size."""
    whole = round(full / level)
    return float(whole) if whole * (level - 1) < full < whole * (level + 1) else full / level
