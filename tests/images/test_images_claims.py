"""Sizes that a small file only claims are refused before memory is taken; references stay in the file's folder."""

from __future__ import annotations

import gzip
import json
import os
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from written import noise

from cytoseed import packed
from cytoseed.images import ImageFileError, open_image, outlines, tiff_segments, zarr_store
from cytoseed.images.outlines import Outlines, draw, read_features
from cytoseed.images.rare_pictures import _SIZES

OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="a">'
    '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" {sizes}>'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
)
SIZES = 'SizeX="9" SizeY="9" SizeC="1" SizeZ="1" SizeT="1"'
MEMORY = 128 << 20  # bytes that a refusal may take


def ome(path: Path, sizes: str = SIZES, data: str = "<TiffData/>") -> Path:
    tifffile.imwrite(path, noise(9, 9), description=OME.format(sizes=sizes, data=data).encode(), metadata=None)
    return path


def refused(read: Callable[[], object], says: str) -> None:
    """Assert that it is refused with these words, and hardly any memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            read()
        assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()


def chained(pages: int, tags: int) -> bytes:
    """Pages of so many tags each, one every four bytes."""
    data = bytearray(8 + 4 * pages + 2 + 12 * tags + 16)
    data[:8] = b"II*\0" + struct.pack("<I", 8)
    for page in range(pages):
        struct.pack_into("<H", data, 8 + 4 * page, tags)
    for page in range(pages - 1):
        struct.pack_into("<I", data, 8 + 4 * page + 2 + 12 * tags, 8 + 4 * (page + 1))
    return bytes(data)


def sparse(width: int, height: int, samples: int, tile: int = 256) -> bytes:
    """A TIFF of tiles of 0 bytes."""
    tiles = -(-width // tile) * -(-height // tile)
    where = 8 + 2 + 12 * 12 + 4
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, samples), (284, 1), (322, tile)]
    tags += [(323, tile), (324, where), (325, where + 4 * tiles), (338, 0)]
    data = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for code, value in tags:
        data += struct.pack("<HHII", code, 4, tiles if code in (324, 325) else 1, value)
    return data + bytes(4 + 8 * tiles)


@pytest.mark.parametrize(
    ("sizes", "data"),
    [
        ('SizeX="9" SizeY="9" SizeC="2000000000" SizeZ="1" SizeT="1"', "<TiffData/>"),
        ('SizeX="9" SizeY="9" SizeC="1" SizeZ="100000" SizeT="100000"', "<TiffData/>"),
        ('SizeX="2000000" SizeY="2000000" SizeC="1" SizeZ="1" SizeT="1"', "<TiffData/>"),
        (SIZES, '<TiffData IFD="0" PlaneCount="500000000"/>'),
    ],
    ids=["channels", "planes", "sides", "PlaneCount"],
)
def test_ome_metadata(tmp_path: Path, sizes: str, data: str) -> None:
    path = ome(tmp_path / "a.ome.tif", sizes, data)
    refused(lambda: open_image(path), r"a\.ome\.tif: its OME metadata claim \d{9,} planes, for which it is too small")


@pytest.mark.parametrize("pages", [20_000, 60_000])
def test_a_chain_of_overlapping_pages(tmp_path: Path, pages: int) -> None:
    (tmp_path / "a.tif").write_bytes(chained(pages, pages // 10))
    refused(lambda: open_image(tmp_path / "a.tif"), r"a\.tif: is cut short or damaged .*overlap")


def test_more_samples_than_bytes_can_be_decoded_to(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(64, 64, 3), photometric="rgb", compression="lzw", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as tif:
        tif.pages.first.tags["SamplesPerPixel"].overwrite(38872)
    refused(lambda: open_image(tmp_path / "a.tif").read(), r"a\.tif: ")


def hyperspectral(path: Path, stored: dict[str, Any]) -> np.ndarray[Any, Any]:
    pixels = noise(128, 128, 200, dtype=np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", metadata=None, **stored)
    return pixels


@pytest.mark.parametrize("stored", [{}, {"tile": (32, 32), "compression": "zlib"}], ids=["run", "tiles"])
def test_read_takes_memory_for_the_channels_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: dict[str, Any]
) -> None:
    monkeypatch.setattr(tiff_segments, "_READ_BYTES", 1 << 18)
    pixels = hyperspectral(tmp_path / "a.tif", stored)
    image = open_image(tmp_path / "a.tif")
    image.read((0, 0, 8, 8), channels=[0])  # imports
    tracemalloc.start()
    for chosen in ([7], [199, 0]):
        np.testing.assert_array_equal(image.read(channels=chosen), np.moveaxis(pixels[..., chosen], 2, 0))
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 2 << 20  # all samples of the image are 6.5 MB
    np.testing.assert_array_equal(image.read(channels=range(200)), np.moveaxis(pixels, 2, 0))


def test_one_channel_of_a_sparse_file_of_500(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(sparse(5000, 5000, 500))
    tracemalloc.start()
    assert not open_image(tmp_path / "a.tif").read((0, 0, 4096, 4096), channels=[3]).any()
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    tracemalloc.stop()


def ngff(folder: Path, shape: tuple[int, int], chunks: tuple[int, int], codec: Any, dataset: str = "0") -> Path:
    group = zarr.open_group(str(folder), mode="w", zarr_format=2)
    group.attrs["multiscales"] = [{"version": "0.4", "axes": ["y", "x"], "datasets": [{"path": dataset}]}]
    (folder / "0").mkdir()
    array = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "<u2", "fill_value": 0, "order": "C"}
    (folder / "0" / ".zarray").write_text(json.dumps({**array, "filters": None, "compressor": codec}))
    return folder


@pytest.mark.parametrize(("chunk", "says"), [(100_000, "chunks of 18.6 GiB"), (1, "chunks of 1 px, of which")])
def test_zarr_chunks_too_large_and_too_small(tmp_path: Path, chunk: int, says: str) -> None:
    folder = ngff(tmp_path / "a.zarr", (4000, 4000), (chunk, chunk), None)
    refused(lambda: open_image(folder), rf"a\.zarr.*{says}")


def test_zarr_levels_without_end(tmp_path: Path) -> None:
    folder = ngff(tmp_path / "a.zarr", (64, 64), (64, 64), None)
    described = json.loads((folder / ".zattrs").read_text())
    described["multiscales"][0]["datasets"] *= 2000
    (folder / ".zattrs").write_text(json.dumps(described))
    refused(lambda: open_image(folder), r"a\.zarr: names 2000 levels")


NOTHING = bytes(8 << 20)
BOMBS = {
    "zlib": lambda: zlib.compress(NOTHING),
    "bz2": lambda: imagecodecs.bz2_encode(NOTHING),
    "zstd": lambda: imagecodecs.zstd_encode(NOTHING),
    "lz4": lambda: imagecodecs.lz4_encode(NOTHING, header=True),
    "blosc": lambda: imagecodecs.blosc_encode(NOTHING, compressor="zstd"),
}


@pytest.mark.parametrize("codec", BOMBS)
def test_zarr_chunks_that_hold_more_than_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(zarr_store, "_UNCHECKED_BYTES", 0)
    folder = ngff(tmp_path / "a.zarr", (64, 64), (64, 64), {"id": codec})
    (folder / "0" / "0.0").write_bytes(BOMBS[codec]())
    image = open_image(folder)
    with pytest.raises(ImageFileError, match=r"a\.zarr.*the chunk would be more than 1179648 bytes"):
        image.read()


@pytest.mark.parametrize("separator", [".", "/"])
def test_chunks_under_other_names_are_not_taken_for_background(tmp_path: Path, separator: str) -> None:
    folder = ngff(tmp_path / "a.zarr", (64, 64), (32, 32), None)
    described = json.loads((folder / "0" / ".zarray").read_text())
    (folder / "0" / ".zarray").write_text(json.dumps({**described, "dimension_separator": separator}))
    assert not open_image(folder).read().any()  # missing chunks are background
    other = folder / "0" / ("1/0" if separator == "." else "1.0")
    other.parent.mkdir(exist_ok=True)
    other.write_bytes(bytes(2048))
    with pytest.raises(ImageFileError, match=r"a\.zarr.*its chunks have names like '1.*correct dimension_separator"):
        open_image(folder)


@pytest.mark.parametrize("codec", _SIZES)
def test_sizes_in_headers_of_pictures(codec: str) -> None:
    for height, width in ((8, 8), (40, 264), (300, 200), (90, 120)):
        data = bytes(getattr(imagecodecs, f"{codec}_encode")(noise(height, width, 3)))
        assert _SIZES[codec](data) == (height, width)


def test_a_large_bmp(tmp_path: Path) -> None:
    data = bytearray(imagecodecs.bmp_encode(noise(4, 4, 3)))
    struct.pack_into("<ii", data, 18, 30_000, -30_000)
    (tmp_path / "a.bmp").write_bytes(data)
    refused(lambda: open_image(tmp_path / "a.bmp"), r"a\.bmp: announces 30000 x 30000 px")


def test_packed_outlines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_ALWAYS_BYTES", 1 << 20)
    text = b'{"type":"FeatureCollection","features":[' + b" " * (2 << 20) + b"]}"
    (tmp_path / "a.geojson").write_bytes(gzip.compress(text))
    with pytest.raises(ValueError, match=r"a\.geojson has \d+ bytes and would be more than 1048576 bytes of text"):
        read_features(tmp_path / "a.geojson")


def test_outlines_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlines, "_ALWAYS_PX", 0)
    square = np.array([[0, 0], [999, 0], [999, 999], [0, 999]], float)
    refused(lambda: draw([[[square]]] * 20_000, (1000, 1000), tmp_path / "a.xml"), r"a\.xml: its first 9 outlines")
    steps = np.arange(20_000)
    tangle = np.stack([steps % 2 * 60_000, steps * 7919 % 60_000], axis=1).astype(float)
    refused(lambda: draw([[[tangle]]], (60_000, 10), tmp_path / "a.xml"), r"a\.xml: outline 0 has a line that crosses")
    refused(lambda: Outlines([[tangle]]), "has a line that crosses itself")
    star = np.stack([np.cos(steps * 2.0), np.sin(steps * 2.0)], axis=1) * 500 + 500
    refused(lambda: Outlines([[star[:300]]]), "has a line that crosses itself")
    assert Outlines([[star[:5]]]).holds(np.array([[547.0, 936.0]])).all()  # an honest one that crosses itself


# References


@pytest.mark.parametrize("name", ["../other.ome.tif", "..\\other.ome.tif", "/somewhere/other.ome.tif"])
def test_ome_files_are_looked_for_in_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    data = (
        '<TiffData FirstC="0" IFD="0"><UUID FileName="a.ome.tif">a</UUID></TiffData>'
        f'<TiffData FirstC="1" IFD="0"><UUID FileName="{name}">b</UUID></TiffData>'
    )
    path = ome(tmp_path / "in" / "a.ome.tif", SIZES.replace('SizeC="1"', 'SizeC="2"'), data)
    tifffile.imwrite(tmp_path / "other.ome.tif", noise(9, 9, seed=1), metadata=None)
    with pytest.raises(
        ImageFileError,
        match=r"a\.ome\.tif: its metadata name planes that it does not hold, other\.ome\.tif, which is missing",
    ):
        open_image(path)
    tifffile.imwrite(tmp_path / "in" / "other.ome.tif", noise(9, 9, seed=2), metadata=None)
    np.testing.assert_array_equal(open_image(path).read()[1], noise(9, 9, seed=2))


@pytest.mark.parametrize(
    "dataset", ["../b.zarr/0", "/b.zarr/0", "http://127.0.0.1:9/0", "C:\\b.zarr", "\\\\host\\b.zarr", "0/../../b"]
)
def test_levels_of_a_zarr_are_in_its_folder(tmp_path: Path, dataset: str) -> None:
    ngff(tmp_path / "b.zarr", (64, 64), (64, 64), None)
    folder = ngff(tmp_path / "a.zarr", (64, 64), (64, 64), None, dataset)
    with pytest.raises(ImageFileError, match=r"a\.zarr: names .* as a part of it, which is not in this folder"):
        open_image(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    named = '<TiffData IFD="0"><UUID FileName="../pipe">b</UUID></TiffData>'
    ngff(tmp_path / "a.zarr", (64, 64), (64, 64), None)
    os.mkfifo(tmp_path / "a.zarr" / "0" / "0.0")
    ngff(tmp_path / "b.zarr", (64, 64), (64, 64), None)
    (tmp_path / "b.zarr" / ".zattrs").unlink()
    os.mkfifo(tmp_path / "b.zarr" / ".zattrs")
    for read in (
        lambda: open_image(tmp_path / "pipe"),
        lambda: open_image(ome(tmp_path / "a.ome.tif", data=named)),
        lambda: open_image(tmp_path / "a.zarr").read(),
        lambda: open_image(tmp_path / "b.zarr"),
        lambda: read_features(tmp_path / "pipe"),
    ):
        with pytest.raises((ImageFileError, OSError), match=r"is a pipe or (a )?device"):
            read()
