"""Files that are cut short: what is there is read, what is not is an error, and never half an image."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from cytoseed.images.intact import Blanked, survey_tiff
from numpy.typing import NDArray
from written import attempt, halves, noise, write_slide

from cytoseed.images import Image, ImageFileError, open_image


def stored_pieces(file: Path) -> list[list[tuple[int, int]]]:
    """Begin and end in the file of each tile of each level of the first image."""
    with tifffile.TiffFile(file) as tif:
        return [
            [
                (start, start + count)
                for page in level.pages
                for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
            ]
            for level in tif.series[0].levels
        ]


def require_all_or_nothing(image: Image, levels: list[NDArray[Any]]) -> list[int]:
    """Read the tiles of every level; count those that are there. What is given must be right."""
    counts = []
    with image.regions() as regions:
        for number, (rows, columns) in enumerate(image.level_shapes):
            counts.append(0)
            for top in range(0, rows, 64):
                for left in range(0, columns, 64):
                    box = (top, left, min(64, rows - top), min(64, columns - left))
                    found, trouble = attempt(lambda box=box, number=number: regions.read(box, number))
                    if found is None:
                        assert "cut short" in trouble
                        continue
                    expected = levels[number][:, top : top + box[2], left : left + box[3]]
                    np.testing.assert_array_equal(found, expected)
                    counts[-1] += 1
    return counts


@pytest.mark.parametrize("aperio", [True, False])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"bigtiff": True}], ids=str)
def test_of_a_cut_slide_every_tile_that_is_there_is_read(tmp_path: Path, aperio: bool, options: dict[str, Any]) -> None:
    """Pages lie before their pixels here, so a cut takes pixels of one level and all pages after it."""
    levels = halves(noise(3, 300, 400), 3)
    file = tmp_path / "slide.svs"
    if "bigtiff" in options:
        with tifffile.TiffWriter(file, bigtiff=True) as writer:
            for number, level in enumerate(levels):
                own: dict[str, Any] = {"subfiletype": min(number, 1), "tile": (64, 64), "metadata": None}
                writer.write(np.moveaxis(level, 0, 2).copy(), photometric="rgb", **own)
    else:
        write_slide(file, levels, aperio, **options)
    pieces, whole = stored_pieces(file), file.read_bytes()
    seen = set()
    for cut in [*range(600, len(whole), len(whole) // 23), *(end - 1 for _, end in pieces[0][:2]), len(whole) - 1]:
        file.write_bytes(whole[:cut])
        image, trouble = attempt(lambda: open_image(file))
        if image is None:
            assert cut < pieces[0][0][0], trouble  # only where the first page is not whole
            continue
        assert image.damage
        assert image.shape == levels[0].shape
        with pytest.raises(ImageFileError, match=r"slide\.svs: is cut short or damaged.*again"):
            image.read()
        counts = require_all_or_nothing(image, levels)
        assert counts == [sum(end <= cut for _, end in level) for level in pieces[: len(counts)]]
        assert all(level[0][0] > cut - 2000 for level in pieces[len(counts) :])  # a lost level has no pixels either
        seen.add(len(counts))
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("options", [{}, {"ome": True}], ids=str)
def test_of_cut_channels_those_that_are_there_are_read(tmp_path: Path, options: dict[str, Any], share: float) -> None:
    """Here all pages are before the cut: their pixels are appended, as some writers do."""
    pixels = noise(4, 90, 110, dtype=np.uint16)
    file = tmp_path / "image.tif"
    own: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}, "compression": "deflate"}
    tifffile.imwrite(file, pixels, rowsperstrip=10, **own, **options)
    to_the_end(file)
    whole = file.read_bytes()
    np.testing.assert_array_equal(open_image(file).read(), pixels)
    first = min(start for start, _ in stored_pieces(file)[0])
    cut = first + int(share * (len(whole) - first))
    file.write_bytes(whole[:cut])
    image = open_image(file)
    assert image.damage == "pixels of level 0 are missing"
    with pytest.raises(ImageFileError, match=r"image\.tif.*cut short.*pixels of level 0"):
        image.read()
    for index, (_, end) in enumerate(stored_pieces(file)[0]):
        channel, strip = divmod(index, 9)
        box = (10 * strip, 3, 10, 100)
        if end <= cut:
            found = image.read(box, channels=[channel])
            np.testing.assert_array_equal(found, pixels[[channel], 10 * strip : 10 * strip + 10, 3:103])
        else:
            with pytest.raises(ImageFileError, match="cut short"):
                image.read(box, channels=[channel])


def to_the_end(file: Path) -> None:
    """Copy all pixels to the end of the file, and let the pages point there."""
    with tifffile.TiffFile(file) as tif:
        data = bytearray(file.read_bytes())
        tags = [(page.aspage().tags["StripOffsets"], page.databytecounts) for page in tif.pages]
        for tag, counts in tags:
            moved = []
            for start, count in zip(tag.value, counts, strict=True):
                moved.append(len(data))
                data += data[start : start + count]
            data[tag.valueoffset : tag.valueoffset + 4 * len(moved)] = struct.pack(f"<{len(moved)}I", *moved)
    file.write_bytes(data)


def test_a_page_that_names_too_few_tiles_for_its_size(tmp_path: Path) -> None:
    pixels = noise(128, 192)
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, pixels, tile=(64, 64), compression="deflate", metadata=None)
    with tifffile.TiffFile(file, mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(129)
    image = open_image(file)
    assert image.damage == "pixels of level 0 are missing"
    np.testing.assert_array_equal(image.read((0, 0, 128, 192))[0], pixels)
    with pytest.raises(ImageFileError, match=r"image\.tif.*damaged"):
        image.read((0, 0, 129, 1))
    with pytest.raises(ImageFileError, match="pixels of level 0 are missing"):
        image.read()


def test_uncompressed_rows_that_are_there_are_read(tmp_path: Path) -> None:
    pixels = noise(2, 60, 50, dtype=np.uint16)
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, pixels, photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(file) as tif:
        end = tif.series[0].dataoffset + pixels.nbytes
    file.write_bytes(file.read_bytes()[: end - 50 * 2 * 7 - 1])  # 7 rows and a byte of the second channel are lost
    image = open_image(file)
    np.testing.assert_array_equal(image.read((0, 0, 60, 50), channels=[0]), pixels[:1])
    np.testing.assert_array_equal(image.read((0, 0, 52, 50)), pixels[:, :52])
    np.testing.assert_array_equal(image.read((52, 0, 1, 49)), pixels[:, 52:53, :49])
    for box in ((52, 0, 1, 50), (53, 0, 1, 1), (0, 0, 60, 50)):
        with pytest.raises(ImageFileError, match="cut short"):
            image.read(box)


def write_sub_ifds(path: Path, levels: list[NDArray[Any]], ome: bool) -> Path:
    """Write two channels with lower levels in SubIFDs; all pages come before what they point to."""
    own: dict[str, Any] = {"photometric": "minisblack", "tile": (64, 64)}
    axes: dict[str, Any] = {"metadata": {"axes": "CYX"}}
    if ome:  # its description would be at the end of the file, and be lost first
        tifffile.imwrite(path / "described.tif", levels[0], ome=True, **axes, **own)
        axes = {"description": tifffile.tiffcomment(path / "described.tif"), "metadata": None}
    with tifffile.TiffWriter(path / "image.tif") as writer:
        writer.write(levels[0], subifds=len(levels) - 1, **axes, **own)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None if ome else {"axes": "CYX"}, **own)
    return path / "image.tif"


@pytest.mark.parametrize("ome", [True, False])
def test_lower_levels_in_sub_ifds_that_are_lost(tmp_path: Path, ome: bool) -> None:
    levels = halves(noise(2, 150, 201, dtype=np.uint16), 3)
    file = write_sub_ifds(tmp_path, levels, ome)
    whole = file.read_bytes()
    np.testing.assert_array_equal(open_image(file).read(level=2), levels[2])
    with tifffile.TiffFile(file) as tif:
        offsets = [page.subifds for page in tif.pages]
    for channel, number in ((0, 1), (1, 1), (0, 2), (1, 2)):
        for more in (0, 1, 60):  # before it, in the number of its tags, in a tag
            file.write_bytes(whole[: offsets[channel][number - 1] + more])
            image = open_image(file)
            assert image.level_shapes == tuple(level.shape[1:] for level in levels[:number])
            assert "a page" in image.damage or "the page" in image.damage
            np.testing.assert_array_equal(image.read((0, 0, 150, 201)), levels[0])
            with pytest.raises(ImageFileError, match="cut short"):
                image.read()


# What may be a channel must not be lost unnoticed


@pytest.mark.parametrize("options", [{"metadata": None}, {"metadata": {"axes": "CYX"}}, {"ome": True}], ids=str)
def test_channels_in_pages_that_are_lost_are_refused_when_opened(tmp_path: Path, options: dict[str, Any]) -> None:
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, noise(3, 90, 110), photometric="minisblack", compression="deflate", **options)
    with tifffile.TiffFile(file) as tif:
        second = tif.pages[1].offset
    file.write_bytes(file.read_bytes()[:second])
    with pytest.raises(ImageFileError, match=r"image\.tif: (is cut short|its metadata name planes)"):
        open_image(file)


def test_channels_of_imagej_that_are_lost_are_refused_when_opened(tmp_path: Path) -> None:
    """All its channels belong to one page, which is there: it would be read as an image of one channel."""
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, noise(3, 90, 110), imagej=True, metadata={"axes": "CYX"})
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(ImageFileError, match=r"image\.tif: its metadata name planes that it does not hold"):
        open_image(file)


@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}], ids=str)
def test_axes_in_an_unusual_order_are_all_there_or_not_read(tmp_path: Path, options: dict[str, Any]) -> None:
    pixels = noise(90, 110)
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, pixels.T, metadata={"axes": "XY"}, rowsperstrip=11, **options)
    file.write_bytes(file.read_bytes()[:-50])
    image = open_image(file)
    assert image.damage == "pixels of level 0 are missing"
    for box in ((0, 0, 90, 110), (0, 0, 1, 1)):
        with pytest.raises(ImageFileError, match="cut short"):
            image.read(box)


def test_a_qptiff_is_refused_until_a_page_of_another_kind_shows_that_all_channels_are_there(tmp_path: Path) -> None:
    from test_images_tiff_regions import write_qptiff

    levels = halves(noise(3, 150, 201), 2)
    file = write_qptiff(tmp_path / "image.qptiff", levels, ["a", "b", "c"], compression=None)
    with tifffile.TiffFile(file) as tif:
        offsets = [page.offset for page in tif.pages]
    whole = file.read_bytes()
    for page, at in enumerate(offsets[1:], start=1):
        file.write_bytes(whole[: at + 4])
        if page <= 3:
            with pytest.raises(ImageFileError, match="cut short"):
                open_image(file)
        else:
            image = open_image(file)
            assert image.level_shapes == ((150, 201),)
            np.testing.assert_array_equal(image.read((0, 0, 150, 201)), levels[0])


def test_striped_colour_may_be_a_stack(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    with tifffile.TiffWriter(file) as writer:
        for _ in range(2):
            writer.write(noise(90, 110, 3), photometric="rgb", metadata=None)
    with tifffile.TiffFile(file) as tif:
        second = tif.pages[1].offset
    file.write_bytes(file.read_bytes()[: second + 4])
    with pytest.raises(ImageFileError, match=r"cut short.*which may be a channel"):
        open_image(file)


def test_nothing_is_printed(tmp_path: Path) -> None:
    """Of tifffile's remarks Python prints those to which no program listens."""
    file = write_sub_ifds(tmp_path, halves(noise(2, 150, 201, dtype=np.uint16), 3), ome=True)
    with tifffile.TiffFile(file) as tif:
        lost = tif.pages[0].subifds[1]
    file.write_bytes(file.read_bytes()[:lost])
    code = (
        "import sys; from cytoseed.images import open_image; image = open_image(sys.argv[1]); "
        "image.read((0, 0, 9, 9)); print(image.damage)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert run.stdout.strip()
    assert run.stderr == ""


# The chain of pages itself


def test_a_ring_of_pages_ends(tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    tifffile.imwrite(file, noise(9, 11), metadata=None)
    data = bytearray(file.read_bytes())
    survey = survey_tiff(file)
    first = struct.unpack_from("<I", data, 4)[0]
    tags = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * tags, first)
    file.write_bytes(data)
    assert survey_tiff(file) == survey == ((), (), False)


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_blanked_bytes_are_zeros_however_they_are_read(tmp_path: Path, size: int) -> None:
    file = tmp_path / "bytes"
    file.write_bytes(bytes(range(1, 31)))
    expected = bytearray(range(1, 31))
    expected[3:7] = bytes(4)
    expected[28:30] = bytes(2)
    with Blanked(file, ((3, 4), (28, 8))) as blanked:
        parts = []
        while part := blanked.read(size):
            parts.append(part)
        assert b"".join(parts) == expected
        blanked.seek(5)
        buffer = bytearray(6)
        assert blanked.readinto(buffer) == 6
        assert buffer == expected[5:11]
        assert blanked.read() == expected[11:]
