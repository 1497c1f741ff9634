"""Outlines and measurements as GeoJSON, in the form that QuPath reads."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.outline import outline

if TYPE_CHECKING:
    from cytoseed.results.segmentation import Segmentation


def write_geojson(result: Segmentation, path: Path) -> None:
    """Write a FeatureCollection in pixels of the image, one object to a line.

    Objects of one target are QuPath's detections. Of two targets, each cell is a QuPath cell with the nucleus
    of the same id inside, and a nucleus without a cell is a detection. Ids are UUIDs made from the source's
    name, the settings, the target and the label, so that the same result gives the same bytes.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in _features(result):
            file.write(separator + json.dumps(feature, ensure_ascii=False, allow_nan=False))
            separator = ",\n"
        file.write("\n]}\n")


# QuPath works out its own positions
_NO_MEASUREMENTS = {"id", "target", "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um"}


def _features(result: Segmentation) -> Iterator[dict[str, Any]]:
    """Give one feature after the other, in the order of their labels."""
    from scipy.ndimage import find_objects

    measured = _measurements(result)
    boxes = [find_objects(labels) for labels in result.planes]
    for label in range(1, max(len(of_target) for of_target in boxes) + 1):
        geometries: dict[str, dict[str, Any]] = {}
        for target, labels, of_target in zip(result.targets, result.planes, boxes, strict=True):
            if label <= len(of_target) and of_target[label - 1] is not None:
                geometries[target] = _geometry(labels, label, of_target[label - 1])
        if not geometries:  # ids may have gaps
            continue
        outer = list(geometries)[-1]  # of nuclei and cells, the cell
        feature = {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{result.fingerprint}/{outer}/{label}")),
            "geometry": geometries[outer],
        }
        is_cell = len(result.targets) > 1 and outer == result.targets[-1]
        if is_cell and len(geometries) > 1:
            feature["nucleusGeometry"] = geometries[result.targets[0]]
        numbers: dict[str, float] = {"label": label}
        for target in geometries:
            numbers |= measured[target, label]
        kind = "cell" if is_cell else "detection"
        yield feature | {"properties": {"objectType": kind, "measurements": numbers}}


def _measurements(result: Segmentation) -> dict[tuple[str, int], dict[str, float]]:
    """Take each object's finite numbers from the table; where there are two targets, their names say whose."""
    single = len(result.targets) == 1
    found = {}
    for row in result.table.to_dict("records"):
        target = result.targets[0] if single else row["target"]
        numbers = {str(key): value for key, value in row.items() if key not in _NO_MEASUREMENTS}
        found[target, int(row["id"])] = {
            key if single else f"{target}: {key}": value for key, value in numbers.items() if math.isfinite(value)
        }
    return found


def _geometry(labels: NDArray[np.int32], label: int, box: tuple[slice, slice]) -> dict[str, Any]:
    """Outline one object: a Polygon, or a MultiPolygon where it has several pieces."""
    polygons = outline(labels[box] == label, left=box[1].start, top=box[0].start)
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}
