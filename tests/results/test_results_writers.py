"""Label image and overlay: what is written is what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from pieced import pixels_of

from cytoseed.images import open_image
from cytoseed.results import Result
from cytoseed.results.formats.labels import write_labels
from cytoseed.results.formats.overlay import draw_overlay

# Label image


@pytest.mark.parametrize(("largest", "dtype"), [(0, np.uint16), (65_535, np.uint16), (65_536, np.uint32)])
def test_labels_take_the_smallest_of_two_types(tmp_path: Path, largest: int, dtype: Any) -> None:
    labels = np.zeros((1, 3), np.int32)
    labels[0, 1] = largest
    write_labels(Result.from_labels(labels, np.zeros((1, 1, 3))), tmp_path / "a.tif")
    read = open_image(tmp_path / "a.tif").read()
    assert read.dtype == dtype
    np.testing.assert_array_equal(read[0], labels)


def test_programs_that_know_only_tags_find_the_pixel_size(nuclei: Result, tmp_path: Path) -> None:
    write_labels(nuclei, tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        numerator, denominator = tif.pages[0].tags["XResolution"].value
        assert tif.pages[0].tags["ResolutionUnit"].value == tifffile.RESUNIT.CENTIMETER
    assert 1e4 * denominator / numerator == pytest.approx(0.25)


# Overlay


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


def test_fluorescence_is_stretched_and_grey() -> None:
    ramp = np.linspace(100, 300, 900).reshape(1, 30, 30).astype(np.uint16)
    drawn = draw_overlay(Result.from_labels(np.zeros((30, 30), np.int32), ramp))
    assert (drawn.min(), drawn.max()) == (0, 255)
    assert (drawn[..., 0] == drawn[..., 2]).all()


def test_an_image_of_one_value_is_black_with_outlines() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[5:9, 5:9] = 1
    drawn = draw_overlay(Result.from_labels(labels, np.full((1, 20, 20), 7.0)))
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[10, 10].max() > 200


def test_nuclei_and_cells_have_colours_of_their_own(cells: Result) -> None:
    drawn = draw_overlay(cells)
    assert drawn[6, 6].tolist() != drawn[2, 2].tolist()
