"""Optical density of the stains in brightfield images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.settings import STAINS

RGB_NAMES = (("red", "green", "blue"), ("channel 0", "channel 1", "channel 2"))
"""Channel names of RGB images; those without names most likely are."""

_WHITE = 255
_WITHOUT_DAB = STAINS[:2]
_GLASS = 215  # brightness from which a pixel shows no tissue
_MUCH_BROWN = 0.05  # of 161 H&E images of four sets all have less than 0.006, a section with DAB in the cytoplasm 0.6
# Of dense H&E (TCGA, crops of 256 px) the median is 114 and more, of fluorescence stretched to its range mostly below
# 45; a picture in one pure colour never reaches 86
_BRIGHT = 96
_PIXELS_AT_ONCE = 1 << 20
_TAKEN_AT_ONCE = 1 << 16  # indices of a look-up take 8 times the memory of the colours


def may_be_stained(channel_names: Sequence[str], dtype: np.dtype[Any]) -> bool:
    """Whether an image has the channels of a colour picture of 8 bits: called red, green, blue, or without names."""
    return dtype == np.uint8 and tuple(channel_names) in RGB_NAMES


def stains_of(pixels: NDArray[Any], channel_names: Sequence[str]) -> tuple[str, ...]:
    """Stains that are measured in an image (C,H,W), or its pixels (C,N), in full or at a lower resolution.

    Haematoxylin and eosin for a brightfield picture, with much brown also DAB (`STAINS`): red, green and blue of 8
    bits, or three such channels without names; not all grey; and bright: the median of its pixels' brightness, the mean
    of the three channels, is 96 of 255 or more. Else none.
    """
    if not may_be_stained(channel_names, pixels.dtype) or not pixels.size:
        return ()
    number = math.prod(pixels.shape[1:])
    rows = max(1, _PIXELS_AT_ONCE * pixels.shape[1] // number)
    bright, stained, brown, is_grey = 0, 0, 0, True
    for begin in range(0, pixels.shape[1], rows):
        red, green, blue = pixels[:, begin : begin + rows]
        brightness = red.astype(np.uint16)
        brightness += green
        brightness += blue
        bright += int(np.count_nonzero(brightness >= 3 * _BRIGHT))
        is_stained = brightness < 3 * _GLASS
        stained += int(np.count_nonzero(is_stained))
        brown += int(np.count_nonzero(is_stained & _is_brown(red, green, blue)))
        is_grey = is_grey and np.array_equal(red, green) and np.array_equal(green, blue)
    if 2 * bright < number or is_grey:
        return ()
    return STAINS if brown > _MUCH_BROWN * stained else _WITHOUT_DAB


def _is_brown(red: NDArray[np.uint8], green: NDArray[np.uint8], blue: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a pixel has the colour of DAB: green above blue, red far above. In H&E blue is above green."""
    lower = blue.astype(np.int16)
    return np.asarray((green - lower > 15) & (red - lower > 40))


def stain_density(colours: Sequence[NDArray[Any]], stain: str, stains: Sequence[str] = STAINS) -> NDArray[np.float32]:
    """Optical density (log10) of one stain by colour deconvolution (Ruifrok and Johnston 2001), (N,) float32.

    Scikit-image's vectors are used: of haematoxylin and eosin alone where `stains`, those of the picture, are without
    DAB, so that no brown is subtracted that is not there. `colours` are red, green and blue of the pixels, each (N,)
    uint8: 255 is the light without a section; 0 counts as 1. About 0 to 2, below 0 where the colour is beyond what the
    stains make; not clipped, so that means are right. A ValueError for other channels names their types.
    """
    kinds = [str(colour.dtype) for colour in colours]
    if kinds != ["uint8"] * 3:
        raise ValueError(
            f"the channels have the types {kinds}; the optical density of {stain} is that of red, green and blue of "
            f"8 bits: leave stains out"
        )
    density = np.log10(_WHITE / np.maximum(np.arange(_WHITE + 1), 1))
    red, green, blue = (density[:, None] * _unmixing(stains)[:, STAINS.index(stain)]).T.astype(np.float32)
    amount = np.empty(len(colours[0]), np.float32)
    for begin in range(0, len(amount), _TAKEN_AT_ONCE):
        part = slice(begin, begin + _TAKEN_AT_ONCE)
        amount[part] = red.take(colours[0][part])
        amount[part] += green.take(colours[1][part])
        amount[part] += blue.take(colours[2][part])
    return amount


def _unmixing(stains: Sequence[str]) -> NDArray[np.float64]:
    """Matrix from optical densities of red, green and blue to stains; of two, the third is what neither makes."""
    from skimage.color import hed_from_rgb, rgb_from_hed

    if "dab" in stains:
        return np.asarray(hed_from_rgb)
    rest = np.cross(*rgb_from_hed[:2])
    return np.linalg.inv(np.stack([*rgb_from_hed[:2], rest / np.linalg.norm(rest)]))
