"""Outlines and measurements as GeoJSON, in the form that QuPath reads."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.outline import outline
from cytoseed.results.writer import Writer

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.results.result import Block, Result

_Parts: TypeAlias = dict[str, Any]  # something of an object for each target in which it is


def write_geojson(result: Result, path: Path) -> None:
    """Write a FeatureCollection in pixels of the image, one object to a line.

    Objects of one target are QuPath's detections. Of two targets, each cell is a QuPath cell with the nucleus
    of the same id inside, and a nucleus without a cell is a detection. Ids are UUIDs made from the source's
    name, the settings, the target and the label, so that the same result gives the same bytes. No more than one
    block of the result is held at a time.
    """
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for block in result.blocks():
            for feature in _features(result, block):
                file.write(separator + encode(feature))
                separator = ",\n"
        file.write("\n]}\n")


# QuPath works out its own positions
_NO_MEASUREMENTS = {"id", "target", "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um"}


def _features(result: Result, block: Block) -> Iterator[dict[str, Any]]:
    """Give one feature of a block after the other, in the order of their labels."""
    measured = _measurements(result.targets, block.table)
    for label, geometries in _geometries(result.targets, block):
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


def _measurements(targets: tuple[str, ...], table: pd.DataFrame) -> dict[tuple[str, int], dict[str, float]]:
    """Take each object's finite numbers from the table; where there are two targets, their names say whose."""
    single = len(targets) == 1
    names = [str(name) for name in table.columns if name not in _NO_MEASUREMENTS]
    columns = [table[name].tolist() for name in names]
    owners = [targets[0]] * len(table) if single else table["target"].tolist()
    found = {}
    for target, label, *values in zip(owners, table["id"].tolist(), *columns, strict=True):
        keys = names if single else [f"{target}: {name}" for name in names]
        found[target, label] = {key: value for key, value in zip(keys, values, strict=True) if math.isfinite(value)}
    return found


def _geometries(targets: tuple[str, ...], block: Block) -> Iterator[tuple[int, _Parts]]:
    """Outline one object of a block after the other: its label, and a geometry for each target in which it is."""
    from scipy.ndimage import find_objects

    if not len(block.table):
        return
    before = int(block.table["id"].min()) - 1  # find_objects lists a box for each number from 1
    planes = np.maximum(block.labels - before, 0) if before else block.labels
    boxes = [find_objects(plane) for plane in planes]
    for number in range(1, max(map(len, boxes)) + 1):
        geometries = {
            target: _geometry(plane, number, of_target[number - 1], block)
            for target, plane, of_target in zip(targets, planes, boxes, strict=True)
            if number <= len(of_target) and of_target[number - 1] is not None
        }
        if geometries:  # ids may have gaps
            yield number + before, geometries


def _geometry(labels: NDArray[np.int32], number: int, box: tuple[slice, slice], block: Block) -> dict[str, Any]:
    """Outline one object: a Polygon, or a MultiPolygon where it has several pieces."""
    polygons = outline(labels[box] == number, left=block.left + box[1].start, top=block.top + box[0].start)
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


WRITERS = (Writer("geojson", ".geojson", write_geojson, "outlines and measurements: QuPath, napari, GIS"),)
