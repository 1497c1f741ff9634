"""Arrays as images: their axes by their shape, and NumPy's files."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.pixel_size import length_um
from cytoseed.images.regions import ImageFileError, Slices, flat_planes, foreign_errors
from cytoseed.packed import read_arrays

_LARGEST_BYTES = 1 << 32  # of an array that is unpacked; as .npy it may have any size
_DIMENSIONS = {"channel": "c", "channels": "c", "band": "c", "time": "t", "row": "y", "column": "x", "depth": "z"}
_COLOURS = (3, 4)  # lengths of a last axis that is RGB or RGBA


def check_pixels(pixels: NDArray[Any]) -> None:
    """Raise `ValueError` for pixels (C,H,W) that are empty, or hold values that are NaN or infinite."""
    if 0 in pixels.shape:
        raise ValueError(f"image has shape {pixels.shape} (C,H,W), so no pixels; every axis must be 1 or more")
    if pixels.dtype.kind != "f":
        return
    finite = np.isfinite(pixels)
    bad = finite.size - int(np.count_nonzero(finite))
    if bad:
        channel, row, column = np.unravel_index(int(np.argmin(finite)), finite.shape)
        raise ValueError(
            f"image has {bad} px that are NaN or infinite, the first in channel {channel}, row {row}, column {column}; "
            f"values must be finite: segment with --nan zero (nan='zero' in Python), or write numbers (np.nan_to_num)"
        )


def array_image(image: ArrayLike, path: Path | None = None) -> Image:
    """`Image` of an array, which `as_image` describes; `path` is the file that it lies in."""
    if np.ma.is_masked(image):
        raise ValueError("image is a masked array with masked values; give plain ones: array.filled(0)")
    if is_batch(image):
        raise TypeError(
            f"image is a {type(image).__name__} of several images; give one of them, or "
            f"numpy.stack(channels) where they are the channels of one image"
        )
    if hasattr(image, "dims") and hasattr(image, "coords"):
        return _labelled_image(image)
    plain: Any = image.detach().cpu() if hasattr(image, "detach") else image  # a tensor with gradients, or of a GPU
    source: Any = plain if _is_lazy(plain) else np.asarray(plain)
    axes = _axes(tuple(source.shape), source.dtype)
    is_rgb = axes == "yxc"
    reader = Slices((source,), axes, 3 if is_rgb else None)
    return make_image(path, reader.layout, reader.opened, RGB_NAMES if is_rgb else None)


def is_batch(image: object) -> bool:
    """Whether an object is a list or tuple of images, not of the numbers of one."""
    return isinstance(image, (list, tuple)) and any(
        isinstance(one, (str, os.PathLike)) or hasattr(one, "regions") or np.ndim(one) > 1 for one in image
    )


def _labelled_image(image: Any) -> Image:
    """`Image` of an xarray DataArray, with its channel names, and its pixel size where coordinates have a unit."""
    axes = [_DIMENSIONS.get(str(name).lower(), str(name).lower()) for name in image.dims]
    if not {"y", "x"} <= set(axes) <= {"t", "z", "c", "y", "x"} or len(set(axes)) < len(axes):
        raise ValueError(
            f"image has the dimensions {image.dims}; call them y and x, and others c, z or t: image.rename"
        )
    outer = [(axis, int(size)) for axis, size in zip(axes, image.shape, strict=True) if axis not in "yx"]
    reader = Slices((image.data,), axes)
    if reader.layout.dtype.kind not in "buif":
        raise TypeError(f"image has values of type {reader.layout.dtype}; convert them to integers or real numbers")
    of_axis = dict(zip(axes, image.dims, strict=True))
    names = None
    if "c" in of_axis and of_axis["c"] in image.coords:
        names = [str(name) for name in np.asarray(image.coords[of_axis["c"]])]
    steps = tuple(_step_um(image, of_axis[axis]) for axis in "yx")
    planes = flat_planes(*zip(*outer, strict=True)) if outer else None
    return make_image(None, reader.layout, reader.opened, names, [("coordinates", (steps[0], steps[1]))], planes)


def _step_um(image: Any, dimension: Any) -> float:
    """Distance of coordinates in µm; NaN without a unit."""
    if dimension not in image.coords or image.sizes[dimension] < 2:
        return math.nan
    first, second = (float(value) for value in np.asarray(image.coords[dimension][:2]))
    return length_um(second - first, str(image.coords[dimension].attrs.get("units", "")))


def planes_image(pixels: NDArray[Any], names: Sequence[str]) -> Image:
    """`Image` of pixels (C,H,W) in memory."""
    reader = Slices((pixels,), "cyx")
    return make_image(None, reader.layout, reader.opened, names)


def open_npy(path: Path) -> Image:
    """Open an array in a .npy file, which is mapped, not read."""
    with foreign_errors(path), _named(path):
        return array_image(np.load(path, mmap_mode="r", allow_pickle=False), path)


def open_npz(path: Path) -> Image:
    """Open the only array of a .npz file, which is read at once."""
    with foreign_errors(path), _named(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if len(names) != 1:
            raise ValueError(f"holds {len(names)} arrays; save the image alone, as .npy")
        (array,) = read_arrays(path, _LARGEST_BYTES).values()
        return array_image(array, path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name the file in errors about its array."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ImageFileError(f"{path}: {error}") from error


def _axes(shape: tuple[int, ...], dtype: Any) -> str:
    """Axes by the shape: `yx`, `yxc` or `cyx`; refuse shapes that are ambiguous."""
    if np.dtype(dtype).kind not in "buif":
        raise TypeError(
            f"image has values of type {dtype}; allowed are booleans, integers and real numbers: convert it"
        )
    if not all(isinstance(size, Integral) for size in shape):
        raise ValueError(f"image has shape {shape}; its size must be known: in Dask, array.compute_chunk_sizes()")
    if len(shape) == 2:
        return "yx"
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
        return "yxc"
    if min(shape[:2]) > 16 >= shape[2]:  # more channels than columns
        raise ValueError(f"image has shape {shape}; channels go first, (C,H,W): np.moveaxis(image, -1, 0)")
    return "cyx"


def _is_lazy(array: Any) -> bool:
    """Whether an object can be read slice by slice like a NumPy array; not a tensor, whose type NumPy does not know."""
    try:
        np.dtype(array.dtype)
    except (AttributeError, TypeError):
        return False
    return all(hasattr(array, name) for name in ("shape", "ndim", "__getitem__"))
