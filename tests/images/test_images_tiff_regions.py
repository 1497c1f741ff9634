"""Regions and levels of TIFF: every arrangement of pixels gives the same region as a crop of the whole."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from written import assert_regions, halves, noise, write_sub_ifds

from cytoseed.images import ImageFileError, open_image, tiff_segments
from cytoseed.images.tiff_segments import Store

ARRANGEMENTS: list[dict[str, Any]] = [
    {},
    {"compression": "deflate"},
    {"compression": "lzw", "predictor": True, "rowsperstrip": 7},
    {"rowsperstrip": 7},
    {"tile": (32, 48)},
    {"tile": (32, 48), "compression": "zstd", "predictor": True},
    {"tile": (32, 48), "bigtiff": True, "byteorder": ">"},
    {"byteorder": ">"},
    {"byteorder": ">", "compression": "deflate"},
    {"metadata": None, "tile": (32, 48)},
]
PLANAR = [
    {"planarconfig": kind} | colours for kind in ("contig", "separate") for colours in ({}, {"photometric": "rgb"})
]
SHAPES = [("YX", {}), *(("YXS" if "contig" in one.values() else "SYX", one) for one in PLANAR)]


def written(file: Path, axes: str, pixels: np.ndarray, **options: Any) -> Path:
    """Write (C,H,W) with the channels where `axes` wants them."""
    array = {"YX": pixels[0], "YXS": np.moveaxis(pixels, 0, 2)}.get(axes, pixels)
    tifffile.imwrite(file, array, **{"photometric": "minisblack", **options})
    return file


@pytest.mark.parametrize("options", ARRANGEMENTS, ids=str)
@pytest.mark.parametrize(("axes", "planar"), SHAPES, ids=str)
def test_regions_in_every_arrangement(
    tmp_path: Path, axes: str, planar: dict[str, str], options: dict[str, Any]
) -> None:
    is_rgb = "photometric" in planar
    pixels = noise(1 if axes == "YX" else 3 if is_rgb else 5, 83, 101, dtype=np.uint16)
    image = open_image(written(tmp_path / "image.tif", axes, pixels, **planar, **options))
    numbered = tuple(f"channel {index}" for index in range(len(pixels)))
    assert image.channel_names == (("red", "green", "blue") if is_rgb else numbered)
    assert_regions(image, [pixels], examples=12)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint32, np.int32, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate", "rowsperstrip": 9}], ids=str)
def test_regions_of_every_type(tmp_path: Path, dtype: Any, options: dict[str, Any]) -> None:
    pixels = noise(1, 83, 101, dtype=dtype)
    assert_regions(open_image(written(tmp_path / "image.tif", "YX", pixels, **options)), [pixels], examples=12)


@pytest.mark.parametrize(
    "options",
    [
        {"imagej": True},
        {"imagej": True, "truncate": True},
        {"ome": True, "compression": "deflate"},
        {"tile": (32, 32), "compression": "lzw"},
    ],
    ids=str,
)
def test_channels_in_pages_of_their_own(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = noise(4, 83, 101, dtype=np.uint16)
    file = written(tmp_path / "image.tif", "CYX", pixels, metadata={"axes": "CYX"}, **options)
    assert_regions(open_image(file), [pixels], examples=12)


def test_axes_in_an_unusual_order_are_refused(tmp_path: Path) -> None:
    pixels, file = noise(7, 23, 23), tmp_path / "image.tif"
    tifffile.imwrite(file, pixels.transpose(1, 2, 0).copy(), photometric="minisblack", metadata={"axes": "YXC"})
    assert_regions(open_image(file), [pixels], examples=12)  # one run of rows
    for axes, compression in (("YXC", "deflate"), ("XYC", None), ("CXY", None)):
        array = pixels.transpose(["CYX".index(axis) for axis in axes]).copy()
        own: dict[str, Any] = {"compression": compression, "metadata": {"axes": axes}}
        tifffile.imwrite(file, array, photometric="minisblack", **own)
        with pytest.raises(ImageFileError, match=rf"its axes are in an unusual order \({axes}\): save it as OME-TIFF"):
            open_image(file)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_tiles_and_strips(tmp_path: Path, channels: int) -> None:
    pixels = noise(channels, 83, 101)
    for options in ({"tile": (32, 32)}, {"rowsperstrip": 16}):
        kind: dict[str, Any] = {"photometric": "rgb" if channels == 3 else "minisblack", "compression": "jpeg"}
        tifffile.imwrite(tmp_path / "image.tif", np.moveaxis(pixels, 0, 2).squeeze(), ome=True, **kind, **options)
        decoded = np.atleast_3d(tifffile.imread(tmp_path / "image.tif"))
        assert_regions(open_image(tmp_path / "image.tif"), [np.moveaxis(decoded, 2, 0)], examples=12)


# Pyramids


@pytest.mark.parametrize("kind", ["sub-IFDs", "sub-IFDs of OME", "pages"])
def test_levels(tmp_path: Path, kind: str) -> None:
    levels, file = halves(noise(1 if kind == "pages" else 4, 150, 201, dtype=np.uint16), 3), tmp_path / "image.tif"
    if kind == "pages":
        with tifffile.TiffWriter(file) as writer:
            for number, level in enumerate(levels):
                writer.write(level[0], subfiletype=min(number, 1), tile=(32, 32), metadata=None)
    else:
        write_sub_ifds(file, levels, ome="OME" in kind)
    assert_regions(open_image(file), levels)


def test_levels_that_one_channel_lacks_or_of_other_types_or_channels_are_left_out(tmp_path: Path) -> None:
    levels = halves(noise(2, 64, 96, dtype=np.uint16), 2)
    file = write_sub_ifds(tmp_path / "image.tif", [levels[0], levels[1].astype(np.uint8)], ome=True)
    assert_regions(open_image(file), levels[:1], examples=5)
    write_sub_ifds(file, levels, ome=True)
    assert len(open_image(file).level_shapes) == 2
    with tifffile.TiffFile(file, mode="r+") as tif:
        tif.pages[1].aspage().tags["SubIFDs"].overwrite(0)
    assert_regions(open_image(file), levels[:1], examples=5)
    with tifffile.TiffWriter(file) as writer:
        writer.write(levels[0], photometric="minisblack", metadata={"axes": "CYX"})
        writer.write(levels[1][0], subfiletype=1, metadata={"axes": "YX"})
    assert_regions(open_image(file), levels[:1], examples=5)


# What cannot be read region by region


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Places in the file of all reads, each of which takes long enough for another thread to come."""
    places: list[int] = []
    original = Store.read

    def slow(self: Store, path: Path, at: int, count: int) -> bytes:
        places.append(at)
        time.sleep(0.05)
        return original(self, path, at, count)

    monkeypatch.setattr(Store, "read", slow)
    return places


def test_one_huge_strip_is_decoded_once_while_it_is_open(tmp_path: Path, reads: list[int]) -> None:
    pixels = noise(1, 83, 101)
    image = open_image(written(tmp_path / "image.tif", "YX", pixels, compression="deflate", rowsperstrip=83))
    with image.regions() as regions, ThreadPoolExecutor(4) as pool:  # other threads wait for the first
        parts = list(pool.map(lambda top: regions.read((top, 5, 1, 90)), range(40)))
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), pixels[:, :40, 5:95])
        for top in range(0, 80, 10):
            np.testing.assert_array_equal(regions.read((top, 5, 3, 90)), pixels[:, top : top + 3, 5:95])
    assert len(reads) == 1


def test_pieces_are_forgotten_when_there_is_no_room_the_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[int]
) -> None:
    image = open_image(written(tmp_path / "image.tif", "YX", noise(1, 80, 101), compression="deflate", rowsperstrip=20))
    monkeypatch.setattr(tiff_segments, "_KEPT_BYTES", 2 * 20 * 101)
    with image.regions() as regions:
        for strip in (0, 1, 0, 2, 0, 1):  # when the third comes, the second is the one not used for longest
            regions.read((20 * strip, 5, 20, 90))
    assert len(reads) == 4
    assert reads[1] == reads[3]


@pytest.mark.parametrize("options", [{"rowsperstrip": 83}, {"tile": (96, 112)}], ids=str)
def test_what_is_too_large_to_be_kept_is_read_as_a_whole_or_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.setattr(tiff_segments, "_KEPT_BYTES", 8000)
    monkeypatch.setattr(tiff_segments, "LARGEST_PIECE_BYTES", 8000)
    pixels = noise(1, 83, 101)
    tifffile.imwrite(tmp_path / "image.tif", pixels[0], compression="deflate", **options)
    image = open_image(tmp_path / "image.tif")
    np.testing.assert_array_equal(image.read(), pixels)
    with pytest.raises(ImageFileError, match=r"image\.tif: .*can only be decoded whole.*save it as a tiled TIFF"):
        image.read((0, 0, 83, 100))


# Pieces that are not stored


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}], ids=str)
@pytest.mark.parametrize("value", [0, 77])
def test_a_tile_that_is_not_stored_is_background(tmp_path: Path, options: dict[str, Any], value: int) -> None:
    whole = noise(1, 64, 96, dtype=np.uint16) + 1
    tiles: list[Any] = [whole[0, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)]
    tiles[4] = None
    tags = [(42113, "s", 0, str(value), True)] if value else []  # GDAL's
    own: dict[str, Any] = {"shape": (64, 96), "dtype": np.uint16, "tile": (32, 32), "metadata": None}
    tifffile.imwrite(tmp_path / "image.tif", iter(tiles), extratags=tags, **own, **options)
    whole[:, 32:, 32:64] = value
    assert_regions(open_image(tmp_path / "image.tif"), [whole], examples=12)


def test_strips_of_a_later_page_may_lie_in_another_order(tmp_path: Path) -> None:
    pixels = noise(2, 40, 50)
    file = tmp_path / "image.tif"
    own: dict[str, Any] = {"photometric": "minisblack", "ome": True, "metadata": {"axes": "CYX"}}
    tifffile.imwrite(file, pixels, rowsperstrip=10, **own)
    with tifffile.TiffFile(file, mode="r+") as tif:
        tag = tif.pages[1].aspage().tags["StripOffsets"]
        tag.overwrite((tag.value[1], tag.value[0], *tag.value[2:]))
    swapped = pixels.copy()
    swapped[1, :10], swapped[1, 10:20] = pixels[1, 10:20], pixels[1, :10]
    assert_regions(open_image(file), [swapped], examples=12)


def test_jpeg_tables_that_all_tiles_share(tmp_path: Path) -> None:
    """Scanners store them once for each page."""
    own: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(tmp_path / "plain.tif", noise(64, 128), **own)
    with tifffile.TiffFile(tmp_path / "plain.tif") as tif:
        page = tif.pages.first
        decoded = page.asarray()
        streams = []
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tif.filehandle.seek(start)
            streams.append(tif.filehandle.read(count))
    tables, rest = divided(streams[0])
    assert divided(streams[1])[0] == tables
    tiles = iter([rest, divided(streams[1])[1]])
    tifffile.imwrite(tmp_path / "image.tif", tiles, shape=(64, 128), dtype=np.uint8, jpegtables=tables, **own)
    assert_regions(open_image(tmp_path / "image.tif"), [decoded[None]], examples=12)


def divided(stream: bytes) -> tuple[bytes, bytes]:
    """A JPEG's tables, and the JPEG without them."""
    tables, rest, at = b"", b"", 2
    while stream[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at + 1] in (0xC4, 0xDB):
            tables += stream[at:end]
        else:
            rest += stream[at:end]
        at = end
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + stream[at:]


def test_an_image_of_one_tile_that_is_not_stored(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", noise(64, 64), tile=(64, 64), metadata=None)
    with tifffile.TiffFile(tmp_path / "image.tif", mode="r+") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tif.pages.first.tags[name].overwrite(0)
    assert_regions(open_image(tmp_path / "image.tif"), [np.zeros((1, 64, 64), np.uint8)], examples=5)


@pytest.mark.parametrize("samples", [1, 3])
def test_a_million_by_a_million_pixels_take_no_memory(tmp_path: Path, samples: int) -> None:
    side = 1_000_000
    shape = (side, side) if samples == 1 else (side, side, 3)
    kind: dict[str, Any] = {"photometric": "minisblack" if samples == 1 else "rgb", "compression": "deflate"}
    tiles = iter([b""] * 62 * 62)
    own: dict[str, Any] = {"shape": shape, "dtype": np.uint8, "tile": (16384, 16384), "metadata": None}
    tifffile.imwrite(tmp_path / "image.tif", tiles, bigtiff=True, **own, **kind)
    image = open_image(tmp_path / "image.tif")
    assert image.shape == (samples, side, side)
    found = image.read((side - 40, side - 50, 40, 50))
    assert (found == (0 if samples == 1 else 255)).all()
    with pytest.raises((MemoryError, ValueError)):
        image.read()


def test_a_million_by_a_million_pixels_in_one_strip_of_a_few_bytes(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    for compression, says in (
        ("zstd", r"931\.3 GiB.*save it as a tiled TIFF"),
        ("deflate", "cut short .*pixels of level 0"),  # which never shrinks so much
        (None, "cut short .*pixels of level 0"),
    ):
        tifffile.imwrite(file, noise(4, 4), metadata=None, compression=compression)
        with tifffile.TiffFile(file, mode="r+") as tif:
            for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
                tif.pages.first.tags[name].overwrite(1_000_000, dtype="I")
        with pytest.raises(ImageFileError, match=says):
            open_image(file).read((0, 0, 10, 10))
