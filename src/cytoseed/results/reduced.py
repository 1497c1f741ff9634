"""An image and its labels made smaller, for looking at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_AVERAGED = ("uint8", "uint16", "int16", "float32", "float64")  # types of which OpenCV makes means


def fitted(sides_px: Sequence[int], largest_px: int) -> tuple[int, int]:
    """Give the height and width of an image made smaller, where it has to be, to at most `largest_px` a side.

    Raises
    ------
    ValueError
        If `largest_px` is not 1 or more.
    """
    if largest_px < 1:
        raise ValueError(f"largest_px is {largest_px}; it must be 1 or more")
    height, width = sides_px
    largest = max(height, width)
    if largest <= largest_px:
        return height, width
    return max(1, round(height * largest_px / largest)), max(1, round(width * largest_px / largest))


def reduce_image(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Shrink an image (C,H,W) by means over areas; types that cannot be averaged become float32."""
    import cv2

    small = np.empty((len(image), height, width), image.dtype if image.dtype.name in _AVERAGED else np.float32)
    for index, channel in enumerate(image):
        small[index] = cv2.resize(
            channel.astype(small.dtype, copy=False), (width, height), interpolation=cv2.INTER_AREA
        )
    return small


def centres(large: int, small: int) -> NDArray[np.int64]:
    """Find, for each of `small` pixels along an axis, the one of `large` in which its centre lies."""
    return (2 * np.arange(small) + 1) * large // (2 * small)
