"""Arrays as lazy images, the check of pixels, files by their content, channels by name and number, stains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from written import assert_regions, noise

from cytoseed.images import ImageFileError, as_image, check_pixels, choose_channels, open_image
from cytoseed.images.channels import unmix

SHAPES = [(40, 50), (40, 50, 3), (40, 50, 4), (3, 40, 50), (30, 17, 20), (5, 2, 2), (1, 1), (1, 1, 3)]


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


def test_numpy_arrays_are_not_copied_and_others_become_such() -> None:
    import torch

    array = noise(6, 7)
    image = as_image(array)
    array[3, 4] = 9
    for one in (image, as_image(array.tolist()), as_image(torch.from_numpy(array))):  # type: ignore[arg-type]
        np.testing.assert_array_equal(one.read()[0], array)
    assert as_image(np.zeros((0, 30))).read().shape == (1, 0, 30)
    weighted = torch.ones(6, 7, requires_grad=True)
    np.testing.assert_array_equal(as_image(weighted).read()[0], np.ones((6, 7)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"masked values.*filled\(0\)"):
        as_image(np.ma.masked_equal(array, 9))


@pytest.mark.parametrize("make", [as_numpy, as_dask])
@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ((3, 20, 3), "as .C,H,W. and as .H,W,C."),
        ((100, 100, 5), "moveaxis"),
        ((2, 3, 20, 30), "one 2-D plane"),
        ((30,), r"allowed are \(H,W\)"),
    ],
)
def test_ambiguous_axes_are_refused(make: Any, shape: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=f"image has shape.*{says}"):
        as_image(make(np.zeros(shape)))


def test_values_that_are_not_numbers_and_an_unknown_size_are_refused() -> None:
    for array in (da.zeros((4, 5), dtype=complex), np.full((4, 5), None), np.full((4, 5), "a")):
        with pytest.raises(TypeError, match="allowed are booleans, integers and real numbers"):
            as_image(array)
    array = da.from_array(np.arange(20.0).reshape(4, 5), chunks=2)
    with pytest.raises(ValueError, match="its size must be known"):
        as_image(array[array[:, 0] > 3])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_located(bad: float) -> None:
    pixels = np.zeros((2, 5, 6), np.float32)
    pixels[1, 2, 4] = pixels[1, 3, 0] = bad
    with pytest.raises(ValueError, match=r"2 px that are NaN or infinite, .*channel 1, row 2, column 4.*--nan zero"):
        check_pixels(pixels)
    pixels[1, 3, 0] = 0
    with pytest.raises(ValueError, match="has 1 px"):
        check_pixels(pixels)
    for shape in ((0, 5, 5), (1, 0, 5), (1, 5, 0)):
        with pytest.raises(ValueError, match="no pixels"):
            check_pixels(np.zeros(shape))


# Files

GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)


def test_the_first_bytes_choose_the_reader_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(imagecodecs.png_encode(GREY))
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    (tmp_path / "b.tif").rename(tmp_path / "b.png")
    for name in ("a.tif", "b.png"):
        np.testing.assert_array_equal(open_image(tmp_path / name).read()[0], GREY)
        np.testing.assert_array_equal(open_image(str(tmp_path / name)).read()[0], GREY)


def test_what_is_not_an_image_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "notes.png").write_text("hello, this is text")
    (tmp_path / "link.tif").symlink_to("gone.tif")
    for path, kind, says in [
        (tmp_path / "nowhere.tif", FileNotFoundError, r"nowhere\.tif: this file does not exist"),
        (Path("s3://bucket/slide.tif"), FileNotFoundError, "give a URL as a str"),
        (tmp_path / "link.tif", FileNotFoundError, r"link\.tif: is a link to 'gone\.tif', which does not exist"),
        (tmp_path, ImageFileError, "is a folder; give the path of one image file"),
        (tmp_path / "empty.tif", ImageFileError, r"empty\.tif: is empty"),
        (tmp_path / "notes.png", ImageFileError, r"notes\.png: begins with b'hello, t'.*TIFF.*PNG.*JPEG.*OME-Zarr"),
    ]:
        with pytest.raises(kind, match=says):
            open_image(path)


# Channels

STAINS = ("DAPI", "CD3", "488", "CD3")


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ((), (0, 1, 2, 3)),
        (("2", "0"), (2, 0)),
        (("dapi",), (0,)),
        ((" Dapi", "488"), (0, 2)),
        *((one, (2,)) for one in (2, "2", "488", [2], (np.int64(2),), np.array([2]))),
    ],
)
def test_channels_by_name_and_number(wanted: Any, chosen: tuple[int, ...]) -> None:
    assert choose_channels(wanted, STAINS) == chosen
    assert choose_channels(0, ["1", "0"]) == (0,), "an integer is a number"
    assert choose_channels(["1"], ["0", "b", "1"]) == (2,), "a text is a name first"


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("DAPI, 405", (1,)),
        ('"DAPI, 405",405', (1, 0)),
        (["dapi, 405", "CD3"], (1, 2)),
        ("CD3, 0", (2, 0)),
        ("CD3,", (2,)),
    ],
)
def test_names_with_commas_and_lists_with_commas(wanted: Any, chosen: tuple[int, ...]) -> None:
    assert choose_channels(wanted, ("405", "DAPI, 405", "CD3")) == chosen


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (("CD8",), r"'CD8' is not in this image; it has 0 \(DAPI\), 1 \(CD3\), 2 \(488\), 3 \(CD3\)"),
        *(((one,), f"{one!r} is not in this image") for one in ("4", "-1", "", 4, -1)),
        ((0, "DAPI"), "'DAPI' twice, as 0, DAPI"),
        (("CD3",), "the name of 2 channels"),
        ((1.0,), r"channel 1\.0 is neither a name nor a number"),
    ],
)
def test_channels_that_cannot_be_chosen(wanted: Any, says: str) -> None:
    with pytest.raises(TypeError if wanted == (1.0,) else ValueError, match=says):
        choose_channels(wanted, STAINS)


# Stains

HAEMATOXYLIN, DAB = (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)


def stained(haematoxylin: float, dab: float) -> Any:
    """Pixels (3, 4, 5) of a section with these amounts in optical density."""
    density = haematoxylin * np.array(HAEMATOXYLIN) + dab * np.array(DAB)
    return np.broadcast_to((255 * 10**-density).round().astype(np.uint8)[:, None, None], (3, 4, 5)).copy()


def test_haematoxylin_is_told_from_dab_in_images_of_every_type() -> None:
    blue, brown, both, white = (
        float(unmix(stained(*amounts), "haematoxylin").mean()) for amounts in [(0.8, 0), (0, 0.8), (0.8, 0.8), (0, 0)]
    )
    assert blue == pytest.approx(both, rel=0.1)
    assert abs(brown) < 0.1 * abs(blue)
    assert abs(white) < 0.02 * abs(blue)
    assert blue < 0  # dark where there is much
    pixels = stained(0.6, 0.2)
    before = pixels.copy()
    expected = unmix(pixels, "haematoxylin")
    assert (expected.shape, expected.dtype) == ((1, 4, 5), np.float32)
    np.testing.assert_array_equal(pixels, before)
    for other in (pixels.astype(np.uint16) * 257, pixels / 255):
        np.testing.assert_allclose(unmix(other, "haematoxylin"), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("pixels", "stain", "message"),
    [
        (np.zeros((1, 4, 4), np.uint8), "haematoxylin", "1 channels"),
        (np.zeros((3, 4, 4), np.uint8), "giemsa", "one of haematoxylin, eosin, dab"),
        (np.full((3, 4, 4), 255.0), "dab", "white must be 1"),
    ],
)
def test_what_cannot_be_unmixed_is_refused(pixels: Any, stain: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unmix(pixels, stain)
