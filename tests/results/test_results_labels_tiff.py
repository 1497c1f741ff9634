"""Label images at several resolutions: which pixels each level shows, and the TIFF that holds them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Nothing, Pieced, blank, planes_of
from test_results_ngff import scattered

from cytoseed.images import open_image
from cytoseed.results import Result, pyramid
from cytoseed.results.formats import labels as tiff
from cytoseed.results.formats.labels import write_labels
from cytoseed.results.pyramid import halved, level_of, tiles_of


def small_pieces(patch: pytest.MonkeyPatch) -> None:
    """Small images with many tiles, regions and levels."""
    patch.setattr(tiff, "_TILE_PX", 16)
    patch.setattr(tiff, "_LARGEST_FLAT_PX", 20)
    patch.setattr(pyramid, "_READ_PX", 48)
    patch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)


def expected(planes: NDArray[np.int32], factor: int) -> NDArray[np.int32]:
    """Pixels at the centres of squares, of which those at the edges are cut."""
    rows, columns = (np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in planes.shape[1:])
    return planes[:, rows[:, None], columns]


@settings(max_examples=25)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 2), st.integers(1, 3))
@example(20, 20, 2, 1)
@example(21, 1, 1, 1)
@example(1, 65, 2, 2)
def test_every_level_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, targets: int, objects: int
) -> None:
    whole, folder = scattered(height, width, targets), tmp_path_factory.mktemp("tiff")
    with pytest.MonkeyPatch.context() as patch:
        small_pieces(patch)
        write_labels(whole, folder / "whole.tif")
        write_labels(Pieced(whole, objects), folder / "pieced.tif")
    image = open_image(folder / "whole.tif")
    assert image.channel_names == whole.targets
    assert image.pixel_size_um == 0.25
    assert (len(image.level_shapes) > 1) == (max(height, width) > 20)
    for number in range(len(image.level_shapes)):
        np.testing.assert_array_equal(image.read(level=number), expected(planes_of(whole), 2**number))
    with tifffile.TiffFile(folder / "whole.tif") as tif:
        assert len(tif.series) == 1
        for number, level in enumerate(tif.series[0].levels):
            found = level.asarray().reshape(targets, *image.level_shapes[number])
            np.testing.assert_array_equal(found, expected(planes_of(whole), 2**number))
    assert (folder / "pieced.tif").read_bytes() == (folder / "whole.tif").read_bytes()
    assert len(list(folder.iterdir())) == 2


def test_lower_levels_are_sub_ifds_of_each_plane(tmp_path: Path) -> None:
    whole = scattered(2049, 3000)
    write_labels(whole, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert len(tif.pages) == 2, "planes of full resolution only, as programs count them that know no SubIFDs"
        assert tif.series[0].axes == "CYX"
        assert [level.shape for level in tif.series[0].levels] == [(2, 2049, 3000), (2, 1025, 1500), (2, 513, 750)]
        for page in tif.pages:
            assert len(page.subifds) == 2
            for number, own in enumerate((page.aspage(), *page.aspage().pages)):
                assert (own.subfiletype == tifffile.FILETYPE.REDUCEDIMAGE) == (number > 0)
                assert own.tile == (512, 512)
                assert own.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
                assert own.tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
                numerator, denominator = own.tags["XResolution"].value
                assert 1e4 * denominator / numerator == pytest.approx(0.25 * 2**number)
        (pixels,) = re.findall(r"<Pixels [^>]*>", tif.ome_metadata)
        assert 'SizeX="3000"' in pixels
        assert 'SizeC="2"' in pixels


@pytest.mark.parametrize(("side", "levels"), [(2048, 1), (2049, 3)])
def test_from_which_size_on_there_are_levels(tmp_path: Path, side: int, levels: int) -> None:
    write_labels(Nothing((3, 5, side)), tmp_path / "a.tif")
    assert len(open_image(tmp_path / "a.tif").level_shapes) == levels


def test_large_ids_with_gaps_at_every_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_pieces(monkeypatch)
    whole = blank(np.random.default_rng(3).integers(0, 70_000, (70, 90)).astype(np.int32))
    monkeypatch.setattr(Result, "count", 3)  # so few that 16 bits might do
    write_labels(Pieced(whole), tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    assert image.dtype == np.uint32
    for number in range(len(image.level_shapes)):
        np.testing.assert_array_equal(image.read(level=number), expected(planes_of(whole), 2**number))


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_labels_take_the_smallest_of_two_types(tmp_path: Path, largest: int, dtype: Any) -> None:
    labels = np.array([[0, largest, 0]], np.int32)
    write_labels(blank(labels), tmp_path / "a.tif")
    read = open_image(tmp_path / "a.tif").read()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[0], labels)


# Levels


@pytest.mark.parametrize(
    ("large", "small", "factor", "expected"),
    [
        (11, 5, 2.0, [1, 3, 5, 7, 9]),
        (11, 6, 2.0, [1, 3, 5, 7, 9, 10]),
        (110, 5, 21.9999999, [11, 33, 55, 77, 99]),
        (10, 7, 1.0, [0, 2, 3, 5, 6, 7, 9]),
        (12, 4, -3.0, [1, 4, 7, 10]),
        (12, 4, float("nan"), [1, 4, 7, 10]),
        (1, 1, 2.0, [0]),
    ],
)
def test_sizes_that_are_stated_and_those_that_cannot_be(
    large: int, small: int, factor: float, expected: list[int]
) -> None:
    level = level_of((large, 1), (small, 1), (factor, 1.0))
    assert level.rows.tolist() == expected
    assert level.columns.tolist() == [0]


def test_tiles_are_given_as_soon_as_what_they_show_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "_READ_PX", 32)
    monkeypatch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)
    result = Pieced(Result.from_labels(np.ones((256, 256), np.int32), np.zeros((1, 256, 256), np.uint8)))
    levels = halved((256, 256))
    given_px = [0] * len(levels)
    for tile in tiles_of(result, levels, 16):
        given_px[tile.level] += tile.labels.size
        read_px = 32 * 32 * len(result.asked_yxhw)
        for number, of_level in enumerate(given_px):
            held = read_px / 4**number - of_level
            assert held <= (32 * 32 if number == 0 else 16 * 16), "what is read last, and one tile of each level"
    assert given_px == [level.shape[0] * level.shape[1] for level in levels]
