"""ImageJ's ROIs: read back by roifile and filled again they are the labels."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Nothing, Pieced, blank, labellings, planes_of
from roifile import ROI_COLOR_NONE, ROI_TYPE, ImagejRoi, roiread
from skimage.draw import polygon2mask

from cytoseed.results import WRITERS, Block, Result
from cytoseed.results.formats.rois import write_rois
from cytoseed.results.writers import check_formats


def read(result: Result, path: Path) -> list[ImagejRoi]:
    write_rois(result, path)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    found = roiread(path)
    assert isinstance(found, list)
    assert [f"{roi.name}.roi" for roi in found] == names
    return found


def fill(roi: ImagejRoi, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Find the pixels whose centres lie in a ROI, by the even-odd rule, as ImageJ does."""
    inside = np.zeros(shape[-2:], bool)
    for ring in roi.coordinates(multi=True):
        inside ^= polygon2mask(shape[-2:], np.asarray(ring, float)[:, ::-1] - 0.5)
    return inside


def filled(rois: list[ImagejRoi], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels (T,H,W) filled from ROIs."""
    labels = np.zeros(shape, np.int32)
    for roi in rois:
        kind, label = roi.name.split("-")
        inside = fill(roi, shape)
        plane = labels[("nucleus", "cell").index(kind)]
        assert not plane[inside].any(), "ROIs do not overlap"
        plane[inside] = int(label)
    return labels


class Corner(Nothing):
    """One pixel, the last of an image."""

    def blocks(self) -> Iterator[Block]:
        labels = np.ones((1, 1, 1), np.int32)
        yield Block(self.shape[1] - 1, self.shape[2] - 1, labels, pd.DataFrame({"id": [1]}))


def test_rois_of_one_target(nuclei: Result, tmp_path: Path) -> None:
    rois = read(nuclei, tmp_path / "a.zip")
    assert [roi.name for roi in rois] == ["nucleus-000001", "nucleus-000002", "nucleus-000003", "nucleus-000004"]
    assert [roi.roitype for roi in rois] == [ROI_TYPE.TRACED] * 3 + [ROI_TYPE.RECT]
    assert [roi.composite for roi in rois] == [False] * 3 + [True], "of a hole and two pieces"
    assert {roi.stroke_color for roi in rois} == {ROI_COLOR_NONE}
    boxes = [(roi.left, roi.top, roi.right, roi.bottom) for roi in rois]
    assert boxes == [(3, 2, 8, 6), (8, 2, 10, 6), (29, 0, 30, 1), (1, 10, 15, 19)]
    assert sorted(map(tuple, rois[0].coordinates().tolist())) == [(3, 2), (3, 6), (8, 2), (8, 6)], "not closed twice"
    np.testing.assert_array_equal(filled(rois, planes_of(nuclei).shape), planes_of(nuclei))


def test_nuclei_and_cells_are_told_apart(cells: Result, tmp_path: Path) -> None:
    rois = read(cells, tmp_path / "a.zip")
    assert [roi.name for roi in rois] == [
        *("nucleus-000001", "cell-000001", "nucleus-000002", "cell-000002", "cell-000004", "nucleus-000005")
    ]
    colours = {kind: {roi.stroke_color for roi in rois if roi.name.startswith(kind)} for kind in ("nucleus", "cell")}
    assert [len(each) for each in colours.values()] == [1, 1]
    assert colours["nucleus"] != colours["cell"]
    assert all(colour[0] == 255 for each in colours.values() for colour in each), "opaque"
    np.testing.assert_array_equal(filled(rois, planes_of(cells).shape), planes_of(cells))


@settings(max_examples=60)
@given(labellings, st.integers(1, 3))
@example(np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]], np.int32), 1)
@example(np.array([[[0, 1, 1], [1, 0, 1], [1, 1, 1]]], np.int32), 1)
@example(np.array([[[1, 0], [0, 1]], [[2, 1], [1, 2]]], np.int32), 2)
@example(np.array([[[1]]], np.int32), 1)
def test_every_labelling_comes_back(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.int32], objects: int
) -> None:
    result = blank(labels if len(labels) == 2 else labels[0])
    rois = read(Pieced(result, objects), tmp_path_factory.getbasetemp() / "rois.zip")
    np.testing.assert_array_equal(filled(rois, labels.shape), labels)


def test_an_object_of_more_corners_than_a_polygon_takes_is_a_composite(tmp_path: Path) -> None:
    labels = np.zeros((363, 361), np.int32)
    labels[::4], labels[:, 0], labels[1::4, 2::2] = 1, 1, 1  # combs on a spine
    (roi,) = read(blank(labels), tmp_path / "a.zip")
    assert roi.composite
    (ring,) = roi.coordinates(multi=True)
    assert len(ring) > 65_536
    again = np.zeros((363, 361), bool)
    for (x0, y0), (x1, y1) in zip(ring[:-1].astype(int), ring[1:].astype(int), strict=True):
        if x0 == x1:
            again[min(y0, y1) : max(y0, y1), x0:] ^= True
    np.testing.assert_array_equal(again, labels > 0)


def test_nothing_found_is_an_empty_zip(tmp_path: Path) -> None:
    assert read(Nothing((3, 70, 60)), tmp_path / "a.zip") == []


# Limits


def test_the_last_pixel_that_sixteen_bits_reach(tmp_path: Path) -> None:
    (roi,) = read(Corner((1, 32_767, 32_767), 1), tmp_path / "a.zip")
    assert {tuple(corner) for corner in roi.coordinates().tolist()} == {
        *((32_766, 32_766), (32_767, 32_766), (32_766, 32_767), (32_767, 32_767))
    }


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [
        ((3, 32_768, 10), 1, r"the image has 10 x 32768 px.*16 bits.*32,767 px; take geojson, geojson\.gz or"),
        ((3, 10, 100_000), 1, r"the image has 100000 x 10 px.*16 bits"),
        ((3, 10, 10), 65_536, r"there are 65,536 objects.*65,535.*take geojson, geojson\.gz or geojson-split"),
    ],
)
def test_what_imagej_cannot_hold_is_refused(shape: tuple[int, int, int], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"'rois' cannot hold this result: {message}"):
        check_formats(["rois"], shape, count)
    assert check_formats(["rois"], (3, 32_767, 32_767), 65_535) == ("rois",)
    for name in ("geojson", "geojson.gz", "geojson-split"):
        assert WRITERS[name].limit(shape, count) is None, "those named can"
