"""Outlines in a GeoParquet file, as GeoPandas and spatialdata read it: written in groups of rows, never held whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.results.outline import Polygon

_ROWS = 1 << 14  # in a group
_POLYGON, _MULTIPOLYGON = 3, 6  # as well-known binary numbers them


class OutlineFile:
    """A GeoParquet 1.1 file of outlines in px, one row per object, with ids as the index called `name`.

    There is no file before the first outline; it is whole after `close`.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._ids: list[int] = []
        self._shapes: list[bytes] = []
        self._writer: Any = None

    def add(self, label: int, polygons: Sequence[Polygon]) -> None:
        """Add an object: its id, and its pieces, at least one, as `outline` gives them."""
        self._ids.append(label)
        self._shapes.append(_well_known(polygons))
        if len(self._ids) == _ROWS:
            self._write()

    def close(self) -> bool:
        """Write what is left; true where there is a file."""
        if self._ids:
            self._write()
        if self._writer is not None:
            self._writer.close()
        return self._writer is not None

    def _write(self) -> None:
        """Write a group of rows."""
        import pyarrow as pa
        from pyarrow import parquet

        ids, shapes = pa.array(self._ids, pa.int64()), pa.array(self._shapes, pa.binary())
        table = pa.table([shapes, ids], schema=_schema(self._name))
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=_ROWS)
        self._ids, self._shapes = [], []


def _well_known(polygons: Sequence[Polygon]) -> bytes:
    """An object as well-known binary: a Polygon, or a MultiPolygon where it has several pieces."""
    single = [
        struct.pack("<BII", 1, _POLYGON, len(rings))
        + b"".join(struct.pack("<I", len(ring)) + np.array(ring, "<f8").tobytes() for ring in rings)
        for rings in polygons
    ]
    if len(single) == 1:
        return single[0]
    return struct.pack("<BII", 1, _MULTIPOLYGON, len(single)) + b"".join(single)


def _schema(name: str) -> Any:
    """Columns, described for GeoPandas and pandas."""
    import pyarrow as pa

    # geometry types are not known before all rows are; no crs: pixels are not on the earth
    geometry: dict[str, Any] = {"encoding": "WKB", "crs": None, "geometry_types": []}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    kinds = {"geometry": ("bytes", "object"), name: ("int64", "int64")}
    columns = [
        {"name": column, "field_name": column, "pandas_type": kind, "numpy_type": stored, "metadata": None}
        for column, (kind, stored) in kinds.items()
    ]
    pandas = {"index_columns": [name], "column_indexes": [], "columns": columns}
    fields = [pa.field("geometry", pa.binary()), pa.field(name, pa.int64())]
    return pa.schema(fields, metadata={"geo": json.dumps(geo), "pandas": json.dumps(pandas)})
