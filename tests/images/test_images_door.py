"""Opening of files by their content; channels by name and number; stains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from cytoseed.images import ImageFileError, choose_channels, open_image
from cytoseed.images.channels import unmix

GREY = np.arange(600, dtype=np.uint8).reshape(20, 30)


# Files


def test_the_first_bytes_choose_the_reader_not_the_name(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(imagecodecs.png_encode(GREY))
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    (tmp_path / "b.tif").rename(tmp_path / "b.png")
    for name in ("a.tif", "b.png"):
        np.testing.assert_array_equal(open_image(tmp_path / name).read()[0], GREY)
        np.testing.assert_array_equal(open_image(str(tmp_path / name)).read()[0], GREY)


def test_what_is_no_image_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "notes.png").write_text("hello, this is text")
    (tmp_path / "link.tif").symlink_to("gone.tif")
    for path, kind, says in [
        (tmp_path / "nowhere.tif", FileNotFoundError, r"nowhere\.tif: there is no such file"),
        (Path("s3://bucket/slide.tif"), FileNotFoundError, "give a URL as a str, not as a Path"),
        (tmp_path / "link.tif", FileNotFoundError, r"link\.tif: is a link to 'gone\.tif', which is not there"),
        (tmp_path, ImageFileError, "is a folder; give the path of one image file"),
        (tmp_path / "empty.tif", ImageFileError, r"empty\.tif: is empty"),
        (tmp_path / "notes.png", ImageFileError, r"notes\.png: begins with b'hello, t'.*TIFF.*PNG.*JPEG.*OME-Zarr"),
    ]:
        with pytest.raises(kind, match=says):
            open_image(path)


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


# Channels

STAINS = ("DAPI", "CD3", "488", "CD3")


@pytest.mark.parametrize(
    ("wished", "chosen"),
    [
        ((), (0, 1, 2, 3)),
        (("2", "0"), (2, 0)),
        (("dapi",), (0,)),
        ((" Dapi", "488"), (0, 2)),
        (("3", "1"), (3, 1)),
        *((one, (2,)) for one in (2, "2", "488", [2], (np.int64(2),), np.array([2]))),
    ],
)
def test_channels_by_name_and_number(wished: Any, chosen: tuple[int, ...]) -> None:
    assert choose_channels(wished, STAINS) == chosen


def test_an_integer_is_always_a_number_and_a_name_counts_before_a_number() -> None:
    assert choose_channels(0, ["1", "0"]) == (0,)
    assert choose_channels(["1"], ["0", "b", "1"]) == (2,)


def test_a_channel_that_is_neither_name_nor_number() -> None:
    with pytest.raises(TypeError, match=r"channel 1\.0 is neither a name nor a number"):
        choose_channels([1.0], STAINS)  # type: ignore[list-item]


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


# Stains

HAEMATOXYLIN, DAB = (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)


def stained(haematoxylin: float, dab: float) -> Any:
    """Pixels (3, 4, 5) of a section with these amounts in optical density."""
    density = haematoxylin * np.array(HAEMATOXYLIN) + dab * np.array(DAB)
    return np.broadcast_to((255 * 10**-density).round().astype(np.uint8)[:, None, None], (3, 4, 5)).copy()


def test_haematoxylin_is_told_from_dab() -> None:
    blue, brown, both, white = (
        float(unmix(stained(*amounts), "haematoxylin").mean()) for amounts in [(0.8, 0), (0, 0.8), (0.8, 0.8), (0, 0)]
    )
    assert blue == pytest.approx(both, rel=0.1)
    assert abs(brown) < 0.1 * abs(blue)
    assert abs(white) < 0.02 * abs(blue)
    assert blue < 0  # dark where there is much


def test_shape_and_type_and_no_change_of_the_input() -> None:
    pixels = stained(0.5, 0.3)
    before = pixels.copy()
    result = unmix(pixels, "dab")
    assert result.shape == (1, 4, 5)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(pixels, before)


def test_16_bit_and_float_images_give_the_same() -> None:
    pixels = stained(0.6, 0.2)
    expected = unmix(pixels, "haematoxylin")
    np.testing.assert_allclose(unmix(pixels.astype(np.uint16) * 257, "haematoxylin"), expected, atol=1e-4)
    np.testing.assert_allclose(unmix(pixels / 255, "haematoxylin"), expected, atol=1e-4)


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
