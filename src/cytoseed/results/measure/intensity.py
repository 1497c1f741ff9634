"""Mean, spread and percentiles of the pixels of many objects, without a loop over objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.runs import portions

_PERCENTS = (5, 25, 50, 75, 95)
_PIXELS_AT_ONCE = 1 << 16  # they fit into a processor's cache

STATISTICS = ("mean", "sd", *(f"p{percent:02d}" for percent in _PERCENTS))
"""Statistics of each object, in order, as the columns of the table begin."""


def values_at(at: NDArray[np.int64], shape_yx: tuple[int, int], channel: NDArray[Any]) -> NDArray[Any]:
    """Values (N,) of a channel (H,W) at the pixels of `Runs.pixels`; it must have the shape of the labels."""
    if channel.shape != shape_yx:
        raise ValueError(f"a channel has shape {channel.shape}; it must be that of the labels, {shape_yx}")
    values: NDArray[Any] = channel.reshape(-1).take(at)
    return values


def measure_values(values: NDArray[Any], area: NDArray[np.int64]) -> NDArray[np.float64]:
    """Statistics (7,K), float64, of the values of each of K objects, in the order of `STATISTICS`.

    `values` (N,) are booleans, integers or real numbers, of all pixels of the first object, then of the next; `area`
    (K,) is the number of pixels of each, 1 or more. The standard deviation is that of the pixels as the whole
    population; percentiles are interpolated linearly, as `numpy.percentile` does. All are NaN where the mean is: with a
    NaN pixel, or both infinities. They are the same, bit for bit, for any order of the values.
    """
    found = np.empty((len(STATISTICS), len(area)))
    first = np.cumsum(area) - area
    for portion in portions(area, _PIXELS_AT_ONCE):
        own = area[portion]
        begin = int(first[portion.start])
        ordered = _sorted_each(values[begin : begin + int(own.sum())], own)
        with np.errstate(invalid="ignore", over="ignore"):  # non-finite values give non-finite results
            found[:, portion] = _described(ordered, first[portion] - begin, own)
    return found


def _described(ordered: NDArray[np.float64], first: NDArray[np.int64], area: NDArray[np.int64]) -> NDArray[np.float64]:
    """Statistics of objects whose values are sorted, each from `first` on."""
    mean = np.add.reduceat(ordered, first) / area
    away = ordered - np.repeat(mean, area)
    away *= away
    rank = (area - 1) * (np.array(_PERCENTS) / 100)[:, None]
    below = rank.astype(np.int64)
    share = rank - below
    low, high = ordered[first + below], ordered[first + np.minimum(below + 1, area - 1)]
    step = high - low
    percentiles = np.where(share < 0.5, low + step * share, high - step * (1 - share))  # exact at both ends
    percentiles[:, np.isnan(mean)] = np.nan
    return np.concatenate([mean[None], np.sqrt(np.add.reduceat(away, first) / area)[None], percentiles])


def _sorted_each(values: NDArray[Any], area: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sort the values of each object; NaN comes first or last.

    Numbers of up to 32 bits become the lower half of a whole number whose upper half is the object's place. Processors
    sort such numbers several times as fast as they find an order by two keys.
    """
    place = np.repeat(np.arange(len(area)), area)
    is_float = values.dtype.kind == "f"
    if is_float and values.dtype.itemsize <= 4:
        key = _swapped(values.astype(np.float32, copy=False).view(np.int32)).astype(np.int64)
    elif not is_float and np.can_cast(values.dtype, np.int32):
        key = values.astype(np.int64)
    else:
        order = np.argsort(values)
        order = order[np.argsort(place[order].astype(np.uint16), kind="stable")]  # 16 bits: in linear time
        return values[order].astype(np.float64, copy=False)
    key += place << 32
    key.sort()
    lower = key.astype(np.int32)
    return (_swapped(lower).view(np.float32) if is_float else lower).astype(np.float64)


def _swapped(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Bits of floats as whole numbers in the same order, and back: those of negative ones run backwards."""
    return bits ^ (bits >> 31 & np.int32(0x7FFFFFFF))
