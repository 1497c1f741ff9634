"""Labels, outlines and table as a SpatialData store, for spatialdata, squidpy, sopa and napari-spatialdata."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.images.pixel_size import PixelSize, sides_um
from cytoseed.results.formats.anndata import INSTANCE_KEY, REGION_KEY, annotated, boundaries_of
from cytoseed.results.formats.ngff import Layout, placement, write_label_images
from cytoseed.results.outline import Polygon, all_outlines
from cytoseed.results.pyramid import halved
from cytoseed.results.view import ResultView

_STORE, _LABELS, _SHAPES, _TABLE = "0.2", "0.3", "0.3", "0.2"  # versions of the parts of spatialdata's format
_NGFF = "0.5-dev-spatialdata"  # its name for NGFF 0.5 with coordinate systems
_KEY, _TRANSFORMATIONS = "spatialdata_attrs", "coordinateTransformations"
_ROWS = 1 << 14  # outlines in a row group of a Parquet file
_POLYGON, _MULTIPOLYGON = 3, 6  # as well-known binary numbers them


def write_spatialdata(result: ResultView, path: Path) -> None:
    """Write a SpatialData store: Zarr 3 in version 0.2 of spatialdata's format, without the image.

    Each target has labels, called after it, as `write_ngff` makes them; outlines along pixel edges with the ids as
    index (`nuclei_boundaries`); and a table with one row per outline, as `annotated` makes it of this target alone:
    `table` of the only target or of the cells, else `nuclei_table`. A nucleus has the id of its cell. The coordinate
    systems are `global`, px of the image, and `um`, where the pixel size is known. spatialdata has no outlines without
    rows: a target without objects has labels and an empty table that annotates nothing.

    Written without spatialdata, which would hold all outlines in memory: 4.5 GB for a million.
    """
    import zarr
    from anndata.io import write_elem

    root = zarr.create_group(str(path), zarr_format=3, attributes={_KEY: {"version": _STORE}})
    _write_labels(result, root.create_group("labels"), path / "labels")
    found = _write_shapes(result, root.create_group("shapes"), path / "shapes")
    tables = root.create_group("tables")
    for target in result.targets:
        is_main = target == result.targets[-1]
        name = "table" if is_main else f"{target}_table"
        write_elem(tables, name, annotated(result, target), dataset_kwargs={"shards": None})
        named = (boundaries_of(target), REGION_KEY, INSTANCE_KEY) if target in found else (None, None, None)
        keys = dict(zip(("region", "region_key", "instance_key"), named, strict=True))
        tables[name].attrs.update({"spatialdata-encoding-type": "ngff:regions_table", **keys, "version": _TABLE})
        if is_main and target in found:
            root.attrs["boundaries_shapes"] = boundaries_of(target)  # where sopa looks for the outlines of cells


def _write_labels(result: ResultView, group: Any, folder: Path) -> None:
    """Write the label images, with the attributes that spatialdata needs."""
    import zarr

    levels = halved(result.shape[1:])
    axes = [{"name": name, "type": "space"} for name in "yx"]
    placed = [placement(2**number) for number in range(len(levels))]
    whole = {_TRANSFORMATIONS: _coordinate_systems("yx", result.pixel_size_um)}
    write_label_images(result, folder, Layout("0.5", axes, levels, placed, whole, {"version": "0.5"}))
    group.attrs["ome"] = {"labels": list(result.targets)}
    for target in result.targets:
        image = zarr.open_group(str(folder / target), mode="r+")
        described: Any = image.attrs["ome"]
        image.attrs.update({"ome": {**described, "version": _NGFF}, _KEY: {"version": _LABELS}})


def _write_shapes(result: ResultView, group: Any, folder: Path) -> list[str]:
    """Write GeoParquet 1.1 files of outlines in px, with ids as the index; returns the targets that have any."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema()
    waiting: dict[str, list[tuple[bytes, int]]] = {target: [] for target in result.targets}
    files: dict[str, Any] = {}
    with ExitStack() as stack:

        def write(target: str) -> None:
            if target not in files:
                path = folder / boundaries_of(target) / "shapes.parquet"
                path.parent.mkdir(parents=True)
                files[target] = stack.enter_context(parquet.ParquetWriter(path, schema, compression="zstd"))
            shapes, ids = zip(*waiting[target], strict=True)
            files[target].write_table(pa.table([shapes, ids], schema=schema), row_group_size=_ROWS)
            waiting[target].clear()

        for label, of_targets in all_outlines(result):
            for target, polygons in zip(result.targets, of_targets, strict=True):
                if polygons:
                    waiting[target].append((_well_known(polygons), label))
                if len(waiting[target]) == _ROWS:
                    write(target)
        for target in result.targets:
            if waiting[target]:
                write(target)
    for target in files:
        attributes = {
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            _TRANSFORMATIONS: _coordinate_systems("xy", result.pixel_size_um),
            _KEY: {"version": _SHAPES},
        }
        group.create_group(boundaries_of(target)).attrs.update(attributes)
    return list(files)


def _coordinate_systems(axes: str, pixel_size_um: PixelSize) -> list[dict[str, Any]]:
    """Transformations from pixels of the image to `global`, the identity, and to `um`."""
    transformations: dict[str, dict[str, Any]] = {"global": {"type": "identity"}}
    if pixel_size_um is not None:
        sides = dict(zip("yx", sides_um(pixel_size_um), strict=True))
        transformations["um"] = {"type": "scale", "scale": [sides[axis] for axis in axes]}
    described = [{"name": name, "type": "space", "unit": "unit"} for name in axes]
    return [
        {**how, "input": {"name": axes, "axes": described}, "output": {"name": name, "axes": described}}
        for name, how in transformations.items()
    ]


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


def _schema() -> Any:
    """Columns, described for GeoPandas and pandas."""
    import pyarrow as pa

    # geometry types are not known before all rows are; no crs: pixels are not on the earth
    geometry: dict[str, Any] = {"encoding": "WKB", "crs": None, "geometry_types": []}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    kinds = {"geometry": ("bytes", "object"), INSTANCE_KEY: ("int64", "int64")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": of_numpy, "metadata": None}
        for name, (kind, of_numpy) in kinds.items()
    ]
    pandas = {"index_columns": [INSTANCE_KEY], "column_indexes": [], "columns": columns}
    fields = [pa.field("geometry", pa.binary()), pa.field(INSTANCE_KEY, pa.int64())]
    return pa.schema(fields, metadata={"geo": json.dumps(geo), "pandas": json.dumps(pandas)})
