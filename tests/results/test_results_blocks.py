"""A result in blocks is written as a whole one is, and never held whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from pieced import Nothing, Pieced, files_of, pixels_of, planes_of

from cytoseed.images import open_image
from cytoseed.results import WRITERS, Result
from cytoseed.results.formats.labels import write_labels
from cytoseed.results.formats.overlay import draw_overlay, write_overlay
from cytoseed.results.save import save

ALL = tuple(name for name in WRITERS if name != "objects")  # which keeps the blocks as they were


def scattered(height: int, width: int, targets: int = 1, seed: int = 0) -> Result:
    """Squares of a few pixels all over an image, ids without gaps."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((targets, height, width), np.int32)
    places = rng.permutation((height // 8) * (width // 8))[: height * width // 400]
    for label, place in enumerate(places.tolist(), start=1):
        y, x = (8 * part for part in divmod(place, width // 8))
        labels[-1, y : y + 6, x : x + 6] = label
        labels[0, y + 1 : y + 4, x + 1 : x + 5] = label
    image = rng.integers(0, 255, (3, height, width)).astype(np.uint8)
    names = ("nuclei", "cells")[:targets]
    return Result.from_labels(labels[0] if targets == 1 else labels, image, targets=names, source="folder/tissue.tif")


def written(result: Result, folder: Path, formats: tuple[str, ...] = ALL) -> dict[str, bytes]:
    save(result, folder, formats, overwrite=True)
    return files_of(folder)


@pytest.mark.parametrize("objects", [1, 3, 10])
def test_blocks_give_the_bytes_of_the_whole(nuclei: Result, tmp_path: Path, objects: int) -> None:
    assert written(Pieced(nuclei, objects), tmp_path / "a") == written(nuclei, tmp_path / "b")


@pytest.mark.parametrize("objects", [1, 3, 10])
def test_a_cell_and_its_nucleus_come_from_one_block(cells: Result, tmp_path: Path, objects: int) -> None:
    pieced, whole = written(Pieced(cells, objects), tmp_path / "a"), written(cells, tmp_path / "b")
    for name, read in (("array.csv", pd.read_csv), ("array.parquet", pd.read_parquet)):
        tables = [read(tmp_path / folder / name).sort_values(["target", "id"]) for folder in "ab"]
        pd.testing.assert_frame_equal(*(table.reset_index(drop=True) for table in tables), check_exact=True)
        del pieced[name], whole[name]  # rows come block by block
    assert pieced == whole


# Label image


@pytest.mark.parametrize(
    ("side", "count", "limit", "is_big"),
    [(47_000, 0, None, False), (12_000, 0, 1000, True), (33_000, 65_536, None, False)],
)
def test_bigtiff_where_four_gib_do_not_do(
    tmp_path: Path, side: int, count: int, limit: int | None, is_big: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit is not None:
        monkeypatch.setattr("cytoseed.results.formats.labels._LARGEST_CLASSIC_BYTES", limit)

    write_labels(Nothing((3, side, side), count), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert tif.is_bigtiff == is_big
        assert tif.is_ome
        assert tif.series[0].shape == (side, side)
        assert tif.series[0].dtype == (np.uint32 if count else np.uint16)
        assert (np.array(tif.pages[0].databytecounts) > 0).all(), "readers need not know of tiles left out"
    assert (tmp_path / "a.tif").stat().st_size < 2e7, "tiles without objects take next to nothing"
    image = open_image(tmp_path / "a.tif")
    assert image.shape == (1, side, side)
    assert image.pixel_size_um == 0.25


# Overlay


def test_overlays_of_large_images_are_reduced(tmp_path: Path) -> None:
    labels = np.zeros((100, 8192), np.int32)
    labels[20:60, 4000:4040] = 1
    image = np.full((3, 100, 8192), 200, np.uint8)
    image[:, ::2] = 100
    result = Result.from_labels(labels, image, channel_names=("red", "green", "blue"))
    drawn = draw_overlay(result)
    assert (drawn.shape, drawn.dtype) == ((50, 4096, 3), np.uint8)
    assert (drawn[0, 0] == 150).all(), "the mean of what a pixel covers"
    is_line = (drawn != 150).any(axis=2)
    rows, columns = np.nonzero(is_line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 2000, 2019)
    assert is_line.sum() == 4 * 20 - 4, "one pixel wide"
    write_overlay(Pieced(result), tmp_path / "a.png")
    np.testing.assert_array_equal(open_image(tmp_path / "a.png").read(), np.moveaxis(drawn, 2, 0))


def test_rgb_is_shown_as_it_is_twice_as_large(nuclei: Result) -> None:
    drawn = draw_overlay(nuclei)
    assert (drawn.shape, drawn.dtype) == ((40, 60, 3), np.uint8)
    plain = np.moveaxis(pixels_of(nuclei), 0, 2).repeat(2, axis=0).repeat(2, axis=1)
    changed = (drawn != plain).any(axis=2)
    inside = nuclei.labels.repeat(2, axis=0).repeat(2, axis=1)
    assert not changed[inside == 0].any(), "outlines lie inside the objects"
    assert changed[4, 6:16].all(), "the upper edge of the first"
    assert changed[6, 15], "its edge to the second"
    assert changed[6, 16]
    assert not changed[7:9, 8:14].any(), "its inside"
    assert changed[0:2, 58:60].sum() == 3, "a single pixel's edges to others, not to the image's border"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_every_kind_of_image_can_be_drawn(dtype: Any, channels: int) -> None:
    image = (np.random.default_rng(0).random((channels, 30, 30)) * 200).astype(dtype)
    labels = np.zeros((30, 30), np.int32)
    labels[10:20, 10:20] = 1
    drawn = draw_overlay(Result.from_labels(labels, image, channel_names=tuple("abcde"[:channels])))
    assert len(np.unique(drawn[20:40, 20:40].reshape(-1, 3), axis=0)) > 1


def test_fluorescence_is_stretched_and_grey_and_of_one_value_black() -> None:
    ramp = np.linspace(100, 300, 900).reshape(1, 30, 30).astype(np.uint16)
    drawn = draw_overlay(Result.from_labels(np.zeros((30, 30), np.int32), ramp))
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert (drawn[..., 0] == drawn[..., 2]).all()
    drawn = draw_overlay(Result.from_labels(np.eye(30, dtype=np.int32), np.full((1, 30, 30), 7.0)))
    assert drawn[0, 10].tolist() == [0, 0, 0]
    assert drawn[10, 10].max() > 200


def test_nuclei_and_cells_have_colours_of_their_own(cells: Result) -> None:
    drawn = draw_overlay(cells)
    assert drawn[6, 6].tolist() != drawn[2, 2].tolist()


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.int32, np.uint64, np.float32, np.float64])
def test_overviews_are_means_of_areas(dtype: Any) -> None:
    image = (np.arange(2 * 8 * 12).reshape(2, 8, 12) % 2 * 2).astype(dtype)
    labels = np.arange(96, dtype=np.int32).reshape(8, 12)
    reduced, planes = Result.from_labels(labels, image).overview(6)
    assert (reduced.shape, planes.shape) == ((2, 4, 6), (1, 4, 6))
    assert (reduced == 1).all()
    np.testing.assert_array_equal(planes[0], labels[1::2, 1::2])


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 45))
def test_overviews_fit_and_keep_to_the_image(height: int, width: int, largest_px: int) -> None:
    result = scattered(height, width)
    image, labels = result.overview(largest_px)
    assert image.shape[1:] == labels.shape[1:]
    assert min(largest_px, max(height, width)) / 2 < max(labels.shape[1:]) <= largest_px
    assert set(np.unique(labels)) <= set(np.unique(result.labels))
    if largest_px >= max(height, width):
        np.testing.assert_array_equal(image, pixels_of(result))
        np.testing.assert_array_equal(labels, planes_of(result))


# Result as a result


@pytest.mark.parametrize("box", [(-1, 0, 4, 4), (0, 0, 21, 4), (0, 28, 4, 3), (0, 0, -1, 4)])
def test_a_region_outside_the_image(nuclei: Result, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"must lie inside the image of 20 x 30 px"):
        nuclei.labels_in(box)
