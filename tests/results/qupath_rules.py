"""Rules of QuPath for GeoJSON, and outlines filled by another library than the one that traced them."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray


def assert_qupath_rules(collection: Any) -> None:
    """Check a FeatureCollection against each of QuPath's rules, and that its outlines are valid and share no area."""
    assert collection["type"] == "FeatureCollection"
    assert set(collection) == {"type", "features"}
    features = collection["features"]
    for feature in features:
        _assert_feature(feature)
    ids = [feature["id"] for feature in features]
    assert len(set(ids)) == len(ids)
    for geometries in geometries_of(features).values():
        assert_disjoint(list(geometries.values()))


def geometries_of(features: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, shapely.Geometry]]:
    """Outlines of cells, and of nuclei with or without one, by label."""
    found: dict[str, dict[int, shapely.Geometry]] = {"nuclei": {}, "cells": {}}
    for feature in features:
        properties = feature["properties"]
        label = properties["measurements"]["label"]
        outer = "cells" if properties["objectType"] == "cell" else "nuclei"
        found[outer][label] = shapely.geometry.shape(feature["geometry"])
        if "nucleusGeometry" in feature:
            found["nuclei"][label] = shapely.geometry.shape(feature["nucleusGeometry"])
    return found


def assert_disjoint(geometries: Sequence[shapely.Geometry]) -> None:
    """Check that no two have an area in common; sides and corners they may share."""
    chosen = np.array(geometries, dtype=object)
    first, second = shapely.STRtree(chosen).query(chosen, predicate="intersects")
    common = shapely.intersection(chosen[first[first < second]], chosen[second[first < second]])
    assert not shapely.area(common).any()


def filled(geometries: Mapping[int, shapely.Geometry], shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Labels (H,W) of pixels whose centres lie in the outlines."""
    labels = np.zeros(shape[-2:], np.int32)
    for label, geometry in geometries.items():
        left, top, right, bottom = (int(side) for side in geometry.bounds)
        x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
        labels[top:bottom, left:right][shapely.contains_xy(geometry, x, y)] = label
    return labels


def _assert_feature(feature: Mapping[str, Any]) -> None:
    assert feature["type"] == "Feature"
    assert set(feature) <= {"type", "id", "geometry", "nucleusGeometry", "properties"}
    assert str(uuid.UUID(feature["id"])) == feature["id"]
    properties = feature["properties"]
    assert properties["objectType"] in ("detection", "cell"), "anything else is an annotation: slow"
    assert "nucleusGeometry" not in properties, "it stands beside geometry"
    if "nucleusGeometry" in feature:
        assert properties["objectType"] == "cell"
        _assert_geometry(feature["nucleusGeometry"])
    _assert_geometry(feature["geometry"])
    for name, value in properties["measurements"].items():
        assert isinstance(name, str)
        assert isinstance(value, (int, float))
        assert not isinstance(value, bool)
        assert math.isfinite(value)
    classification = properties.get("classification", "")
    assert isinstance(classification, str) or {"name", "color"} <= set(classification)


def _assert_geometry(geometry: Mapping[str, Any]) -> None:
    assert set(geometry) == {"type", "coordinates"}
    assert geometry["type"] in ("Polygon", "MultiPolygon")
    polygons = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        polygons = [polygons]
    else:
        assert len(polygons) > 1
    for ring in (ring for rings in polygons for ring in rings):
        assert ring[0] == ring[-1]
        assert all(isinstance(value, int) and value >= 0 for corner in ring for value in corner), "px, whole"
    assert shapely.is_valid(shapely.geometry.shape(geometry)), "pieces may touch at corners only"
