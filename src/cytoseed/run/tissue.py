"""A whole image at a glance: where in it objects may be, and the one normalisation that all its tiles share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.prepare import percentile_ranks, percentiles, percentiles_of_counts
from cytoseed.images import Box, Image, ImageFileError, Regions
from cytoseed.run.plan import Plan, check_values, choose_stain

LARGEST_COUNTED_PX = 1 << 26
"""Of a level of up to so many px every one counts in the percentiles; of a larger one, those of blocks."""

_READ_BYTES = 1 << 26  # read at a time
_STAIN_BYTES = 200  # that unmixing takes a px
_BAND_PX, _BLOCK_PX = 256, 1024  # bands less high than the one cut compressed tiles too often; then blocks of the other
_SMALLEST_PX = 512  # parts of a damaged file less high and wide than this are not divided further

_GRAINS = 16  # px across the margin, 6 µm: a nucleus shows, dust on glass hardly does
_WINDOW = 6  # windows of local contrast reach a sixth of the margin to each side: two nuclei or so
_DENSE = 0.1  # the background is the narrowest range of values that this share of the px lies in
_NOISE_WIDTHS = 5.0
_FLAT = 2.0  # times the median contrast of windows in the background; noise alone goes to 1.5 times
_CLEAR = 0.1  # the background is to be flatter than this share of the largest contrasts
_GLASS = 0.03  # glass is uneven and dusty: of its brightness

_SAMPLES, _SAMPLE_PX = 64, 512


class Overview(NamedTuple):
    """An image at low resolution."""

    pixels: NDArray[np.float32]
    """(C,h,w) Mean of what each px covers; 0 where it could not be read."""
    step: float
    """Px of the full resolution to one px, down and across."""
    unread: NDArray[np.bool_]
    """(h,w) What could not be read, as the file is damaged there, or holds values that are NaN or infinite."""


def overview(regions: Regions, image: Image, channels: Sequence[int], largest_px: int = 4096) -> Overview:
    """Look at the whole of an image at low resolution, in bounded memory.

    Parameters
    ----------
    regions : Regions
        The image, open.
    image : Image
    channels : sequence of int
        Numbers of the channels to look at.
    largest_px : int
        The longer side is at most this, and at least half of it where the image is so large: of 4096 px, a slide 25 mm
        long has px of 6 to 12 µm, at which a single nucleus still shows. Of a slide's levels the coarsest is read that
        is large enough; without levels, the whole image is, piece by piece.

    Returns
    -------
    Overview
        Of the values as stored, whatever their type.

    Raises
    ------
    ImageFileError
        If nothing of the image can be read.
    """
    shapes = image.level_shapes
    level = _coarsest(shapes, -(-largest_px // 2))
    height, width = shapes[level]
    by = -(-max(height, width) // largest_px)
    pixels = np.zeros((len(channels), -(-height // by), -(-width // by)), np.float32)
    unread = np.zeros(pixels.shape[1:], bool)
    error: ImageFileError | None = None
    boxes = _boxes((height, width), len(channels) * image.dtype.itemsize, by)
    for box, part in _pieces(regions, boxes, level, channels, by):
        top, left, rows, columns = box[0] // by, box[1] // by, -(-box[2] // by), -(-box[3] // by)
        here = slice(top, top + rows), slice(left, left + columns)
        if isinstance(part, ImageFileError):
            unread[here] = True
            error = part
            continue
        for index, channel in enumerate(part):
            with np.errstate(over="ignore", invalid="ignore"):
                pixels[(index, *here)] = _means(channel, by)
    if error is not None and unread.all():
        raise error
    unread |= ~np.isfinite(pixels).all(0)
    pixels[:, unread] = 0
    return Overview(pixels, by * max(image.shape[1:]) / max(height, width), unread)


def find_tissue(seen: Overview, margin_px: int) -> NDArray[np.bool_]:
    """Tell where in an image objects may be.

    The background is the commonest brightness of a channel, glass or darkness, with the width of its noise. Tissue is
    what differs from it in any channel, to either side; and what has contrast within a few cells' width, however
    uneven the background: a single nucleus shows there even where its brightness is the background's elsewhere.
    Without a background that is flat beside the contrasts of the image, and where nothing differs from it, everything
    is tissue, as is what could not be read. Only what is 0 in all channels is not: it was not scanned.

    Parameters
    ----------
    seen : Overview
        Of the channels that objects are looked for in.
    margin_px : int
        Px of the overview by which the tissue is grown to all sides, 0 or more: about 100 µm. The scale of cells is
        taken from it.

    Returns
    -------
    ndarray of bool, shape (h,w)
    """
    import cv2

    by = max(1, margin_px // _GRAINS)
    pixels = [_means(channel, by) for channel in seen.pixels]
    unread = _means(seen.unread, by) > 0
    live = np.any([channel != 0 for channel in pixels], axis=0) & ~unread
    if not live.any():
        return np.ones(seen.unread.shape, bool)
    reach = max(1, margin_px // by // _WINDOW)
    found = np.zeros(live.shape, bool)
    for channel in pixels:
        if channel[live].min() < channel[live].max():
            found |= _stands_out(channel, live, reach)
    if not found.any():
        return np.ones(seen.unread.shape, bool)
    grown = -(-margin_px // by)
    spread = cv2.dilate((found & live | unread).astype(np.uint8), np.ones((2 * grown + 1, 2 * grown + 1), np.uint8))
    height, width = seen.unread.shape
    return spread.astype(bool).repeat(by, 0).repeat(by, 1)[:height, :width]


def intensity_range(
    regions: Regions, image: Image, plan: Plan, tissue: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the values that become 0 and 1 in all tiles of an image: percentiles 0.1 and 99.9 of each channel.

    Of a level of up to 2 ** 26 px they are those of all its pixels, exactly as `core.prepare.percentiles` has them. Of
    a larger one, those of up to 64 blocks of 512 x 512 px that are spread evenly over the tissue; at the same
    resolution, since means over areas have a narrower range: of an H&E section at 0.5 µm a px, means over 16 px span
    78 to 88 % of it.

    Parameters
    ----------
    regions : Regions
        The image, open.
    image : Image
    plan : Plan
        Which level and channels are looked at, and as which stain.
    tissue : ndarray of bool, shape (h,w)
        Of the whole image at any resolution, as `find_tissue` gives it.

    Returns
    -------
    low, high : ndarray of float32, shape (C,)
        Of what `plan.choose_stain` gives. What cannot be read is left out.

    Raises
    ------
    ValueError
        If there are values that are NaN, infinite or beyond what float32 holds.
    ImageFileError
        If nothing of the level, or of all blocks, can be read.
    """
    height, width = plan.level_yx
    if height * width <= LARGEST_COUNTED_PX:
        px_bytes = len(plan.channels) * image.dtype.itemsize if plan.record["stain"] is None else _STAIN_BYTES
        boxes = list(_boxes((height, width), px_bytes))
    else:
        boxes = _samples(tissue, (height, width))
    if plan.record["stain"] is None and _is_counted(image.dtype):
        return _range_of_counts(_readable(regions, boxes, plan.level, plan.channels), len(plan.channels), image.dtype)
    together = plan.record["stain"] is not None  # a stain is told from all channels, else one is held at a time
    ends = []
    for channels in [plan.channels] if together else [(channel,) for channel in plan.channels]:
        values = np.empty(sum(rows * columns for _, _, rows, columns in boxes), np.float32)
        count = 0
        for part in _readable(regions, boxes, plan.level, channels):
            check_values(part)
            seen = choose_stain(part, plan)
            values[count : count + seen.size] = seen.ravel()
            count += seen.size
        ends.append(_range_of_values(values[:count]))
    low, high = np.array(ends, np.float32).T
    return low, high


def range_of_pixels(pixels: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the percentiles of an image that is at hand: those of `core.prepare.percentiles`, in less time.

    Parameters
    ----------
    pixels : ndarray, shape (C,h,w)
        Any real type, finite.

    Returns
    -------
    low, high : ndarray of float32, shape (C,)
    """
    if _is_counted(pixels.dtype):
        return _range_of_counts([pixels], len(pixels), pixels.dtype)
    low, high = percentiles(torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32)))
    return low.numpy(), high.numpy()


def _is_counted(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "biu" and dtype.itemsize <= 2


def _range_of_counts(
    parts: Iterable[NDArray[Any]], channels: int, dtype: np.dtype[Any]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Percentiles of integers of up to 16 bits, from how often each value occurs."""
    lowest = int(np.iinfo(dtype).min) if dtype.kind == "i" else 0
    counts = torch.zeros((channels, 1 << 8 * dtype.itemsize), dtype=torch.int64)
    for part in parts:
        for index, channel in enumerate(part):
            plain = channel.ravel() if dtype == np.uint8 else channel.ravel().astype(np.int32) - lowest
            counts[index] += torch.bincount(torch.from_numpy(plain), minlength=counts.shape[1])
    low, high = percentiles_of_counts(counts, lowest)
    return low.numpy(), high.numpy()


def _range_of_values(values: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Percentiles of values, which are brought into another order."""
    lower, upper = (rank - 1 for rank in percentile_ranks(len(values)))
    values.partition((lower, upper))
    low, high = values[lower], values[upper]
    return (low, high) if low < high else (values.min(), values.max())


def _samples(tissue: NDArray[np.bool_], level_yx: tuple[int, int]) -> list[Box]:
    """Choose blocks of a level, spread evenly over those that are mostly tissue, or have some where none is."""
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
    """Choose up to so many, a power of two, of places (N,2): halve them across their longer side, and so on."""
    groups = [places]
    while len(groups) < most and max(map(len, groups)) > 1:
        halves = []
        for group in groups:
            axis = int(np.argmax(np.ptp(group, axis=0)))
            order = np.lexsort((group[:, 1 - axis], group[:, axis]))
            halves += [part for part in np.array_split(group[order], 2) if len(part)]
        groups = halves
    return [group[np.argmin(((group - group.mean(0)) ** 2).sum(1))] for group in groups]


def _stands_out(channel: NDArray[np.float32], live: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """Tell what is not background (h,w) in one channel; everything where there is none to tell by."""
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
    result: NDArray[np.bool_] = (away > max(_NOISE_WIDTHS * width, uneven)) | (
        contrast > max(_FLAT * usual, uneven / 2)
    )
    return result


def _background(values: NDArray[np.float32]) -> tuple[float, float, bool]:
    """Find the commonest of sorted values, the width of the noise around it, and whether objects are darker.

    The width is that of the side on which no objects are: the one that reaches less far.
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
    """Sort values; of many, about a million spread evenly."""
    return np.sort(values[:: max(1, len(values) >> 20)])


def _means(channel: NDArray[Any], by: int) -> NDArray[np.float32]:
    """Mean over squares of `by` px a side, at the lower and right edge of what is there."""
    if by == 1:
        return channel.astype(np.float32, copy=False)
    sums = _row_sums(_row_sums(channel, by).T, by).T
    height, width = (np.minimum(by, side - np.arange(0, side, by)).astype(np.float32) for side in channel.shape)
    means: NDArray[np.float32] = sums / (height[:, None] * width)
    return means


def _row_sums(values: NDArray[Any], by: int) -> NDArray[np.float32]:
    """Add up every `by` rows; ten times as fast as `np.add.reduceat`."""
    sums = values[::by].astype(np.float32)
    for offset in range(1, by):
        rows = values[offset::by]
        sums[: len(rows)] += rows
    return sums


def _coarsest(shapes: Sequence[tuple[int, int]], least_px: int) -> int:
    """Choose the coarsest level that is not smaller; the full resolution where all are."""
    fitting = [index for index, shape in enumerate(shapes) if max(shape) >= least_px]
    return min(fitting, key=lambda index: max(shapes[index]), default=0)


def _boxes(shape_yx: tuple[int, int], px_bytes: int, grain: int = 1) -> Iterator[Box]:
    """Divide a level into bands, or blocks where bands would be low, whose corners are multiples of `grain`."""
    height, width = shape_yx
    room = _READ_BYTES // px_bytes
    rows, columns = room // width, width
    if rows < min(_BAND_PX, height):
        rows = -(-_BLOCK_PX // grain) * grain
        columns = max(grain, room // rows // grain * grain)
    rows = max(grain, rows // grain * grain)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            yield top, left, min(rows, height - top), min(columns, width - left)


def _readable(regions: Regions, boxes: Iterable[Box], level: int, channels: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Read what can be read of boxes; raise the last error where nothing can."""
    error: ImageFileError | None = None
    was_read = False
    for _, part in _pieces(regions, boxes, level, channels):
        if isinstance(part, ImageFileError):
            error = part
            continue
        was_read = True
        yield part
    if error is not None and not was_read:
        raise error


def _pieces(
    regions: Regions, boxes: Iterable[Box], level: int, channels: Sequence[int], grain: int = 1
) -> Iterator[tuple[Box, NDArray[Any] | ImageFileError]]:
    """Read boxes; what cannot be read is divided, at multiples of `grain`, until it is small, and told."""
    waiting = list(boxes)[::-1]
    while waiting:
        box = waiting.pop()
        try:
            yield box, regions.read(box, level, channels)
        except ImageFileError as error:
            top, left, height, width = box
            if max(height, width) <= max(_SMALLEST_PX, grain):
                yield box, error
                continue
            axis = 0 if height >= width else 1
            half = -(-max(height, width) // (2 * grain)) * grain
            if axis == 0:
                waiting += [(top + half, left, height - half, width), (top, left, half, width)]
            else:
                waiting += [(top, left + half, height, width - half), (top, left, height, half)]
