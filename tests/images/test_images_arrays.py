"""Arrays as lazy images, and the check of pixels."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from written import assert_regions, noise

from cytoseed.images import as_image, check_pixels

SHAPES = [(40, 50), (40, 50, 3), (40, 50, 4), (2, 40, 50), (3, 40, 50), (30, 17, 20), (5, 2, 2), (1, 1), (1, 1, 3)]


def chw(array: NDArray[Any]) -> NDArray[Any]:
    """The array with its axes in the order (C,H,W), without alpha, in native byte order."""
    moved = array[None] if array.ndim == 2 else array
    moved = np.moveaxis(array[..., :3], 2, 0) if array.ndim == 3 and array.shape[2] in (3, 4) else moved
    return np.ascontiguousarray(moved, array.dtype.newbyteorder("="))


def as_numpy(array: NDArray[Any]) -> Any:
    return array


def as_dask(array: NDArray[Any]) -> Any:
    return da.from_array(array, chunks=13)


def as_zarr(array: NDArray[Any]) -> Any:
    stored = zarr.create_array({}, shape=array.shape, dtype=array.dtype, chunks=tuple(min(13, n) for n in array.shape))
    stored[:] = array
    return stored


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("make", [as_numpy, as_dask, as_zarr])
def test_regions_of_arrays_are_those_of_the_array_as_image(make: Any, shape: tuple[int, ...]) -> None:
    array = noise(*shape, dtype=np.uint16)
    before = array.copy()
    image = as_image(make(array))
    assert (image.path, image.pixel_size_um, image.pixel_size_source) == (None, None, "not stated")
    numbered = tuple(f"channel {index}" for index in range(image.shape[0]))
    assert image.channel_names == (("red", "green", "blue") if shape[2:] in [(3,), (4,)] else numbered)
    assert_regions(image, [chw(array)], examples=15)
    np.testing.assert_array_equal(array, before)  # though the regions' pixels were overwritten


@pytest.mark.parametrize("dtype", [bool, ">u2", np.float16, np.int64])
def test_types_and_byte_orders(dtype: Any) -> None:
    array = noise(2, 10, 12).astype(dtype)
    for make in (as_numpy, as_dask):
        image = as_image(make(array))
        assert image.dtype.isnative
        assert_regions(image, [chw(array)], examples=5)


def test_nothing_is_computed_before_it_is_read_and_then_only_the_chunks_that_are_touched() -> None:
    computed: list[Any] = []

    def load(block_id: Any = None) -> NDArray[Any]:
        computed.append(block_id)
        return np.full((1, 10, 10), block_id[0] * 100 + block_id[1] * 10 + block_id[2], np.int32)

    array = da.map_blocks(
        load, chunks=((1,) * 4, (10,) * 5, (10,) * 6), dtype=np.int32, meta=np.empty((0, 0, 0), np.int32)
    )
    computed.clear()  # Dask may have tried the function
    image = as_image(array)
    assert image.shape == (4, 50, 60)
    assert computed == []
    found = image.read((12, 25, 5, 10), channels=[3, 1])
    assert sorted(computed) == [(1, 1, 2), (1, 1, 3), (3, 1, 2), (3, 1, 3)]
    assert found[:, 0, ::5].tolist() == [[312, 313], [112, 113]]


def test_numpy_arrays_are_not_copied() -> None:
    array = np.zeros((20, 30), np.uint8)
    image = as_image(array)
    array[3, 4] = 9
    assert image.read()[0, 3, 4] == 9


def test_lists_and_other_libraries_arrays_become_numpy_arrays() -> None:
    import torch

    array = noise(6, 7)
    np.testing.assert_array_equal(as_image(array.tolist()).read()[0], array)
    np.testing.assert_array_equal(as_image(torch.from_numpy(array)).read()[0], array)  # type: ignore[arg-type]


def test_empty_arrays_are_read_as_such() -> None:
    assert as_image(np.zeros((0, 30))).read().shape == (1, 0, 30)


@pytest.mark.parametrize("make", [as_numpy, as_dask])
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 20, 3), "as .C,H,W. and as .H,W,C."),
        ((4, 20, 3), "as .C,H,W. and as .H,W,C."),
        ((100, 100, 2), "moveaxis"),
        ((100, 100, 5), "moveaxis"),
        ((2, 3, 20, 30), "one 2-D plane"),
        ((30,), r"allowed are \(H,W\)"),
        ((), r"allowed are \(H,W\)"),
    ],
)
def test_ambiguous_axes_are_refused(make: Any, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=f"image has shape.*{says}"):
        as_image(make(np.zeros(shape)))


@pytest.mark.parametrize("array", [da.zeros((4, 5), dtype=complex), np.full((4, 5), None), np.full((4, 5), "a")])
def test_values_that_are_no_numbers_are_refused_before_they_are_computed(array: Any) -> None:
    with pytest.raises(TypeError, match="allowed are booleans, integers and real numbers"):
        as_image(array)


def test_an_array_of_unknown_size_is_refused() -> None:
    array = da.from_array(np.arange(20.0).reshape(4, 5), chunks=2)
    with pytest.raises(ValueError, match="its size must be known"):
        as_image(array[array[:, 0] > 3])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, np.float64])
def test_constant_images_pass(dtype: Any) -> None:
    check_pixels(np.zeros((1, 1, 1), dtype))
    check_pixels(np.ones((2, 3, 4), dtype))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad: float) -> None:
    pixels = np.zeros((2, 5, 6), np.float32)
    pixels[1, 2, 4] = pixels[1, 3, 0] = bad
    with pytest.raises(ValueError, match=r"2 values that are NaN.*channel 1, row 2, column 4.*nan_to_num"):
        check_pixels(pixels)
    pixels[1, 3, 0] = 0
    with pytest.raises(ValueError, match="1 value that is NaN"):
        check_pixels(pixels)


@pytest.mark.parametrize("shape", [(0, 5, 5), (1, 0, 5), (1, 5, 0)])
def test_empty_images_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no pixels"):
        check_pixels(np.zeros(shape))
