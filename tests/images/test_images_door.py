"""The doors of images: files of any kind, arrays, pixel values, channels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from cytoseed.images import (
    ImageFileError,
    as_image,
    check_pixels,
    choose_channels,
    open_image,
)

GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)


# Files


def test_the_first_bytes_choose_the_reader_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(imagecodecs.png_encode(GREY))
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    (tmp_path / "b.tif").rename(tmp_path / "b.png")
    for name in ("a.tif", "b.png"):
        np.testing.assert_array_equal(open_image(tmp_path / name).read()[0], GREY)
        np.testing.assert_array_equal(open_image(str(tmp_path / name)).read()[0], GREY)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.tif: there is no such file"):
        open_image(tmp_path / "nowhere.tif")


def test_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "link.tif").symlink_to("gone.tif")
    with pytest.raises(FileNotFoundError, match=r"link\.tif: is a link to 'gone\.tif', which is not there"):
        open_image(tmp_path / "link.tif")


def test_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageFileError, match="is a folder; give the path of one image file"):
        open_image(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    with pytest.raises(ImageFileError, match=r"empty\.tif: is empty"):
        open_image(tmp_path / "empty.tif")


def test_a_text_named_png_shows_its_bytes_and_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("hello, this is text")
    with pytest.raises(ImageFileError, match=r"notes\.png: begins with b'hello, t'.*TIFF.*PNG.*JPEG.*OME-Zarr"):
        open_image(tmp_path / "notes.png")


@pytest.mark.parametrize("beginning", [b"II*\0", b"MM\0+", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"])
def test_nothing_but_the_first_bytes(tmp_path: Path, beginning: bytes) -> None:
    (tmp_path / "stub").write_bytes(beginning)
    with pytest.raises(ImageFileError, match=r"stub.*(cut short|damaged)"):
        open_image(tmp_path / "stub").read()


def test_importing_the_door_is_light() -> None:
    code = (
        "import sys, cytoseed.images; "
        "print({'tifffile', 'imagecodecs', 'openslide', 'zarr', 'dask', 'torch', 'cv2', 'skimage', 'pandas', 'fsspec', "
        "'aiohttp'} "
        "& set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# Arrays


@pytest.mark.parametrize(
    ("shape", "becomes"),
    [
        ((20, 30), (1, 20, 30)),
        ((20, 30, 3), (3, 20, 30)),
        ((20, 30, 4), (3, 20, 30)),
        ((2, 20, 30), (2, 20, 30)),
        ((3, 20, 30), (3, 20, 30)),
        ((40, 20, 30), (40, 20, 30)),
        ((1, 1), (1, 1, 1)),
        ((1, 1, 3), (3, 1, 1)),
        ((5, 2, 2), (5, 2, 2)),
        ((0, 30), (1, 0, 30)),
    ],
)
def test_axes_of_arrays(shape: tuple[int, ...], becomes: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    before = array.copy()
    image = as_image(array).read()
    assert image.shape == becomes
    assert image.flags.c_contiguous
    expected = np.moveaxis(array, 2, 0)[:3] if array.ndim == 3 and shape[2] in (3, 4) else array.reshape(becomes)
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((20, 30), ("channel 0",)),
        ((20, 30, 4), ("red", "green", "blue")),
        ((2, 20, 30), ("channel 0", "channel 1")),
        ((3, 20, 30), ("channel 0", "channel 1", "channel 2")),
    ],
)
def test_names_of_the_channels_of_arrays(shape: tuple[int, ...], names: tuple[str, ...]) -> None:
    array = np.zeros(shape)
    assert as_image(array).channel_names == names


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
def test_axes_that_cannot_be_told(shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        as_image(np.zeros(shape))


@pytest.mark.parametrize("array", [np.zeros((4, 5), complex), np.full((4, 5), None), np.full((4, 5), "a")])
def test_values_that_are_no_numbers(array: Any) -> None:
    with pytest.raises(TypeError, match="allowed are booleans, integers and real numbers"):
        as_image(array)


def test_foreign_byte_order_becomes_native() -> None:
    image = as_image(GREY.astype(">u2")).read()
    assert image.dtype.isnative
    np.testing.assert_array_equal(image[0], GREY)


# Values


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


# Channels

STAINS = ("DAPI", "CD3", "488", "CD3")


@pytest.mark.parametrize(
    ("wished", "chosen"),
    [((), (0, 1, 2, 3)), (("2", "0"), (2, 0)), (("dapi",), (0,)), ((" Dapi", "488"), (0, 2)), (("3", "1"), (3, 1))],
)
def test_channels_by_name_and_number(wished: tuple[str, ...], chosen: tuple[int, ...]) -> None:
    assert choose_channels(wished, STAINS) == chosen


@pytest.mark.parametrize("wished", [2, "2", "488", [2], (np.int64(2),), np.array([2])])
def test_one_channel_can_be_given_as_it_is_and_numbers_as_integers(wished: Any) -> None:
    assert choose_channels(wished, STAINS) == (2,)


def test_an_integer_is_always_a_number() -> None:
    assert choose_channels(0, ["1", "0"]) == (0,)


def test_a_channel_that_is_neither_name_nor_number() -> None:
    with pytest.raises(TypeError, match=r"channel 1\.0 is neither a name nor a number"):
        choose_channels([1.0], STAINS)  # type: ignore[list-item]


def test_a_name_counts_before_a_number() -> None:
    assert choose_channels(["1"], ["0", "b", "1"]) == (2,)


@pytest.mark.parametrize(
    ("wished", "says"),
    [
        (("CD8",), r"'CD8' is not in this image; it has 0 \(DAPI\), 1 \(CD3\), 2 \(488\), 3 \(CD3\)"),
        (("4",), "'4' is not in this image"),
        (("-1",), "'-1' is not in this image"),
        (("",), "'' is not in this image"),
        (("DAPI", "0"), "'0' twice"),
        ((0, "DAPI"), "'DAPI' twice, as 0, DAPI"),
        ((4,), "channel 4 is not in this image"),
        ((-1,), "channel -1 is not in this image"),
        (("CD3",), "the name of 2 channels"),
    ],
)
def test_channels_that_cannot_be_chosen(wished: tuple[str | int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose_channels(wished, STAINS)
