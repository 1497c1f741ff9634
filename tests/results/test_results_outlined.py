"""Outlines of any program: the table is scikit-image's, from labels and from GeoJSON of them; pairs get one id."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage.measure import label, regionprops_table

import cytoseed
from cytoseed.results import Result


@pytest.fixture
def image() -> np.ndarray:
    """Two channels of 90 x 120 px, of 16 bits."""
    noise = np.random.default_rng(3).normal(size=(2, 90, 120))
    return (2000 + 4000 * ndimage.gaussian_filter(noise, (0, 3, 3))).clip(0).astype(np.uint16)


@pytest.fixture
def labels(image: np.ndarray) -> np.ndarray:
    """As scikit-image labels what is bright."""
    return label(image[0] > 2200, connectivity=1).astype(np.int32)


@pytest.fixture
def file(image: np.ndarray, tmp_path: Path) -> Path:
    names = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5, "Channel": {"Name": ["DAPI", "CD3"]}}
    tifffile.imwrite(tmp_path / "field.ome.tif", image, metadata=names)
    return tmp_path / "field.ome.tif"


def test_labels_and_geojson_of_them_measure_what_scikit_image_does(
    image: np.ndarray, labels: np.ndarray, file: Path, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "mask.tif", labels)
    Result.from_labels(labels, image, source="mask").save(tmp_path / "outlines", ["geojson"])
    properties = ("label", "area", "centroid", "intensity_mean", "intensity_std")
    expected = regionprops_table(labels, np.moveaxis(image, 0, -1), properties=properties)
    assert len(expected["label"]) > 20
    for outlines in (labels, tmp_path / "mask.tif", tmp_path / "outlines" / "mask.geojson"):
        result = cytoseed.measure(file, outlines)
        table = result.table
        assert (result.targets, result.pixel_size_um, "score" in table) == (("nuclei",), 0.5, False)
        np.testing.assert_array_equal(table["id"], expected["label"])
        np.testing.assert_array_equal(table["area_px"], expected["area"])
        np.testing.assert_allclose(table["area_um2"], expected["area"] / 4)
        for axis, name in enumerate(("centroid_y_px", "centroid_x_px")):
            np.testing.assert_allclose(table[name], expected[f"centroid-{axis}"] + 0.5)
        for channel, name in enumerate(("DAPI", "CD3")):
            np.testing.assert_allclose(table[f"mean_{name}"], expected[f"intensity_mean-{channel}"])
            np.testing.assert_allclose(table[f"sd_{name}"], expected[f"intensity_std-{channel}"])


def test_large_images_are_measured_a_channel_at_a_time(
    labels: np.ndarray, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = cytoseed.measure(file, labels).table
    monkeypatch.setattr("cytoseed.results.outlined._HELD_BYTES", 0)
    read = []
    own = cytoseed.images.Regions.read
    monkeypatch.setattr("cytoseed.images.Regions.read", lambda self, *args: read.append(args[2]) or own(self, *args))
    result = cytoseed.measure(file, labels)
    assert result.table.equals(at_once)
    assert [channels for channels in read if channels != range(2)] == [[0], [1]], "without those of the overview"


def test_nuclei_take_the_ids_of_their_cells() -> None:
    cells = np.zeros((12, 30), np.int32)
    cells[1:9, 1:9], cells[1:9, 10:18], cells[1:9, 19:24] = 7, 3, 5
    nuclei = np.zeros_like(cells)
    nuclei[3:6, 3:6], nuclei[3:8, 12:16], nuclei[3:5, 16:18], nuclei[3:6, 23:28] = 3, 1, 9, 7
    result = cytoseed.measure(np.zeros(cells.shape, np.uint8), nuclei, cells)
    own, of_cells = result.labels
    np.testing.assert_array_equal(of_cells, cells)
    np.testing.assert_array_equal(own > 0, nuclei > 0)
    assert (own[4, 4], own[4, 13], own[3, 16]) == (7, 3, 9), "the larger of two nuclei is the cell's"
    assert own[4, 25] not in cells, "mostly outside of cell 5"
    again = cytoseed.measure(np.zeros(cells.shape, np.uint8), own, cells)
    np.testing.assert_array_equal(again.labels, result.labels)


def test_cells_of_qupath_have_their_nuclei(cells: Result, image: np.ndarray, tmp_path: Path) -> None:
    (path, _) = cells.save(tmp_path, ["geojson"])
    content = json.loads(path.read_text())
    square = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    content["features"].append({"type": "Feature", "geometry": square, "properties": {"objectType": "annotation"}})
    path.write_text(json.dumps(content))
    result = cytoseed.measure(image[:, :16, :18], path)
    assert result.targets == ("nuclei", "cells")
    for plane, own in zip(result.labels, cells.labels, strict=True):
        np.testing.assert_array_equal(plane > 0, own > 0)
    own, of_cells = result.labels
    assert (own[4, 4], own[5, 12]) == (of_cells[4, 4], of_cells[5, 12])
    with pytest.raises(ValueError, match="leave cells out"):
        cytoseed.measure(image[:, :16, :18], path, cells=cells.labels[1])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (np.zeros((5, 5), np.int32), ValueError, r"labels have shape \(5, 5\)"),
        (np.zeros((90, 120)), TypeError, "must be integers"),
        (np.full((90, 120), -1), ValueError, "from -1 to -1"),
        ("missing.tif", FileNotFoundError, "missing.tif"),
        ("far.geojson", ValueError, "no feature contains a pixel of the image"),
    ],
)
def test_what_does_not_fit_the_image(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: object, error: type, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    square = {"type": "Polygon", "coordinates": [[[900, 900], [909, 900], [909, 909], [900, 900]]]}
    Path("far.geojson").write_text(json.dumps([{"type": "Feature", "geometry": square}]))
    with pytest.raises(error, match=says):
        cytoseed.measure(image, given)
