"""The label TIFF of a large image: its lower resolutions, where readers look for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Nothing, Pieced, planes_of
from test_results_ngff import scattered

from cytoseed.images import open_image
from cytoseed.results import Result, pyramid
from cytoseed.results.formats import labels as tiff
from cytoseed.results.formats.labels import write_labels


def small_pieces(patch: pytest.MonkeyPatch) -> None:
    """Small images with many tiles, regions and levels."""
    patch.setattr(tiff, "_TILE_PX", 16)
    patch.setattr(tiff, "_LARGEST_FLAT_PX", 20)
    patch.setattr(pyramid, "_READ_PX", 48)
    patch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)


def noise(height: int, width: int, largest: int = 60_000) -> Result:
    labels = np.random.default_rng(3).integers(0, largest + 1, (height, width)).astype(np.int32)
    labels[0, 0] = largest
    return Result.from_labels(labels, np.zeros((1, height, width), np.uint8))


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
            for number, own in enumerate(page.aspage().pages, start=1):
                assert own.subfiletype == tifffile.FILETYPE.REDUCEDIMAGE
                assert own.tile == (512, 512)
                assert own.compression == tifffile.COMPRESSION.ADOBE_DEFLATE
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
    whole = noise(70, 90, largest=70_000)
    result = Pieced(whole)
    monkeypatch.setattr(Result, "count", 3)  # so few that 16 bits might do
    write_labels(result, tmp_path / "a.tif")
    image = open_image(tmp_path / "a.tif")
    assert image.dtype == np.uint32
    for number in range(len(image.level_shapes)):
        np.testing.assert_array_equal(image.read(level=number), expected(planes_of(whole), 2**number))
