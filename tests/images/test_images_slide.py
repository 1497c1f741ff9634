"""Slides through OpenSlide, and which files go that way."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from numpy.typing import NDArray
from written import APERIO, assert_regions, attempt, halves, noise, write_scn, write_slide

from cytoseed.images import ImageFileError, as_image, list_series, open_image, openslide_reader, readers
from cytoseed.images.series import single


@pytest.fixture
def through_openslide(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of all regions that OpenSlide was asked for."""
    asked: list[tuple[int, int]] = []
    original = openslide.OpenSlide.read_region

    def read_region(self: Any, place: Any, level: int, size: tuple[int, int]) -> Any:
        asked.append(size)
        return original(self, place, level, size)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", read_region)
    return asked


@pytest.mark.parametrize(
    ("aperio", "options"), [(True, {}), (False, {"compression": "deflate"}), (False, {"bigtiff": True})]
)
def test_levels_and_regions(
    tmp_path: Path, through_openslide: list[Any], aperio: bool, options: dict[str, Any]
) -> None:
    levels = halves(noise(3, 256, 384), 3)
    image = open_image(write_slide(tmp_path / "slide", levels, aperio, **options))
    assert image.channel_names == ("red", "green", "blue")
    assert_regions(image, levels)
    file = write_slide(tmp_path / "slide.svs", levels[:1], aperio, compression="jpeg")
    assert_regions(open_image(file), [np.moveaxis(tifffile.imread(file, key=0), 2, 0)], examples=10)
    assert through_openslide


@pytest.mark.parametrize(("aperio", "size", "step"), [(True, (1101, 1203), 4), (False, (2300, 1030), 2)])
def test_levels_whose_pixels_lie_between_those_of_the_full_resolution(
    tmp_path: Path, through_openslide: list[Any], aperio: bool, size: tuple[int, int], step: int
) -> None:
    """OpenSlide interpolates there: a region must be a crop of the whole, and near what is stored."""
    smooth = np.add.outer(np.arange(size[0]), np.arange(size[1])) / sum(size) * 255
    levels = halves(np.stack([smooth, 255 - smooth, smooth / 2]).astype(np.uint8), 3, step)
    image = open_image(write_slide(tmp_path / "slide.tif", levels, aperio))
    whole = [image.read(level=level) for level in range(3)]
    assert_regions(image, whole, examples=20)
    assert through_openslide
    for stored, read in zip(levels, whole, strict=True):
        assert np.abs(stored.astype(int) - read).max() <= 2


@pytest.mark.parametrize(
    ("mpp", "per_cm", "um", "source"),
    [
        ("0.4990", None, 0.499, "Aperio metadata"),
        ("none", 40_000, 0.25, "TIFF resolution tags"),
        (None, 20_000, 0.5, "TIFF resolution tags"),
        (None, 118, None, "not stated"),  # a printer's, which OpenSlide believes
    ],
)
def test_pixel_sizes(tmp_path: Path, mpp: str | None, per_cm: int | None, um: float | None, source: str) -> None:
    options = {"resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER"} if per_cm else {}
    image = open_image(write_slide(tmp_path / "slide.svs", [noise(3, 64, 64)], mpp is not None, mpp, **options))
    assert image.pixel_size_um == (pytest.approx(um) if um else None)
    assert image.pixel_size_source == source


# What must not go through OpenSlide


@pytest.mark.parametrize("text", [None, APERIO.format(w=120, h=100)], ids=["generic", "aperio"])
@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (noise(100, 120, 3, dtype=np.uint16), {"photometric": "rgb"}),
        (noise(100, 120, dtype=np.uint16), {"photometric": "minisblack"}),
        (noise(100, 120), {"photometric": "minisblack"}),
        (noise(100, 120, 5), {"photometric": "minisblack", "planarconfig": "contig"}),
        (noise(100, 120, 4), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        (noise(100, 120, 3), {"photometric": "rgb", "extratags": [(274, "H", 1, 3, True)]}),
        (noise(100, 120, 3), {"photometric": "rgb", "description": None, "metadata": {}, "ome": True}),
        (noise(100, 120, 3), {"photometric": "rgb", "description": "ImageJ=1.54f\n"}),
    ],
    ids=["rgb16", "grey16", "grey8", "many", "alpha", "upside down", "ome", "imagej"],
)
def test_tiles_of_more_than_8_bit_rgb_keep_their_bits_and_channels(
    tmp_path: Path, through_openslide: list[Any], pixels: NDArray[Any], options: dict[str, Any], text: str | None
) -> None:
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, pixels, tile=(64, 64), **{"metadata": None, "description": text, **options})
    is_aperio = text is not None and "description" not in options
    assert openslide_reader.slide_family(file) == ("aperio" if is_aperio else "generic-tiff")
    stored = np.moveaxis(np.atleast_3d(pixels), 2, 0)
    kept = stored[:3] if "extrasamples" in options else stored
    assert_regions(open_image(file), [kept], examples=10)
    assert through_openslide == []


def test_levels_that_openslide_does_not_see_are_not_lost(tmp_path: Path, through_openslide: list[Any]) -> None:
    levels = halves(noise(3, 128, 192), 2)
    with tifffile.TiffWriter(tmp_path / "image.tif") as writer:
        for number, level in enumerate(levels):
            own: dict[str, Any] = {"subifds": 1} if number == 0 else {"subfiletype": 1}
            writer.write(np.moveaxis(level, 0, 2).copy(), photometric="rgb", tile=(64, 64), metadata=None, **own)
    assert_regions(open_image(tmp_path / "image.tif"), levels, examples=10)
    assert through_openslide == []


@pytest.mark.parametrize(
    ("aperio", "options"), [(False, {"tile": (16, 16)}), (True, {"compression": "jpeg2000"})], ids=str
)
def test_tiles_on_which_openslide_fails(tmp_path: Path, aperio: bool, options: dict[str, Any]) -> None:
    file = write_slide(tmp_path / "slide", [noise(3, 100, 120)], aperio, **options)
    assert openslide_reader.slide_family(file) == ("aperio" if aperio else "generic-tiff")
    with pytest.raises(openslide.OpenSlideError), closing(openslide.OpenSlide(file)) as opened:
        opened.read_region((0, 0), 0, (120, 100))
    assert_regions(open_image(file), [np.moveaxis(tifffile.imread(file, key=0), 2, 0)], examples=10)


# Background, damage, threads


@pytest.mark.parametrize("aperio", [True, False])
@pytest.mark.parametrize("options", [{}, {"extratags": [(274, "H", 1, 3, True)]}], ids=["openslide", "tifffile"])
def test_areas_that_were_not_scanned_are_white_by_either_reader(
    tmp_path: Path, aperio: bool, options: dict[str, Any], through_openslide: list[Any]
) -> None:
    whole = noise(3, 128, 192)
    tiles: list[Any] = [np.moveaxis(whole[:, y : y + 64, x : x + 64], 0, 2) for y in (0, 64) for x in (0, 64, 128)]
    tiles[4] = None
    whole[:, 64:, 64:128] = 255
    text = APERIO.format(w=192, h=128) if aperio else None
    own: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "description": text}
    tifffile.imwrite(tmp_path / "slide.tif", iter(tiles), shape=(128, 192, 3), dtype=np.uint8, **own, **options)
    assert_regions(open_image(tmp_path / "slide.tif"), [whole], examples=10)
    assert bool(through_openslide) == (not options)


@pytest.mark.parametrize(("colour", "alpha"), [("102030", 0), ("0A0000", 51)])
def test_transparent_pixels_lie_on_the_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colour: str, alpha: int
) -> None:
    from PIL import Image as Pillow

    image = open_image(write_slide(tmp_path / "slide.svs", [noise(3, 64, 64)]))
    region = np.full((20, 30, 4), (160, 160, 160, alpha), np.uint8)
    region[0, 0] = (1, 2, 3, 255)
    monkeypatch.setattr(openslide.OpenSlide, "read_region", lambda *_: Pillow.fromarray(region))
    real = openslide.OpenSlide.properties.fget  # type: ignore[attr-defined]
    fake = property(lambda self: {**dict(real(self)), "openslide.background-color": colour})
    monkeypatch.setattr(openslide.OpenSlide, "properties", fake)
    found = image.read((0, 0, 20, 30))
    assert found[:, 0, 0].tolist() == [1, 2, 3]
    share = alpha / 255
    exact = region[5, 5, :3] * share + np.frombuffer(bytes.fromhex(colour), np.uint8) * (1 - share)
    assert np.abs(found[:, 5, 5] - exact).max() <= 0.5


def test_an_unreadable_region_does_not_spoil_the_others(tmp_path: Path, through_openslide: list[Any]) -> None:
    pixels = noise(3, 256, 384)
    file = write_slide(tmp_path / "slide.svs", [pixels], compression="deflate")
    spoiled = bytearray(file.read_bytes())
    with tifffile.TiffFile(file) as tif:  # rows 64 to 127, columns 192 to 255
        start, count = tif.pages[0].dataoffsets[9], tif.pages[0].databytecounts[9]
    spoiled[start : start + count] = bytes(count)
    file.write_bytes(spoiled)
    with open_image(file).regions() as regions:

        def read(box: tuple[int, int, int, int]) -> bool:
            top, left, height, width = box
            found, trouble = attempt(lambda: regions.read(box))
            if found is None:
                assert "slide.svs" in trouble
                return False
            np.testing.assert_array_equal(found, pixels[:, top : top + height, left : left + width])
            return True

        boxes = [(y, x, 50, 60) for y in range(0, 200, 25) for x in range(0, 320, 20)]
        expected = [not (y < 128 and x < 256 and y + 50 > 64 and x + 60 > 192) for y, x, _, _ in boxes]
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(read, boxes * 3)) == expected * 3
    assert through_openslide


# Without OpenSlide, and formats that are not TIFF


@pytest.fixture
def no_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)


@pytest.mark.usefixtures("no_openslide")
@pytest.mark.parametrize("aperio", [True, False])
def test_without_openslide_tifffile_reads_slides_in_tiff(tmp_path: Path, aperio: bool) -> None:
    levels = halves(noise(3, 201, 303), 3)
    file = write_slide(tmp_path / "slide", levels, aperio)
    tifffile.imwrite(file, noise(64, 96), tile=(64, 64), metadata=None, append=True)  # grey, so no level
    image = open_image(file)
    assert image.pixel_size_um == (pytest.approx(0.499) if aperio else None)
    assert_regions(image, levels, examples=10)


@pytest.mark.usefixtures("no_openslide")
def test_without_openslide_other_slides_are_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "slide.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(ImageFileError, match=r"slide\.dcm: begins with .*pip install openslide-python openslide-bin"):
        open_image(tmp_path / "slide.dcm")
    mrxs(tmp_path)
    with pytest.raises(ImageFileError, match=r"slide\.mrxs: is a MIRAX slide.*pip install"):
        open_image(tmp_path / "slide.mrxs")


def mrxs(path: Path) -> Path:
    """A JPEG beside a folder, as MRXS is."""
    (path / "slide").mkdir()
    (path / "slide" / "Slidedat.ini").write_text("[GENERAL]\n")
    (path / "slide.mrxs").write_bytes(imagecodecs.jpeg_encode(noise(20, 30, 3)))
    return path / "slide.mrxs"


def test_an_mrxs_is_not_taken_for_the_jpeg_that_it_is_as_well(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()  # of no slide
    (tmp_path / "image.jpg").write_bytes(imagecodecs.jpeg_encode(noise(20, 30, 3)))
    assert open_image(tmp_path / "image.jpg").shape == (3, 20, 30)
    with pytest.raises(ImageFileError, match=r"slide\.mrxs: cannot be read \(OpenSlide"):
        open_image(mrxs(tmp_path))


def test_what_tifffile_cannot_read_or_lay_out_is_left_to_openslide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tifffile.TiffWriter(tmp_path / "slide.tif") as writer:
        for _ in range(3):
            writer.write(noise(64, 64, 3), photometric="rgb", tile=(64, 64), metadata=None)
    with tifffile.TiffFile(tmp_path / "slide.tif") as tif:
        third = tif.pages[2].offset
    opened = as_image(noise(2, 3))
    monkeypatch.setattr(readers, "list_slide", lambda path, _: [single(replace(opened, path=path))])
    with pytest.raises(ImageFileError, match="unknown meaning"):
        open_image(tmp_path / "slide.tif")
    families = {".tif": "leica", ".dcm": "dicom", ".ndpi": "hamamatsu"}
    monkeypatch.setattr(readers, "slide_family", lambda path: families[path.suffix])
    (tmp_path / "slide.dcm").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "slide.ndpi").write_bytes(b"II*\0" + (99).to_bytes(8, "little"))  # TIFF with offsets of its own
    for name in ("slide.tif", "slide.dcm", "slide.ndpi"):
        assert open_image(tmp_path / name).connect == opened.connect
    (tmp_path / "slide.tif").write_bytes((tmp_path / "slide.tif").read_bytes()[: third + 4])
    with pytest.raises(ImageFileError, match=r"unknown meaning|cut short"):
        open_image(tmp_path / "slide.tif")


@pytest.mark.parametrize(
    ("name", "size"), [("TileWidth", 0), ("TileLength", 1 << 25), ("TileWidth", -1), ("ImageWidth", 0)]
)
@pytest.mark.parametrize("page", [0, 2])
def test_sizes_that_end_the_program_are_kept_from_openslide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: int, name: str, size: int
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("OpenSlide is to open it")

    file = write_slide(tmp_path / "slide.svs", halves(noise(3, 128, 192), 2))
    with tifffile.TiffFile(file, mode="r+") as tif:
        tif.pages[page].aspage().tags[name].overwrite(size, dtype="I" if size >= 0 else "i")
    monkeypatch.setattr(readers, "slide_family", lambda _: "aperio")
    monkeypatch.setattr(readers, "list_slide", refuse)
    attempt(lambda: open_image(file))


def test_tiles_that_overlap_are_not_left_to_tifffile(tmp_path: Path) -> None:
    tags = [(700, "B", 6, b"<iScan", True)]
    own: dict[str, Any] = {"software": "ScanOutputManager 1.1", "extratags": tags, "metadata": None}
    tifffile.imwrite(tmp_path / "slide.bif", noise(64, 64, 3), photometric="rgb", tile=(64, 64), **own)
    with pytest.raises(ImageFileError, match=r"slide\.bif: is a Ventana slide.*OpenSlide"):
        open_image(tmp_path / "slide.bif")


def test_the_overview_of_a_vsi_is_not_taken_for_the_slide(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "slide.vsi", noise(64, 64, 3), photometric="rgb")
    assert open_image(tmp_path / "slide.vsi").shape == (3, 64, 64)
    (tmp_path / "_slide_" / "stack1").mkdir(parents=True)
    (tmp_path / "_slide_" / "stack1" / "frame_t.ets").touch()
    with pytest.raises(ImageFileError, match=r"slide\.vsi: is only the overview of an Olympus slide.*OME-TIFF"):
        open_image(tmp_path / "slide.vsi")


# A real slide


def test_regions_of_a_real_slide(through_openslide: list[Any]) -> None:
    data = Path(os.environ.get("CYTOSEED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    file = data / "slides" / "CMU-1-Small-Region.svs"
    if not file.exists():
        pytest.skip("the real data are not here (CYTOSEED_DATA)")
    image = open_image(file)
    with tifffile.TiffFile(file) as tif:
        pixels = np.moveaxis(tif.series[0].asarray(), 2, 0)
    assert (image.shape, image.pixel_size_source) == ((3, 2967, 2220), "Aperio metadata")
    assert image.pixel_size_um == pytest.approx(0.499)
    assert_regions(image, [pixels], examples=10)
    assert through_openslide


@pytest.mark.parametrize("offset", [200, 203])  # of 203, the pixels of the lower level do not coincide
def test_a_slide_is_cropped_to_the_bounds_of_its_scans_as_in_qupath(tmp_path: Path, offset: int) -> None:
    smooth = np.add.outer(np.arange(512), np.arange(512)) / 1024 * 255
    levels = halves(np.stack([smooth, 255 - smooth, smooth / 2]).astype(np.uint8), 2, 4)
    file = write_scn(tmp_path / "slide.scn", levels, offset)
    image, whole = open_image(file), open_image(file, full_canvas=True)
    assert (image.offset_yx, image.level_shapes) == ((offset, offset), ((512, 512), (128, 128)))
    assert image.identity()["offset_xy"] == [offset, offset]
    assert (whole.offset_yx, whole.shape) == ((0, 0), (3, 1000, 1000))
    assert "offset_xy" not in whole.identity()
    assert np.abs(image.read().astype(int) - levels[0]).max() <= 4
    assert np.abs(image.read(level=1).astype(int) - levels[1]).max() <= 8
    np.testing.assert_array_equal(whole.read((offset, offset, 512, 512)), image.read())
    assert_regions(image, [image.read(level=level) for level in range(2)], examples=20)


def test_the_further_pictures_of_a_slide(tmp_path: Path) -> None:
    file = write_scn(tmp_path / "slide.scn", halves(noise(3, 512, 512), 2, 4), 200)
    slide, macro = list_series(file)
    assert (slide.name, slide.is_main, macro.name, macro.is_picture) == ("slide", True, "macro", True)
    assert open_image(file).series is None
    assert (open_image(file, "macro").series, open_image(file, 1).shape) == ("macro", (3, 128, 128))
