"""Outlines and measurements as GeoJSON, in the form that QuPath reads: one file, compressed, or split by area."""

from __future__ import annotations

import gzip
import io
import json
import math
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from cytoseed.results.outline import Polygon, outlines
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    import pandas as pd

_HEAD, _BETWEEN, _TAIL = '{"type":"FeatureCollection","features":[\n', ",\n", "\n]}\n"
_GZIP_LEVEL = 5  # half the time of 6, and files 1 % larger; 1 is twice as fast again, and files are 40 % larger
_FIELD_PX = 4096  # side of the fields that a split cuts the image into: ten thousand nuclei, at 0.25 µm/px
_GATHERED_CHARACTERS = 1 << 24  # text that waits until files are opened
_ROWS = 4096  # rows of the table turned into numbers at a time
# Beginnings of the columns that are written: only shape and brightness, as QuPath holds everything in memory. QuPath
# derives positions by itself, and the rest is in the tables.
_CYTOPLASM = "cytoplasm_"
_VALUES = ("mean_", "sd_")
_MEASURED = (
    *("area_", "perimeter_", "axis_", "eccentricity", "solidity", "score", *_VALUES),
    *(f"{_CYTOPLASM}{statistic}" for statistic in _VALUES),
)
_PART_OF = {"nuclei": "Nucleus", "cells": "Cell"}
_QUPATH = {"mean_": "mean", "sd_": "std dev"}  # QuPath's words behind the name of a channel


def write_geojson(result: ResultView, path: Path) -> None:
    """Write a FeatureCollection in pixels of the image, one object per line, from one block at a time.

    Objects of one target are QuPath's detections. Of two targets, each cell is a QuPath cell with the nucleus of the
    same id inside, and a nucleus without a cell is a detection. Ids are UUIDs made from the source's name, the
    settings, the target and the label, so that the same result gives the same bytes. The measurements are the object's
    `label` and the table's finite numbers of area, perimeter, axes, eccentricity, solidity, score, and mean and sd of
    every channel and stain. Of two targets they have QuPath's names of compartments: `Nucleus: CD3 mean`, `Cytoplasm:
    CD3 std dev`, `Cell: area_px`.
    """
    with path.open("w", encoding="utf-8", newline="\n") as file:
        _write_lines(file, result)


def write_geojson_gz(result: ResultView, path: Path) -> None:
    """Write the file of `write_geojson` compressed by gzip, without a time or a name in it."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, raw, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file,
    ):
        _write_lines(file, result)


def write_geojson_split(result: ResultView, path: Path) -> None:
    """Write a folder with a FeatureCollection per square field of the image that has objects.

    Fields have a side of 4096 px; `x004096_y000000.geojson` is the one whose first pixel is at x = 4096, y = 0. An
    object, whole and as `write_geojson` writes it, is in the field of the centre of its box. In each part the lines are
    in the order of the labels. Without objects there is one part, at 0, 0.
    """
    path.mkdir()
    begun: set[str] = set()
    lines_of: dict[str, list[str]] = {}

    def append(name: str, text: str) -> None:
        with (path / name).open("a", encoding="utf-8", newline="\n") as file:
            file.write(text)

    def write() -> None:
        for name, lines in lines_of.items():
            append(name, (_BETWEEN if name in begun else _HEAD) + _BETWEEN.join(lines))
        begun.update(lines_of)
        lines_of.clear()

    size = 0
    for polygons, line in _lines(result):
        x, y = zip(*(corner for outer, *_ in polygons for corner in outer), strict=True)
        name = _part_name(*((min(side) + max(side)) // 2 // _FIELD_PX for side in (x, y)))
        lines_of.setdefault(name, []).append(line)
        size += len(line)
        if size >= _GATHERED_CHARACTERS:
            write()
            size = 0
    write()
    for name in begun:
        append(name, _TAIL)
    if not begun:
        append(_part_name(0, 0), _HEAD.rstrip() + _TAIL)


def _write_lines(file: TextIO, result: ResultView) -> None:
    """Write everything as one collection."""
    before = _HEAD
    for _, line in _lines(result):
        file.write(before + line)
        before = _BETWEEN
    file.write(_TAIL if before == _BETWEEN else _HEAD.rstrip() + _TAIL)


def _part_name(column: int, row: int) -> str:
    return f"x{column * _FIELD_PX:06d}_y{row * _FIELD_PX:06d}.geojson"


def _lines(result: ResultView) -> Iterator[tuple[list[Polygon], str]]:
    """Outlines of each object (for a nucleus with its cell, the cell's), and its feature as text."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    for block in result.blocks():
        rows = {target: _rows(result.targets, target, block.table) for target in result.targets}
        for label, of_targets in outlines(block):
            polygons_of = {target: each for target, each in zip(result.targets, of_targets, strict=True) if each}
            outer = list(polygons_of)[-1]
            is_cell = len(result.targets) > 1 and outer == result.targets[-1]
            feature = {
                "type": "Feature",
                "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{result.fingerprint}/{outer}/{label}")),
                "geometry": _geometry(polygons_of[outer]),
            }
            if is_cell and len(polygons_of) > 1:
                feature["nucleusGeometry"] = _geometry(polygons_of[result.targets[0]])
            numbers: dict[str, float] = {"label": label}
            for target in polygons_of:
                numbers |= next(row for id_, row in rows[target] if id_ == label)
            feature["properties"] = {"objectType": "cell" if is_cell else "detection", "measurements": numbers}
            yield polygons_of[outer], encode(feature)


def _geometry(polygons: list[Polygon]) -> dict[str, Any]:
    """A Polygon, or a MultiPolygon of several pieces."""
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def _rows(targets: tuple[str, ...], target: str, table: pd.DataFrame) -> Iterator[tuple[int, dict[str, float]]]:
    """Id and finite measurements of each object of a target, by id; of two targets, in QuPath's names."""
    names = [str(name) for name in table.columns if str(name).startswith(_MEASURED)]
    keys = names
    if len(targets) > 1:
        is_old = not any(name.startswith(_CYTOPLASM) for name in names)  # stored before there were compartments
        keys = [f"{target}: {name}" if is_old else _in_compartment(name, target) for name in names]
    own = np.arange(len(table)) if len(targets) == 1 else np.flatnonzero(table["target"] == target)
    own = own[np.argsort(table["id"].to_numpy()[own], kind="stable")]
    for start in range(0, len(own), _ROWS):
        some = table.iloc[own[start : start + _ROWS]]
        for label, *values in zip(some["id"].tolist(), *(some[name].tolist() for name in names), strict=True):
            yield label, {key: value for key, value in zip(keys, values, strict=True) if math.isfinite(value)}


def _in_compartment(name: str, target: str) -> str:
    """QuPath's name of a column of nuclei or cells."""
    part, own = _PART_OF[target], name
    if name.startswith(_CYTOPLASM):
        part, own = "Cytoplasm", name.removeprefix(_CYTOPLASM)
    for beginning, word in _QUPATH.items():
        if own.startswith(beginning):
            return f"{part}: {own.removeprefix(beginning)} {word}"
    return f"{part}: {own}"
