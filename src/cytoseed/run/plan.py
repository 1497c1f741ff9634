"""Plan of a run: channels, scale, level, tiles, area and thresholds, decided before any pixel is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.core.model import Thresholds
from cytoseed.core.network import STRIDE, reach
from cytoseed.core.scale import full_box
from cytoseed.core.score import UNCALIBRATED
from cytoseed.images import Image, check_pixels, choose_channels
from cytoseed.images.channels import check_stain, list_channels, nuclear_channel, unmix
from cytoseed.images.image import RGB_NAMES
from cytoseed.images.pixel_size import PixelSize, as_pixel_size, sides_um
from cytoseed.results.measure.stains import may_be_stained
from cytoseed.run.area import Area, read_area
from cytoseed.run.memory import tile_side
from cytoseed.run.tiles import GRAIN_PX, Box, Grid, single_tile
from cytoseed.settings import ModelConfig, SegmentOptions

LARGEST_COUNTED_PX = 1 << 26
"""Up to this size every pixel of a level counts in the percentiles of the normalisation; beyond it, those of blocks."""

_WIDE_MARGIN_PX = 256  # half the pixel classifier's largest window
_LARGEST_SINGLE_TILE_PX = 1 << 23  # network input: 3 GB
_LARGEST_MIXED_PX = 1 << 24  # pixels times channels of a model of any number of channels: 2 GB
_LARGEST_SINGLE_TILE_BYTES = 1 << 30  # image as stored
_SMALLEST_FACTOR, _LARGEST_FACTOR = 1 / 256, 16.0  # cover every microscope; a wrong unit lies beyond
_LARGEST_AREA_PX = 1 << 40
_SAME_SCALE = 0.01  # factors this near to 1 would only blur the image


class Plan(NamedTuple):
    """Plan of a run on one image."""

    channels: tuple[int, ...]  # numbers of the channels to read
    level: int  # pyramid level to read: the coarsest that is not coarser than the model's pixel size
    level_yx: tuple[int, int]  # height and width of that level
    step_yx: tuple[float, float]  # pixels of the level per pixel of the network's input
    full_yx: tuple[int, int]  # height and width of the image at full resolution
    pixel_size_um: PixelSize  # pixel size of the image at full resolution
    grid: Grid  # tiles over the network's input; a small image is one tile
    is_tiled: bool  # False for an image that is segmented as one tile in memory
    area: Area  # area to segment
    targets: tuple[str, ...]  # objects of each label plane
    expand_px: float  # distance by which nuclei grow into cells, in px of the network's input; 0: no cells
    record: Mapping[str, Any]  # every setting that affects the objects, as JSON values
    score_calibration: tuple[tuple[float, ...], ...]  # coefficients of the score of each of the model's targets
    min_score: float  # objects of a lower score are left out

    @property
    def size_yx(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.grid.height, self.grid.width

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds for seeds and objects."""
        return Thresholds(*(self.record[name] for name in Thresholds._fields))

    @property
    def wide_margin_px(self) -> int:
        """Margin for tiles with an object that reaches beyond the usual one."""
        return max(self.grid.margin_px, _WIDE_MARGIN_PX + _growth(self.expand_px))

    def full_box(self, box_yxhw: Box) -> Box:
        """Box, at full resolution, of the pixels whose centres lie in a box of the network's input."""
        return full_box(box_yxhw, self.size_yx, self.full_yx)


def make_plan(image: Image, config: ModelConfig, options: SegmentOptions) -> Plan:
    """Decide everything that metadata can decide; settings that do not suit the image raise a ValueError."""
    channels = _channels(image, config, options)
    pixel_size_um: PixelSize = options.pixel_size_um
    source = "given"
    if pixel_size_um is None:
        pixel_size_um, source = as_pixel_size(image.pixel_size_yx_um), image.pixel_size_source
    is_square = not isinstance(pixel_size_um, tuple)
    factor_yx = _factors(pixel_size_um, options.diameter_px, config)
    if options.diameter_px is not None:
        size_yx = _scaled_size(image.shape, factor_yx, f"diameter_px is {options.diameter_px}")
    else:
        size_yx = _scaled_size(image.shape, factor_yx, f"pixel_size_um is {pixel_size_um} ({source})")
    level, step_yx = _level(image, size_yx)
    full_yx = (image.shape[1], image.shape[2])
    area = read_area(full_yx, options.region or None, options.mask)
    targets, expand_px = _expansion(config, options, pixel_size_um, factor_yx)
    record = {
        "model": config.name,
        "model_version": config.version,
        "model_sha256": config.sha256,
        "channels": list(channels),
        "channel_names": [image.channel_names[index] for index in channels],
        "stain": options.stain,
        "pixel_size_um": list(pixel_size_um) if isinstance(pixel_size_um, tuple) else pixel_size_um,
        "pixel_size_source": source,
        "diameter_px": options.diameter_px,
        "scale": factor_yx[0] if is_square else list(factor_yx),
        "tta": options.tta,
        "precision": options.precision,
    }
    if options.nan != "refuse":
        record["nan"] = options.nan
    if options.expand_um is not None:
        record["expand_um"] = options.expand_um
    if options.min_score:
        record["min_score"] = options.min_score
    for name in Thresholds._fields:
        given = getattr(options, name)
        record[name] = getattr(config, name) if given is None else given
    mixed = len(channels) if config.fixed_channels == 0 else 0
    grid, is_tiled = single_tile(*size_yx), _needs_tiles(image, size_yx, level, mixed, options)
    if is_tiled:
        margin_px = options.margin_px + _growth(expand_px)
        grid = _grid(size_yx, step_yx, config, options, margin_px, len(channels), image.dtype.itemsize)
        record |= {"tile_size_px": grid.core_px, "margin_px": grid.margin_px}
        record |= {"skip_background": options.skip_background, **area.description}
    scale = level, image.level_shapes[level], step_yx, full_yx, pixel_size_um
    of_scores = config.score_calibration or (UNCALIBRATED,) * len(config.targets), options.min_score
    return Plan(channels, *scale, grid, is_tiled, area, targets, expand_px, record, *of_scores)


def _is_colour(image: Image) -> bool:
    """Whether the channels are red, green and blue, or without names: of 8 bits, or of an array (3,H,W)."""
    if image.path is None:
        return len(image.channel_names) == len(RGB_NAMES)
    return image.channel_names == RGB_NAMES or may_be_stained(image.channel_names, image.dtype)


def _channels(image: Image, config: ModelConfig, options: SegmentOptions) -> tuple[int, ...]:
    """Channels to segment: those chosen; else all of a picture in colour, or the one of a nuclear stain."""
    names = image.channel_names
    channels = choose_channels(options.channels, names)
    if options.stain is not None:
        check_stain(len(channels), options.stain)
        return channels
    if config.fixed_channels == 0:
        return channels
    is_mixture = not options.channels and len(names) > 1 and config.channels in (1, len(RGB_NAMES))
    if is_mixture and not _is_colour(image):
        nuclear = nuclear_channel(names)
        channels = () if nuclear is None else (nuclear,)
    if len(channels) not in (1, config.channels):
        wanted = "1" if config.channels == 1 else f"1 or {config.channels}"
        chosen = f", {len(channels)} are chosen," if options.channels else ""
        raise ValueError(
            f"the image has {len(names)} channels{chosen} and model {config.name!r} takes {wanted}: choose by number "
            f"or name, such as --channels 0 (channels=[0] in Python), of {list_channels(names)}"
        )
    return channels


def _growth(expand_px: float) -> int:
    """Width by which margins grow, so that they hold all nuclei that limit a cell."""
    return -(-2 * math.ceil(expand_px) // GRAIN_PX) * GRAIN_PX


def _expansion(
    config: ModelConfig, options: SegmentOptions, pixel_size_um: PixelSize, factor_yx: tuple[float, float]
) -> tuple[tuple[str, ...], float]:
    """Targets of the result, and the distance by which nuclei grow, in px of the network's input."""
    if options.expand_um is None:
        return config.targets, 0.0
    if config.targets != ("nuclei",):
        raise ValueError(
            f"expand_um is {options.expand_um}, and model {config.name!r} finds cells itself: leave it out"
        )
    if pixel_size_um is None and options.diameter_px is None:
        raise ValueError(
            f"expand_um is {options.expand_um}, and the pixel size is unknown: give --pixel-size in µm or --diameter "
            f"in px (pixel_size_um, diameter_px in Python)"
        )
    if options.diameter_px is not None or pixel_size_um is None:
        return ("nuclei", "cells"), options.expand_um / config.pixel_size_um
    return ("nuclei", "cells"), options.expand_um / (sides_um(pixel_size_um)[0] / factor_yx[0])


def check_values(pixels: NDArray[Any]) -> None:
    """Raise a ValueError for pixels (C,h,w) that are NaN, infinite or beyond float32."""
    check_pixels(pixels)
    limit = float(np.finfo(np.float32).max)
    if pixels.dtype.itemsize > 4 and pixels.dtype.kind == "f" and float(np.abs(pixels).max()) > limit:
        raise ValueError(f"image has values beyond {limit:.3g}, the largest that can be computed with: divide it")


def select_stain(pixels: NDArray[Any], plan: Plan) -> NDArray[Any]:
    """Pixels (C,h,w) as stored, or the amount of one stain, (1,h,w), where the plan names one."""
    stain = plan.record["stain"]
    return pixels if stain is None else unmix(pixels, stain)


def _needs_tiles(
    image: Image, size_yx: tuple[int, int], level: int, mixed_channels: int, options: SegmentOptions
) -> bool:
    """Whether an image is too large for one tile in memory, a pyramid, or tiles or an area were requested."""
    asked = options.tile_size_px is not None or options.mask is not None or bool(options.region)
    input_px, level_px = (height * width for height, width in (size_yx, image.level_shapes[level]))
    image_bytes = image.dtype.itemsize * image.shape[0] * image.shape[1] * image.shape[2]
    is_large = input_px > _LARGEST_SINGLE_TILE_PX or level_px > LARGEST_COUNTED_PX
    is_large = is_large or input_px * mixed_channels > _LARGEST_MIXED_PX
    return asked or is_large or image_bytes > _LARGEST_SINGLE_TILE_BYTES or level > 0


def _grid(
    size_yx: tuple[int, int],
    step_yx: tuple[float, float],
    config: ModelConfig,
    options: SegmentOptions,
    margin_px: int,
    channels: int,
    sample_bytes: int,
) -> Grid:
    """Tiles of the user's size, or of the largest that memory allows."""
    stride = STRIDE[config.network]
    reach_px = -(-reach(config.network, config.fixed_channels) // stride) * stride
    core_px = options.tile_size_px
    if core_px is None:
        bytes_per_px = step_yx[0] * step_yx[1] * (channels * sample_bytes + 12)
        core_px = tile_side(config, channels, margin_px + reach_px, bytes_per_px, options.tta)
    return Grid(*size_yx, core_px, margin_px, reach_px)


def _factors(pixel_size_um: PixelSize, diameter_px: float | None, config: ModelConfig) -> tuple[float, float]:
    """Pixels of the network's input per pixel of the image, down and across.

    A given diameter, the geometric mean of both axes, overrides the file's pixel size, but not the shape of its pixels.
    """
    height, width = sides_um(config.pixel_size_um if pixel_size_um is None else pixel_size_um)
    factors = height / config.pixel_size_um, width / config.pixel_size_um
    if diameter_px is not None:
        factor, ratio = config.diameter_px / diameter_px, math.sqrt(height / width)
        factors = factor * ratio, factor / ratio
    down, across = (1.0 if abs(factor - 1) <= _SAME_SCALE else factor for factor in factors)
    return down, across


def _scaled_size(shape: tuple[int, int, int], factor_yx: tuple[float, float], cause: str) -> tuple[int, int]:
    """Height and width of the network's input; `cause` names the source of the factors in errors."""
    height, width = (max(1, round(side * factor)) for side, factor in zip(shape[1:], factor_yx, strict=True))
    factor = max(factor_yx)
    if min(factor_yx) >= _SMALLEST_FACTOR and factor <= _LARGEST_FACTOR and height * width <= _LARGEST_AREA_PX:
        return height, width
    raise ValueError(
        f"{cause}, so an image of {shape[1]} x {shape[2]} px (height x width) would be segmented at {height} x "
        f"{width} px, {factor:.3g} times as large per side; from 1/{1 / _SMALLEST_FACTOR:g} to {_LARGEST_FACTOR:g} "
        f"times and at most {_LARGEST_AREA_PX:.1e} px are possible: state the right one with --pixel-size in µm or "
        f"--diameter in px (pixel_size_um, diameter_px in Python), or segment a part of the image"
    )


def _level(image: Image, size_yx: tuple[int, int]) -> tuple[int, tuple[float, float]]:
    """Coarsest level that is not coarser than the network's input, and its pixels per pixel of the input."""
    full_y, full_x = image.shape[1:]
    height, width = size_yx
    chosen, shrunk_y, shrunk_x = 0, 1.0, 1.0
    for index, level_yx in enumerate(image.level_shapes[1:], start=1):
        by_y, by_x = _downsampling(full_y, level_yx[0]), _downsampling(full_x, level_yx[1])
        fits = full_y / by_y >= height * (1 - _SAME_SCALE) and full_x / by_x >= width * (1 - _SAME_SCALE)
        if fits and min(by_y, by_x) > min(shrunk_y, shrunk_x):
            chosen, shrunk_y, shrunk_x = index, by_y, by_x
    return chosen, (full_y / height / shrunk_y, full_x / width / shrunk_x)


def _downsampling(full: int, level: int) -> float:
    """Pixels of full resolution per pixel of a level: a whole number where rounding a side explains its size."""
    whole = round(full / level)
    return float(whole) if whole * (level - 1) < full < whole * (level + 1) else full / level
