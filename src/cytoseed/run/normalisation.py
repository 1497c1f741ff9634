"""One normalisation for all tiles of an image: percentiles 0.1 and 99.9 of each channel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.prepare import percentile_ranks, percentiles, percentiles_of_counts
from cytoseed.images import Box, Image, Regions
from cytoseed.images.overview import bands
from cytoseed.run.plan import LARGEST_COUNTED_PX, Plan, check_values, select_stain

_STAIN_BYTES = 200  # memory per pixel of unmixing
_SAMPLES, _SAMPLE_PX = 64, 512


class Limits(NamedTuple):
    """Values of each channel that the network receives as 0 and as 1."""

    low: NDArray[np.float32]
    """(C,)"""
    high: NDArray[np.float32]
    """(C,)"""


def intensity_limits(regions: Regions, image: Image, plan: Plan, tissue: NDArray[np.bool_]) -> Limits:
    """Percentiles 0.1 and 99.9 of each channel, the same for all tiles.

    Levels of up to 2 ** 26 px count with all pixels, exactly as `core.prepare.percentiles` does. Larger ones count
    with up to 64 blocks of 512 x 512 px spread evenly over the tissue, at the resolution that is segmented: means at a
    lower resolution have a narrower range (of an H&E section at 0.5 µm per px, means over 16 px span 78 to 88 %).

    Raises
    ------
    ValueError
        Values that are NaN, infinite or beyond float32; an `ImageFileError` where pixels cannot be read.
    """
    height, width = plan.level_yx
    if height * width <= LARGEST_COUNTED_PX:
        px_bytes = len(plan.channels) * image.dtype.itemsize if plan.record["stain"] is None else _STAIN_BYTES
        boxes = list(bands((height, width), px_bytes))
    else:
        boxes = _samples(tissue, (height, width))
    if plan.record["stain"] is None and _is_counted(image.dtype):
        parts = (regions.read(box, plan.level, plan.channels) for box in boxes)
        return _limits_of_counts(parts, len(plan.channels), image.dtype)
    together = plan.record["stain"] is not None  # unmixing needs all channels; else one is held at a time
    ends = []
    for channels in [plan.channels] if together else [(channel,) for channel in plan.channels]:
        values = np.empty(sum(rows * columns for _, _, rows, columns in boxes), np.float32)
        count = 0
        for box in boxes:
            part = regions.read(box, plan.level, channels)
            check_values(part)
            selected = select_stain(part, plan)
            values[count : count + selected.size] = selected.ravel()
            count += selected.size
        ends.append(_limits_of_values(values[:count]))
    low, high = np.array(ends, np.float32).T
    return Limits(low, high)


def pixel_limits(pixels: NDArray[Any]) -> Limits:
    """Percentiles of an image (C,h,w) in memory: those of `core.prepare.percentiles`, in less time."""
    if _is_counted(pixels.dtype):
        return _limits_of_counts([pixels], len(pixels), pixels.dtype)
    low, high = percentiles(torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)))
    return Limits(low.numpy(), high.numpy())


def _is_counted(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biu" and dtype.itemsize <= 2


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
    """Blocks of a level spread evenly over those that are mostly tissue, or hold some where none is."""
    corners = [np.arange(0, side, _SAMPLE_PX) for side in level_yx]
    first = [(own * len_ // side) for own, len_, side in zip(corners, tissue.shape, level_yx, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(tissue.astype(np.int32), first[0], 0), first[1], 1)
    px = [np.maximum(1, np.diff(own, append=len_)) for own, len_ in zip(first, tissue.shape, strict=True)]
    share = sums / (px[0][:, None] * px[1])
    enough = min(0.5, float(share.max()))
    chosen = _spread(np.argwhere(share >= enough), _SAMPLES)
    height, width = level_yx
    places = [(int(corners[0][row]), int(corners[1][column])) for row, column in chosen]
    return [(y, x, min(_SAMPLE_PX, height - y), min(_SAMPLE_PX, width - x)) for y, x in places]


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
