"""Survey of an image at low resolution: normalisation shared by all tiles, tissue, stains, and the tiles to process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.prepare import percentile_ranks, percentiles, percentiles_of_counts
from cytoseed.images import Image, Regions
from cytoseed.images.overview import Overview, area_means, bands, overview
from cytoseed.results.measure.stains import may_be_stained, stains_of
from cytoseed.run.plan import LARGEST_COUNTED_PX, Plan, check_values, select_stain
from cytoseed.run.tiles import Box

_MARGIN_PX = 200  # margin around tissue, in px of the network's input: 100 µm at its usual scale
_STAIN_BYTES = 200  # memory that unmixing takes per pixel
_SAMPLES, _SAMPLE_PX = 64, 512
_GRAINS = 16  # px across the margin, 6 µm each: a nucleus is visible, dust on glass hardly
_WINDOW = 6  # windows of local contrast reach a sixth of the margin to each side: about two nuclei
_DENSE = 0.1  # the background is the narrowest range of values that holds this share of the pixels
_NOISE_WIDTHS = 5.0
_FLAT = 2.0  # tissue exceeds this many times the median contrast of the background; noise reaches 1.5 times
_CLEAR = 0.1  # the background must be flatter than this share of the largest contrasts
_LEAST_STEPS = 16  # of float32, from the smallest value to the largest
_GLASS = 0.03  # variation of glass, which is uneven and dusty, as a share of its brightness


class Limits(NamedTuple):
    """Values (C,) of each channel that the network receives as 0 and as 1."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


def survey(
    image: Image, regions: Regions, plan: Plan, skip_background: bool
) -> tuple[Limits, list[int], tuple[str, ...]]:
    """Survey an image that is open as `regions`; `skip_background` leaves out tiles without tissue.

    Returns the normalisation, the numbers of the tiles to process in ascending order, and the stains to measure.
    """
    picture = overview(regions, image, plan.channels)
    tissue = find_tissue(picture, math.ceil(_MARGIN_PX * plan.full_yx[0] / plan.size_yx[0] / picture.step))
    limits = intensity_limits(regions, image, plan, tissue)
    everywhere = tissue if skip_background else np.ones_like(tissue)
    todo = []
    for index in range(plan.grid.tiles):
        top, left, height, width = plan.full_box(plan.grid.tile(index).core_yxhw)
        widened = (top - 1, left - 1, height + 2, width + 2)  # a rescaled point can lie a little beyond its tile
        ends = [(int(a / picture.step), math.ceil((a + n) / picture.step)) for a, n in ((top, height), (left, width))]
        if plan.area.meets(widened) and everywhere[slice(*ends[0]), slice(*ends[1])].any():
            todo.append(index)
    return limits, todo, _stains(image, regions, plan, picture)


def _stains(image: Image, regions: Regions, plan: Plan, picture: Overview) -> tuple[str, ...]:
    """Stains to measure, judged by all channels of the image, not only those that are segmented."""
    if not may_be_stained(image.channel_names, image.dtype):
        return ()
    if tuple(plan.channels) != (0, 1, 2):  # the colours decide, in their order
        picture = overview(regions, image, range(3))
    pixels = picture.pixels[:, ~picture.unread]
    return stains_of(np.rint(pixels).astype(np.uint8), image.channel_names)


def intensity_limits(regions: Regions, image: Image, plan: Plan, tissue: NDArray[np.bool_]) -> Limits:
    """Percentiles 0.1 and 99.9 of each channel, the same for all tiles.

    In levels of up to 2 ** 26 px all pixels count, exactly as in `core.prepare.percentiles`. In larger ones, up to 64
    blocks of 512 x 512 px count, spread evenly over the tissue, at the resolution that is segmented: means over 16 px
    of an H&E section at 0.5 µm per px span only 78 to 88 % of its range.
    """
    unmixes = plan.record["stain"] is not None
    px_bytes = _STAIN_BYTES if unmixes else len(plan.channels) * image.dtype.itemsize
    is_large = plan.level_yx[0] * plan.level_yx[1] > LARGEST_COUNTED_PX
    boxes = _samples(tissue, plan.level_yx) if is_large else list(bands(plan.level_yx, px_bytes))
    if not unmixes and _is_counted(image.dtype):
        parts = (regions.read(box, plan.level, plan.channels) for box in boxes)
        return _limits_of_counts(parts, len(plan.channels), image.dtype)
    ends = []
    for channels in [plan.channels] if unmixes else [(one,) for one in plan.channels]:  # one in memory at a time
        extremes: list[float] = []
        values = np.empty(sum(rows * columns for _, _, rows, columns in boxes), np.float32)
        count = 0
        for box in boxes:
            part = regions.read(box, plan.level, channels)
            check_values(part)
            selected = select_stain(part, plan)
            values[count : count + selected.size] = selected.ravel()
            extremes += [float(selected.min()), float(selected.max())]
            count += selected.size
        _require_precision(extremes, image.dtype)
        ends.append(_limits_of_values(values))
    low, high = np.array(ends, np.float32).T
    return Limits(low, high)


def pixel_limits(pixels: NDArray[Any]) -> Limits:
    """Percentiles of an image (C,h,w) in memory: those of `core.prepare.percentiles`, but faster."""
    if _is_counted(pixels.dtype):
        return _limits_of_counts([pixels], len(pixels), pixels.dtype)
    for channel in pixels:
        _require_precision([float(channel.min()), float(channel.max())], pixels.dtype)
    low, high = percentiles(torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)))
    return Limits(low.numpy(), high.numpy())


def _is_counted(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biu" and dtype.itemsize <= 2


def _require_precision(extremes: Sequence[float], dtype: np.dtype[Any]) -> None:
    """Refuse values that lie so far from 0 that float32 cannot tell them apart."""
    least, most = min(extremes), max(extremes)
    coarse = _LEAST_STEPS * float(np.spacing(np.float32(max(-least, most))))
    if dtype != np.float32 and 1 <= most - least < coarse:
        raise ValueError(
            f"image has values from {least!r} to {most!r}, which float32 can hardly tell apart: subtract {least:g}"
        )


def _limits_of_counts(parts: Iterable[NDArray[Any]], channels: int, dtype: np.dtype[Any]) -> Limits:
    """Percentiles of integers of up to 16 bits, from their histogram."""
    lowest = int(np.iinfo(dtype).min) if dtype.kind == "i" else 0
    counts = torch.zeros((channels, 1 << 8 * dtype.itemsize), dtype=torch.int64)
    for part in parts:
        for index, channel in enumerate(part):
            plain = channel.ravel() if dtype == np.uint8 else channel.ravel().astype(np.int32) - lowest
            counts[index] += torch.bincount(torch.from_numpy(plain), minlength=counts.shape[1])
    low, high = percentiles_of_counts(counts, lowest)
    return Limits(low.numpy(), high.numpy())


def _limits_of_values(values: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Percentiles of values; the array is reordered."""
    lower, upper = (rank - 1 for rank in percentile_ranks(len(values)))
    values.partition((lower, upper))
    low, high = values[lower], values[upper]
    return (low, high) if low < high else (values.min(), values.max())


def _samples(tissue: NDArray[np.bool_], level_yx: tuple[int, int]) -> list[Box]:
    """Blocks of a level, spread evenly over those that are mostly tissue; if none is, over those with the most."""
    corners = [np.arange(0, side, _SAMPLE_PX) for side in level_yx]
    first = [(own * len_ // side) for own, len_, side in zip(corners, tissue.shape, level_yx, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(tissue.astype(np.int32), first[0], 0), first[1], 1)
    px = [np.maximum(1, np.diff(own, append=len_)) for own, len_ in zip(first, tissue.shape, strict=True)]
    share = sums / (px[0][:, None] * px[1])
    enough = min(0.5, float(share.max()))
    chosen = _spread(np.argwhere(share >= enough), _SAMPLES)
    places = [(int(row) * _SAMPLE_PX, int(column) * _SAMPLE_PX) for row, column in chosen]
    return [(y, x, min(_SAMPLE_PX, level_yx[0] - y), min(_SAMPLE_PX, level_yx[1] - x)) for y, x in places]


def _spread(places: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """Up to `most` (a power of two) of the places (N,2), by halving groups across their longer side."""
    groups = [places]
    while len(groups) < most and max(map(len, groups)) > 1:
        halves = []
        for group in groups:
            axis = int(np.argmax(np.ptp(group, axis=0)))
            order = np.lexsort((group[:, 1 - axis], group[:, axis]))
            halves += [part for part in np.array_split(group[order], 2) if len(part)]
        groups = halves
    return [group[np.argmin(((group - group.mean(0)) ** 2).sum(1))] for group in groups]


def find_tissue(image: Overview, margin_px: int) -> NDArray[np.bool_]:
    """Mask (h,w) of the tissue in an overview: everything that may hold objects.

    The background is the most common brightness of a channel, glass or darkness, with the width of its noise. Tissue
    differs from it in any channel, to either side, or has contrast within a few cells' width: a single nucleus shows
    up there, however uneven the background. If no background is flat compared with the contrasts of the image, or if
    nothing differs from it, everything is tissue. Pixels that are 0 in all channels were not scanned and are never
    tissue. Tissue grows by `margin_px` px of the overview, about 100 µm, from which the scale of cells is derived.
    """
    import cv2

    by = max(1, margin_px // _GRAINS)
    pixels = [area_means(channel, by) for channel in image.pixels]
    unread = area_means(image.unread, by) > 0
    live = np.any([channel != 0 for channel in pixels], axis=0) & ~unread
    if not live.any():
        return image.unread
    reach = max(1, margin_px // by // _WINDOW)
    found = np.zeros(live.shape, bool)
    for channel in pixels:
        if channel[live].min() < channel[live].max():
            found |= _stands_out(channel, live, reach)
    if not found.any():
        return np.ones(image.unread.shape, bool)
    grown = -(-margin_px // by)
    spread = cv2.dilate((found & live | unread).astype(np.uint8), np.ones((2 * grown + 1, 2 * grown + 1), np.uint8))
    height, width = image.unread.shape
    return spread.astype(bool).repeat(by, 0).repeat(by, 1)[:height, :width]


def _stands_out(channel: NDArray[np.float32], live: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Pixels (h,w) of one channel that are not background; all of them where no background can be found."""
    import cv2

    values = _sorted(channel[live])
    mode, width, is_bright = _background(values)
    uneven = _GLASS * mode if is_bright else 0.0
    filled = np.where(live, channel, np.float32(mode))
    window = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    contrast: NDArray[np.float32] = cv2.dilate(filled, window) - cv2.erode(filled, window)
    away = np.abs(filled - mode)
    usual = float(np.median(_sorted(contrast[live & (away <= max(2 * width, uneven / 3))])))
    contrasts = _sorted(contrast[live])
    if _FLAT * usual >= _CLEAR * contrasts[int(0.999 * (len(contrasts) - 1))]:
        return np.ones(channel.shape, bool)
    differs: NDArray[np.bool_] = away > max(_NOISE_WIDTHS * width, uneven)
    return differs | (contrast > max(_FLAT * usual, uneven / 2))


def _background(values: NDArray[np.float32]) -> tuple[float, float, bool]:
    """Most common of sorted values, width of the noise around it, and whether objects are darker than it.

    The width is measured on the side without objects, where values reach less far.
    """
    share = max(1, len(values) // round(1 / _DENSE))
    spans = values[share:] - values[:-share]
    narrowest = np.flatnonzero(spans <= spans.min()) if len(spans) else np.zeros(1, int)
    mode = float(values[int(narrowest[len(narrowest) // 2]) + share // 2]) if len(spans) else float(values[0])
    least, most = (float(values[int(rank * (len(values) - 1))]) for rank in (0.001, 0.999))
    is_bright = most - mode < mode - least
    clean = values[values > mode] - mode if is_bright else mode - values[values < mode]
    return mode, 1.4826 * float(np.median(clean)) if len(clean) else 0.0, is_bright  # sigma of a normal distribution


def _sorted(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sorted values; if there are many, about a million of them, spread evenly."""
    return np.sort(values[:: max(1, len(values) >> 20)])
