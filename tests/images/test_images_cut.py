"""A file that is cut short is refused when it is opened, with a sentence that names what is missing."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from written import attempt, halves, noise, write_qptiff, write_slide, write_sub_ifds

from cytoseed.images import ImageFileError, open_image


def assert_refused(path: Path, whole: bytes, sizes: Any) -> None:
    """Cut a file to each of these sizes: none of it is taken for an image."""
    for size in sizes:
        path.write_bytes(whole[:size])
        with pytest.raises(ImageFileError, match=rf"{path.name}: (is cut short|its metadata name planes|is empty)"):
            open_image(path)


@pytest.mark.parametrize("options", [{}, {"compression": "jpeg"}, {"aperio": False}], ids=str)
def test_a_slide_cut_anywhere(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_slide(tmp_path / "slide.svs", halves(noise(3, 150, 201), 3), **options)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tif:
        end = max(max(o + n for o, n in zip(p.dataoffsets, p.databytecounts, strict=True)) for p in tif.pages)
    assert open_image(path).read().shape == (3, 150, 201)
    assert_refused(path, whole, [4, *range(0, end, max(1, end // 40)), end - 1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "deflate"},
        {"compression": "jpeg", "tile": (64, 64)},
        {"bigtiff": True},
        {"byteorder": ">", "compression": "deflate"},
        {"imagej": True},
        {"ome": True, "compression": "deflate"},
    ],
    ids=str,
)
def test_planes_cut_anywhere(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "image.tif"
    own: dict[str, Any] = {"photometric": "minisblack", "metadata": {"axes": "CYX"}, **options}
    tifffile.imwrite(path, noise(3, 90, 110), **own)
    whole = path.read_bytes()
    expected = open_image(path).read()
    assert own.get("compression") == "jpeg" or np.array_equal(expected, noise(3, 90, 110))
    for size in range(8, len(whole), len(whole) // 60):
        path.write_bytes(whole[:size])
        image, trouble = attempt(lambda: open_image(path))
        if image is None:
            assert "image.tif: " in trouble
        else:  # only what follows the pixels is lost
            np.testing.assert_array_equal(image.read(), expected)


@pytest.mark.parametrize("share", [0.005, 0.5, 0.999])
@pytest.mark.parametrize("encode", [imagecodecs.png_encode, imagecodecs.jpeg_encode], ids=["png", "jpeg"])
def test_pictures_are_refused_and_never_half_read(tmp_path: Path, encode: Any, share: float) -> None:
    whole = encode(noise(100, 100, 3))
    file = tmp_path / "cut.image"
    file.write_bytes(whole[: max(9, int(len(whole) * share))])
    with pytest.raises(ImageFileError, match=r"cut\.image.*(cut short|damaged).*again"):
        open_image(file).read()


def test_lower_levels_in_sub_ifds_and_pages_of_a_qptiff(tmp_path: Path) -> None:
    path = write_sub_ifds(tmp_path / "image.tif", halves(noise(2, 150, 201, dtype=np.uint16), 3))
    with tifffile.TiffFile(path) as tif:
        offsets = [offset for page in tif.pages for offset in page.subifds]
    assert_refused(path, path.read_bytes(), [offset + more for offset in offsets for more in (0, 1, 60)])
    path = write_qptiff(tmp_path / "image.qptiff", halves(noise(3, 150, 201), 2), ["a", "b", "c"], compression=None)
    with tifffile.TiffFile(path) as tif:
        offsets = [page.offset for page in tif.pages]
    assert_refused(path, path.read_bytes(), [offset + 4 for offset in offsets])


def test_a_page_that_names_too_few_tiles_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, noise(128, 192), tile=(64, 64), compression="deflate", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages.first.tags["ImageLength"].overwrite(129)
    with pytest.raises(ImageFileError, match=r"image\.tif: is cut short or damaged \(pixels of level 0 are missing\)"):
        open_image(path)


def test_a_file_that_is_cut_while_it_is_open(tmp_path: Path) -> None:
    pixels = noise(128, 192)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), metadata=None)
    whole = path.read_bytes()
    image = open_image(path)
    with image.regions() as regions:
        path.write_bytes(whole[: len(whole) - 64 * 64])
        with pytest.raises(ImageFileError, match=r"is cut short or damaged .*the requested pixels lie beyond"):
            regions.read((64, 128, 64, 64))
    with pytest.raises(ImageFileError, match="cut short"):
        image.read()


def test_nothing_is_printed(tmp_path: Path) -> None:
    """Python prints remarks of tifffile where nobody listens to its logger."""
    path = write_slide(tmp_path / "slide.tif", halves(noise(3, 150, 201), 3), aperio=False)
    path.write_bytes(path.read_bytes()[:-10])
    code = (
        "import sys; from cytoseed.images import open_image, ImageFileError\n"
        "try: open_image(sys.argv[1])\n"
        "except ImageFileError: print('refused')"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (run.stdout.strip(), run.stderr) == ("refused", "")


@pytest.mark.parametrize("pages", [1, 2])
def test_a_ring_of_pages_ends(tmp_path: Path, pages: int) -> None:
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(pages):
            writer.write(noise(9, 11), metadata=None, contiguous=False)
    data = bytearray(path.read_bytes())
    first = last = struct.unpack_from("<I", data, 4)[0]
    while last:
        pointer = last + 2 + 12 * struct.unpack_from("<H", data, last)[0]
        last = struct.unpack_from("<I", data, pointer)[0]
    struct.pack_into("<I", data, pointer, first)
    path.write_bytes(data)
    if pages == 1:
        assert open_image(path).shape == (1, 9, 11)
    else:
        with pytest.raises(ImageFileError, match="its 2 pages follow each other in a ring"):
            open_image(path)
