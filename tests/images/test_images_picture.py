"""The PNG and JPEG readers."""

from __future__ import annotations

import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from written import assert_regions, noise

from cytoseed.images import ImageFileError, open_image


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
    array = noise(20, 31, samples, dtype=dtype)
    file = tmp_path / "image.png"
    file.write_bytes(imagecodecs.png_encode(array.squeeze()))
    image = open_image(file)
    assert image.shape == (channels, 20, 31)
    assert image.dtype == dtype
    assert image.channel_names == (("red", "green", "blue") if channels == 3 else ("channel 0",))
    assert (image.pixel_size_um, image.pixel_size_source) == (None, "not stated")
    assert_regions(image, [np.moveaxis(array[:, :, :channels], 2, 0)], examples=10)


@pytest.mark.parametrize("alpha", [{}, {"tRNS": b"\x80"}], ids=["opaque", "transparent"])
def test_a_palette_becomes_rgb_and_one_bit_spans_8(tmp_path: Path, alpha: dict[str, bytes]) -> None:
    file = tmp_path / "palette.png"
    file.write_bytes(png(b"\0\0\1\0\1\0", 8, 3, PLTE=bytes([255, 0, 7, 0, 255, 9]), **alpha))
    expected = [[[255, 0], [0, 255]], [[0, 255], [255, 0]], [[7, 9], [9, 7]]]
    assert open_image(file).read().tolist() == expected
    file.write_bytes(png(b"\0\x80\0\x40", 1, 0))
    assert open_image(file).read().tolist() == [[[255, 0], [0, 255]]]


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg(tmp_path: Path, channels: int) -> None:
    file = tmp_path / "image.jpg"
    smooth = np.tile(np.linspace(20, 220, 48).astype(np.uint8)[:, None, None], (1, 64, channels))
    file.write_bytes(imagecodecs.jpeg_encode(smooth.squeeze(), level=98) + b"appended by a camera")
    image = open_image(file)
    assert image.shape == (channels, 48, 64)
    assert image.dtype == np.uint8
    assert np.abs(image.read().astype(int) - np.moveaxis(smooth, 2, 0)).max() <= 4
    assert_regions(image, [image.read()], examples=10)


def test_a_picture_is_decoded_once_while_it_is_open_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(imagecodecs.png_encode(noise(50, 70)))
    decoded: list[int] = []
    original = imagecodecs.png_decode

    def slow(data: bytes) -> Any:
        decoded.append(1)
        time.sleep(0.05)  # long enough for another thread to come
        return original(data)

    monkeypatch.setattr(imagecodecs, "png_decode", slow)
    with open_image(file).regions() as regions:
        assert not decoded
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda top: regions.read((top, 0, 5, 5)), range(40)))
    assert len(decoded) == 1


def announcing(kind: str, height: int, width: int) -> bytes:
    """A picture that says it has this size, and holds a few pixels."""
    if kind == "png":
        data = bytearray(imagecodecs.png_encode(noise(2, 2)))
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    else:
        data = bytearray(imagecodecs.jpeg_encode(noise(16, 16)))
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_picture_that_announces_too_many_pixels_is_refused_when_opened(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"huge.{kind}"
    file.write_bytes(announcing(kind, 16384, 16384))
    assert open_image(file).shape == (1, 16384, 16384)
    file.write_bytes(announcing(kind, 16384, 16385))
    with pytest.raises(ImageFileError, match=r"huge\..*16384 x 16385 px.*at most 268435456.*tiled TIFF or as OME-Zarr"):
        open_image(file)


def test_a_damaged_png_and_cmyk_are_refused(tmp_path: Path) -> None:
    whole = bytearray(imagecodecs.png_encode(noise(100, 100)))
    whole[200:300] = bytes(100)
    file = tmp_path / "damaged.png"
    file.write_bytes(whole)
    with pytest.raises(ImageFileError, match=r"damaged\.png"):
        open_image(file).read()
    file.write_bytes(imagecodecs.jpeg_encode(noise(16, 16, 4), colorspace="CMYK", outcolorspace="CMYK"))
    with pytest.raises(ImageFileError, match=r"4 components.*RGB"):
        open_image(file)
