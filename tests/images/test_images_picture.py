"""The PNG and JPEG readers."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from cytoseed.images import ImageFileError, open_image

RNG = np.random.default_rng(3)


def pixels(*shape: int, dtype: Any = np.uint8) -> NDArray[Any]:
    return RNG.integers(0, np.iinfo(dtype).max, shape).astype(dtype)


def png(rows: bytes, bits: int, colour: int, **chunks: bytes) -> bytes:
    """Build a 2 x 2 PNG byte by byte, for kinds that no encoder here writes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, bits, colour, 0, 0, 0))
    extra = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("samples", "channels"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_png_of_every_kind(tmp_path: Path, dtype: Any, samples: int, channels: int) -> None:
    array = pixels(20, 31, samples, dtype=dtype)
    file = tmp_path / "image.png"
    file.write_bytes(imagecodecs.png_encode(array.squeeze()))
    image = open_image(file)
    assert image.shape == (channels, 20, 31)
    assert image.dtype == dtype
    assert image.channel_names == (("red", "green", "blue") if channels == 3 else ("channel 0",))
    assert (image.pixel_size_um, image.pixel_size_source) == (None, "not stated")
    read = image.read()
    np.testing.assert_array_equal(read, np.moveaxis(array[:, :, :channels], 2, 0))
    assert read.flags.c_contiguous
    assert read.flags.writeable


@pytest.mark.parametrize("alpha", [{}, {"tRNS": b"\x80"}], ids=["opaque", "transparent"])
def test_a_palette_becomes_rgb(tmp_path: Path, alpha: dict[str, bytes]) -> None:
    file = tmp_path / "palette.png"
    file.write_bytes(png(b"\0\0\1\0\1\0", 8, 3, PLTE=bytes([255, 0, 7, 0, 255, 9]), **alpha))
    expected = [[[255, 0], [0, 255]], [[0, 255], [255, 0]], [[7, 9], [9, 7]]]
    assert open_image(file).read().tolist() == expected


def test_one_bit_grey_spans_8_bits(tmp_path: Path) -> None:
    file = tmp_path / "bits.png"
    file.write_bytes(png(b"\0\x80\0\x40", 1, 0))
    assert open_image(file).read().tolist() == [[[255, 0], [0, 255]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(tmp_path: Path, channels: int) -> None:
    file = tmp_path / "image.jpg"
    smooth = np.tile(np.linspace(20, 220, 48).astype(np.uint8)[:, None, None], (1, 64, channels))
    file.write_bytes(imagecodecs.jpeg_encode(smooth.squeeze(), level=98))
    image = open_image(file)
    assert image.shape == (channels, 48, 64)
    assert image.dtype == np.uint8
    assert np.abs(image.read().astype(int) - np.moveaxis(smooth, 2, 0)).max() <= 4


def test_a_jpeg_followed_by_other_bytes_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "image.jpg"
    file.write_bytes(imagecodecs.jpeg_encode(pixels(40, 40)) + b"appended by a camera")
    assert open_image(file).read().shape == (1, 40, 40)


def test_cmyk_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "print.jpg"
    file.write_bytes(imagecodecs.jpeg_encode(pixels(16, 16, 4), colorspace="CMYK", outcolorspace="CMYK"))
    with pytest.raises(ImageFileError, match=r"4 components.*RGB"):
        open_image(file)


@pytest.mark.parametrize("share", [0.005, 0.05, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("encode", [imagecodecs.png_encode, imagecodecs.jpeg_encode], ids=["png", "jpeg"])
def test_a_cut_file_is_refused_and_never_half_read(tmp_path: Path, encode: Any, share: float) -> None:
    whole = encode(pixels(100, 100, 3))
    file = tmp_path / "cut.image"
    file.write_bytes(whole[: max(9, int(len(whole) * share))])
    with pytest.raises(ImageFileError, match=r"cut\.image.*(cut short|damaged).*again"):
        open_image(file).read()


def test_a_damaged_png_is_refused(tmp_path: Path) -> None:
    whole = bytearray(imagecodecs.png_encode(pixels(100, 100)))
    whole[200:300] = bytes(100)
    file = tmp_path / "damaged.png"
    file.write_bytes(whole)
    with pytest.raises(ImageFileError, match=r"damaged\.png"):
        open_image(file).read()
