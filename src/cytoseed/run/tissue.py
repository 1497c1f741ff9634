"""Tissue detection on an image's overview."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.overview import Overview, area_means

_GRAINS = 16  # px across the margin, 6 µm: a nucleus shows, dust on glass hardly does
_WINDOW = 6  # windows of local contrast reach a sixth of the margin to each side: about two nuclei
_DENSE = 0.1  # the background is the narrowest range of values that holds this share of the pixels
_NOISE_WIDTHS = 5.0
_FLAT = 2.0  # times the median contrast of windows in the background; noise alone reaches 1.5 times
_CLEAR = 0.1  # the background must be flatter than this share of the largest contrasts
_GLASS = 0.03  # glass is uneven and dusty: share of its brightness


def find_tissue(image: Overview, margin_px: int) -> NDArray[np.bool_]:
    """Mask (h,w) of the tissue in an overview: everything that may hold objects.

    The background is the commonest brightness of a channel, glass or darkness, with the width of its noise. Tissue is
    everything that differs from it in any channel, to either side, and everything with contrast within a few cells'
    width, however uneven the background: a single nucleus shows there even where its brightness equals that of the
    background elsewhere. Without a background that is flat beside the contrasts of the image, and where nothing
    differs from it, everything is tissue. Pixels that are 0 in all channels were not scanned and are never tissue.

    Parameters
    ----------
    image : Overview
        Of the channels in which objects are searched.
    margin_px : int
        Pixels of the overview by which tissue grows on all sides, 0 or more: about 100 µm. The scale of cells is
        derived from it.
    """
    import cv2

    by = max(1, margin_px // _GRAINS)
    pixels = [area_means(channel, by) for channel in image.pixels]
    unread = area_means(image.unread, by) > 0
    live = np.any([channel != 0 for channel in pixels], axis=0) & ~unread
    if not live.any():
        return np.ones(image.unread.shape, bool)
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
    result: NDArray[np.bool_] = (away > max(_NOISE_WIDTHS * width, uneven)) | (
        contrast > max(_FLAT * usual, uneven / 2)
    )
    return result


def _background(values: NDArray[np.float32]) -> tuple[float, float, bool]:
    """Commonest of sorted values, width of the noise around it, and whether objects are darker than it.

    The width is measured on the side without objects: the one that reaches less far.
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
    """Sorted values; of many, about a million spread evenly."""
    return np.sort(values[:: max(1, len(values) >> 20)])
