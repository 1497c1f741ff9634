"""GeoJSON: QuPath's rules, one file or many, and outlines that give back exactly the labels."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Nothing, Pieced, blank, files_of, labellings, planes_of
from qupath_rules import assert_qupath_rules, filled, geometries_of

from cytoseed.results import Block, Result
from cytoseed.results.formats import geojson
from cytoseed.results.formats.geojson import write_geojson, write_geojson_gz, write_geojson_split


def collection(result: Result, path: Path) -> Any:
    write_geojson(result, path)
    return json.loads(path.read_text(encoding="utf-8"))


def parts(result: Result, path: Path) -> dict[str, Any]:
    write_geojson_split(result, path)
    return {name: json.loads(content) for name, content in files_of(path).items()}


class Measured(Pieced):
    """A segmentation with a table of one's own."""

    def __init__(self, whole: Result, table: Any) -> None:
        super().__init__(whole)
        self.__dict__["table"] = table

    def blocks(self) -> Iterator[Block]:
        yield Block(0, 0, planes_of(self.whole), self.__dict__["table"])


# QuPath's rules


def test_nuclei_alone_are_detections(nuclei: Result, tmp_path: Path) -> None:
    features = collection(nuclei, tmp_path / "a")["features"]
    assert [feature["properties"]["objectType"] for feature in features] == ["detection"] * 4
    assert [feature["properties"]["measurements"]["label"] for feature in features] == [1, 2, 3, 4]
    measurements = features[0]["properties"]["measurements"]
    assert measurements["area_um2"] == 20 / 16
    assert measurements["mean_red"] == nuclei.table["mean_red"][0]


def test_cells_hold_their_nuclei(cells: Result, tmp_path: Path) -> None:
    features = collection(cells, tmp_path / "a")["features"]
    kinds = {each["properties"]["measurements"]["label"]: each["properties"]["objectType"] for each in features}
    assert kinds == {1: "cell", 2: "cell", 4: "cell", 5: "detection"}
    assert ["nucleusGeometry" in feature for feature in features] == [True, True, False, False]
    measurements = features[0]["properties"]["measurements"]
    assert measurements["Nucleus: area_px"] == 9
    assert measurements["Cell: area_px"] == 64
    assert not any(name.startswith("Cell") for name in features[3]["properties"]["measurements"])
    names = ["cells/1", "cells/2", "cells/4", "nuclei/5"]
    expected = [str(uuid.uuid5(uuid.NAMESPACE_OID, f"{cells.fingerprint}/{name}")) for name in names]
    assert [feature["id"] for feature in features] == expected


@settings(max_examples=80)
@given(labellings, st.integers(1, 3))
@example(np.array([[[1, 1, 1], [1, 0, 1], [1, 1, 1]]], np.int32), 1)
@example(np.array([[[0, 1, 1], [1, 0, 1], [1, 1, 1]]], np.int32), 1)
@example(np.array([[[1, 0], [0, 1]], [[2, 1], [1, 2]]], np.int32), 2)
@example(np.array([[[1]], [[0]]], np.int32), 1)
def test_every_labelling_keeps_the_rules_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, labels: NDArray[np.int32], objects: int
) -> None:
    result = blank(labels if len(labels) == 2 else labels[0])
    found = collection(Pieced(result, objects), tmp_path_factory.getbasetemp() / "rules.geojson")
    assert_qupath_rules(found)
    planes = geometries_of(found["features"])
    for target, plane in zip(result.targets, planes_of(result), strict=True):
        np.testing.assert_array_equal(filled(planes[target], plane.shape), plane)
        areas = {label: geometry.area for label, geometry in planes[target].items()}
        assert areas == {label: (plane == label).sum() for label in np.unique(plane[plane > 0]).tolist()}


# Measurements

KEPT = ["area_px", "area_um2", "perimeter_px", "perimeter_um", "axis_major_px", "axis_major_um"]
KEPT += ["axis_minor_px", "axis_minor_um", "eccentricity", "solidity"]
KEPT += ["mean_p05_box", "sd_p05_box", "mean_od_eosin", "sd_od_eosin"]  # a channel may be called anything
LEFT = ["box_x_px", "box_width_um", "centroid_x_px", "centroid_y_um", "touches_image_edge", "touches_tile_edge"]
LEFT += ["p05_mean_x", "p50_od_eosin", "p95_p05_box"]


def test_shape_and_brightness_go_along_and_places_do_not(tmp_path: Path) -> None:
    whole = blank(np.array([[1, 2, 0, 3]], np.int32))
    columns: dict[str, Any] = {name: np.arange(3) + place for place, name in enumerate((*LEFT, *KEPT))}
    columns["solidity"] = [1.0, float("nan"), float("inf")]
    table = pd.DataFrame({"id": [1, 2, 3], **columns, "touches_image_edge": [True, False, True]})
    features = collection(Measured(whole, table=table), tmp_path / "a")["features"]
    numbers = [feature["properties"]["measurements"] for feature in features]
    assert list(numbers[0]) == ["label", *KEPT]
    assert numbers[0] == {"label": 1, **{name: float(table[name][0]) for name in KEPT}}
    for row in (1, 2):
        assert set(numbers[row]) == {"label", *KEPT} - {"solidity"}, "what is not finite is left out"
        assert numbers[row]["area_px"] == table["area_px"][row]


def test_rows_are_found_by_their_ids_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "_ROWS", 2)
    labels = np.zeros((2, 1, 20), np.int32)
    labels[0, 0, :10], labels[1, 0, 3:] = np.arange(1, 11), np.arange(4, 21)
    rows = [
        (label, target, label + 100 * place)
        for place, target in enumerate(("nuclei", "cells"))
        for label in range(1, 21)
    ]
    table = pd.DataFrame(rows, columns=["id", "target", "area_px"])
    shuffled = table.sample(frac=1, random_state=3)  # with rows of which there is no pixel
    features = collection(Measured(blank(labels), table=shuffled), tmp_path / "a")["features"]
    numbers = {each["properties"]["measurements"].pop("label"): each["properties"]["measurements"] for each in features}
    assert list(numbers) == list(range(1, 21))
    for label, found in numbers.items():
        expected = {"nuclei: area_px": label} if label <= 10 else {}  # as before there were compartments
        assert found == expected | ({"cells: area_px": label + 100} if label > 3 else {})


# Compressed


def test_compressed_is_the_same_with_names_in_any_script(whole: Result, tmp_path: Path) -> None:
    write_geojson(whole, tmp_path / "plain")
    write_geojson_gz(whole, tmp_path / "packed.gz")
    packed = (tmp_path / "packed.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "plain").read_bytes()
    assert packed[3:8] == bytes(5), "no name, no time"
    named = Result.from_labels(np.ones((2, 2), np.int32), np.ones((1, 2, 2)), channel_names=('核, "α"',))
    (feature,) = collection(named, tmp_path / "a")["features"]
    assert feature["properties"]["measurements"]['mean_核, "α"'] == 1


# Split by area


def scattered(targets: int, seed: int = 0) -> Result:
    """Blots all over 60 x 100 px, in no order."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((targets, 60, 100), np.int32)
    for label, place in enumerate(rng.permutation(150)[:90].tolist(), start=1):
        y, x = (place // 15 * 6, place % 15 * 6)
        for plane in labels:
            if targets == 1 or rng.random() < 0.8:
                plane[y : y + 6, x : x + 6][rng.random((6, 6)) < 0.6] = label
    return blank(labels if targets > 1 else labels[0])


@pytest.mark.parametrize(("targets", "characters"), [(1, 1), (2, 5000), (2, 1 << 24)])
def test_parts_make_up_the_whole(
    targets: int, characters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "_FIELD_PX", 16)
    monkeypatch.setattr(geojson, "_GATHERED_CHARACTERS", characters)
    result = scattered(targets)
    found = parts(Pieced(result, 7), tmp_path / "parts")
    assert len(found) > 10
    features = []
    for name, part in found.items():
        assert_qupath_rules(part)
        left, top = int(name[1:7]), int(name[9:15])
        assert name == f"x{left:06d}_y{top:06d}.geojson"
        assert left % 16 == top % 16 == 0
        labels = [feature["properties"]["measurements"]["label"] for feature in part["features"]]
        assert labels == sorted(labels)
        for feature in part["features"]:
            geometry = feature["geometry"]
            pieces = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
            corners = np.array([corner for piece in pieces for corner in piece[0]])
            x, y = (corners.min(axis=0) + corners.max(axis=0)) / 2
            assert left <= x < left + 16
            assert top <= y < top + 16
        features += part["features"]
    whole = collection(result, tmp_path / "whole")
    features.sort(key=lambda feature: feature["properties"]["measurements"]["label"])
    assert {"type": "FeatureCollection", "features": features} == whole


@pytest.mark.parametrize("result", [Nothing((3, 70, 60)), blank(np.zeros((70, 60), np.int32))])
def test_nothing_found_is_one_empty_part(result: Result, tmp_path: Path) -> None:
    write_geojson_split(result, tmp_path / "parts")
    found = files_of(tmp_path / "parts")
    assert list(found) == ["x000000_y000000.geojson"]
    write_geojson(result, tmp_path / "whole")
    assert found["x000000_y000000.geojson"] == (tmp_path / "whole").read_bytes()
    assert json.loads(found["x000000_y000000.geojson"]) == {"type": "FeatureCollection", "features": []}
