"""The door for arrays given in Python, and the check that every image's pixels pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoseed.images.image import RGB_NAMES, numbered_names

_COLOURS = (3, 4)  # lengths of a last axis that is RGB or RGBA
_MANY = 16  # more channels than this, over a last axis of no more than this: the axes are in another order


def as_image(array: ArrayLike) -> NDArray[Any]:
    """Bring an array to the axes (C,H,W).

    Taken are, for any boolean, integer or floating type:

    - (H,W): one channel;
    - (H,W,3) and (H,W,4): RGB and RGBA, whose alpha is dropped;
    - (C,H,W): everything else of three axes.

    Parameters
    ----------
    array : array_like
        The image. It is never changed.

    Returns
    -------
    ndarray, shape (C,H,W)
        C-contiguous, in the machine's byte order; shares memory with `array` where nothing had to move.

    Raises
    ------
    TypeError
        If the values are complex, objects, text or dates.
    ValueError
        If there are fewer than two or more than three axes, or if the axes can be read in two ways:
        3 or 4 long both first and last, or as in (512,512,2), where the channels seem to come last.
    """
    pixels = np.asarray(array)
    if pixels.dtype.kind not in "buif":
        raise TypeError(
            f"image has values of type {pixels.dtype}; allowed are booleans, integers and real numbers: "
            f"convert it first, for example with image.astype('float32')"
        )
    if pixels.ndim == 2:
        pixels = pixels[None]
    elif pixels.ndim != 3:
        raise ValueError(
            f"image has shape {pixels.shape}; allowed are (H,W), (H,W,3), (H,W,4) and (C,H,W): "
            f"give one 2-D plane, or a projection such as stack.max(axis=0)"
        )
    elif pixels.shape[2] in _COLOURS:
        if pixels.shape[0] in _COLOURS:
            raise ValueError(
                f"image has shape {pixels.shape}, which can be read as (C,H,W) and as (H,W,C); "
                f"save it as a TIFF whose axes are named and give its path, or pad it by a pixel"
            )
        pixels = np.moveaxis(pixels[:, :, :3], 2, 0)
    elif min(pixels.shape[:2]) > _MANY >= pixels.shape[2]:
        raise ValueError(
            f"image has shape {pixels.shape}, where the channels seem to come last; "
            f"they go first, (C,H,W): np.moveaxis(image, -1, 0)"
        )
    native = pixels.dtype.newbyteorder("=")
    return np.ascontiguousarray(pixels, dtype=native)


def check_pixels(pixels: NDArray[Any]) -> None:
    """Refuse images that cannot be segmented: empty ones, and values that are no numbers.

    An image of one value throughout is fine.

    Parameters
    ----------
    pixels : ndarray, shape (C,H,W)
        Any boolean, integer or floating type.

    Raises
    ------
    ValueError
        If an axis is 0 long, or if a value is NaN or infinite.
    """
    if 0 in pixels.shape:
        raise ValueError(f"image has shape {pixels.shape} (C,H,W), so no pixels; every axis must be 1 or more")
    if pixels.dtype.kind != "f":
        return
    finite = np.isfinite(pixels)
    bad = finite.size - int(np.count_nonzero(finite))
    if bad:
        channel, row, column = np.unravel_index(int(np.argmin(finite)), finite.shape)
        raise ValueError(
            f"image has {bad} value{'s' * (bad > 1)} that {'are' if bad > 1 else 'is'} NaN or infinite, the "
            f"first in channel {channel}, row {row}, column {column}; every value must be "
            f"a finite number: np.nan_to_num(image, nan=0, posinf=0, neginf=0) puts 0 in their place"
        )


def array_channel_names(array: ArrayLike) -> tuple[str, ...]:
    """Name the channels of `as_image(array)`: `red`, `green`, `blue` where the last axis was RGB or RGBA."""
    shape = np.shape(array)
    if len(shape) == 3 and shape[2] in _COLOURS:
        return RGB_NAMES
    return numbered_names(shape[0] if len(shape) == 3 else 1)
