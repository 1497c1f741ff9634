"""Python arrays as images, and the check that every image's pixels pass."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoseed.images.image import RGB_NAMES, Image, numbered_names
from cytoseed.images.pixel_size import NOT_STATED
from cytoseed.images.regions import Box, Regions, channel_runs

_COLOURS = (3, 4)  # lengths of a last axis that is RGB or RGBA
_MANY = 16  # more channels than this, over a last axis of no more than this: the axes are in another order


def image_of(array: ArrayLike) -> Image:
    """Array as an `Image`; its pixels are neither read nor copied, and must not change while the image is in use.

    Taken are, for any boolean, integer or floating type: (H,W), one channel; (H,W,3) and (H,W,4), RGB and RGBA, whose
    alpha is dropped; (C,H,W), everything else of three axes. An array of Dask or Zarr, or a memory map, is read region
    by region.

    Raises
    ------
    TypeError
        The values are complex, objects, text or dates.
    ValueError
        There are fewer than two or more than three axes, or they can be read in two ways: 3 or 4 long both first and
        last, or as in (512,512,2), where the channels seem to come last.
    """
    source: Any = array if _is_lazy(array) else np.asarray(array)
    shape = tuple(source.shape)
    axes = _axes(shape, source.dtype)
    height, width = shape[-2:] if axes is _Axes.CYX else shape[:2]
    names = RGB_NAMES if axes is _Axes.YXS else numbered_names(int(shape[0]) if axes is _Axes.CYX else 1)
    return Image(
        path=None,
        shape=(len(names), int(height), int(width)),
        dtype=np.dtype(source.dtype).newbyteorder("="),
        channel_names=names,
        pixel_size_yx_um=None,
        pixel_size_source=NOT_STATED,
        level_shapes=((int(height), int(width)),),
        connect=partial(_connect, source, axes),
    )


def check_pixels(pixels: NDArray[Any]) -> None:
    """Raise `ValueError` for pixels (C,H,W) without any px, or with values that are NaN or infinite."""
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


class _Axes(Enum):
    """Axes of an array."""

    YX = "(H,W)"
    YXS = "(H,W,3) or (H,W,4)"
    CYX = "(C,H,W)"


def _axes(shape: tuple[int, ...], dtype: Any) -> _Axes:
    """Axes by the shape; refuse shapes that are ambiguous."""
    if np.dtype(dtype).kind not in "buif":
        raise TypeError(
            f"image has values of type {dtype}; allowed are booleans, integers and real numbers: "
            f"convert it first, for example with image.astype('float32')"
        )
    if not all(isinstance(size, Integral) for size in shape):
        raise ValueError(f"image has shape {shape}; its size must be known: in Dask, array.compute_chunk_sizes()")
    if len(shape) == 2:
        return _Axes.YX
    if len(shape) != 3:
        raise ValueError(
            f"image has shape {shape}; allowed are (H,W), (H,W,3), (H,W,4) and (C,H,W): "
            f"give one 2-D plane, or a projection such as stack.max(axis=0)"
        )
    if shape[2] in _COLOURS:
        if shape[0] in _COLOURS:
            raise ValueError(
                f"image has shape {shape}, which can be read as (C,H,W) and as (H,W,C); "
                f"save it as a TIFF whose axes are named and give its path, or pad it by a pixel"
            )
        return _Axes.YXS
    if min(shape[:2]) > _MANY >= shape[2]:
        raise ValueError(
            f"image has shape {shape}, where the channels seem to come last; "
            f"they go first, (C,H,W): np.moveaxis(image, -1, 0)"
        )
    return _Axes.CYX


def _is_lazy(array: Any) -> bool:
    """Whether an object can be read slice by slice like a NumPy array."""
    if not all(hasattr(array, name) for name in ("shape", "dtype", "ndim", "__getitem__")):
        return False
    try:
        np.dtype(array.dtype)
    except TypeError:  # a type that NumPy does not know, as PyTorch's
        return False
    return True


def _connect(source: Any, axes: _Axes) -> AbstractContextManager[Regions]:
    return nullcontext(_Slices(source, axes))


class _Slices(NamedTuple):
    """Regions of anything that has slices."""

    source: Any
    axes: _Axes

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:  # noqa: ARG002
        top, left, height, width = box_yxhw
        rows, columns = slice(top, top + height), slice(left, left + width)
        chosen = list(channels or ())
        if self.axes is _Axes.YX:
            pixels = np.repeat(np.asarray(self.source[rows, columns])[None], len(chosen), axis=0)
        elif self.axes is _Axes.YXS:
            pixels = np.moveaxis(np.asarray(self.source[rows, columns, :3]), 2, 0)[chosen]
        else:
            runs = [np.asarray(self.source[run, rows, columns]) for run in channel_runs(chosen)]
            pixels = np.concatenate(runs)
        # all three have copied, so that the caller's array is safe from those who write to the region
        return np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("="))
