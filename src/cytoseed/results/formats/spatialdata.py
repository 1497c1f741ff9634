"""Labels, outlines and table as a SpatialData store, for spatialdata, squidpy, sopa and napari-spatialdata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cytoseed.results.formats.anndata import INSTANCE_KEY, REGION_KEY, annotated, boundaries_of
from cytoseed.results.formats.geoparquet import OutlineFile
from cytoseed.results.formats.ngff import Layout, write_label_images
from cytoseed.results.outline import outlines
from cytoseed.results.pyramid import halved
from cytoseed.results.view import ResultView

_STORE, _LABELS, _SHAPES, _TABLE = "0.2", "0.3", "0.3", "0.2"  # versions of the parts of spatialdata's format
_NGFF = "0.5-dev-spatialdata"  # its name for NGFF 0.5 with coordinate systems
_KEY, _TRANSFORMATIONS = "spatialdata_attrs", "coordinateTransformations"


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
    placed = [_placed(2**number) for number in range(len(levels))]
    whole = {_TRANSFORMATIONS: _coordinate_systems("yx", result.pixel_size_um)}
    write_label_images(result, folder, Layout("0.5", axes, levels, placed, whole, {"version": "0.5"}))
    group.attrs["ome"] = {"labels": list(result.targets)}
    for target in result.targets:
        image = zarr.open_group(str(folder / target), mode="r+")
        described: Any = image.attrs["ome"]
        image.attrs.update({"ome": {**described, "version": _NGFF}, _KEY: {"version": _LABELS}})


def _placed(factor: int) -> list[dict[str, Any]]:
    """Place of a level whose pixels are `factor` wide; centres lie at whole numbers."""
    return [{"type": "scale", "scale": [factor] * 2}, {"type": "translation", "translation": [(factor - 1) / 2] * 2}]


def _write_shapes(result: ResultView, group: Any, folder: Path) -> list[str]:
    """Write the outlines; returns the targets that have any."""
    files = [OutlineFile(folder / boundaries_of(target) / "shapes.parquet", INSTANCE_KEY) for target in result.targets]
    for block in result.blocks():
        for label, of_targets in outlines(block):
            for file, polygons in zip(files, of_targets, strict=True):
                if polygons:
                    file.add(label, polygons)
    found = [target for target, file in zip(result.targets, files, strict=True) if file.close()]
    for target in found:
        attributes = {
            "encoding-type": "ngff:shapes",
            "axes": ["x", "y"],
            _TRANSFORMATIONS: _coordinate_systems("xy", result.pixel_size_um),
            _KEY: {"version": _SHAPES},
        }
        group.create_group(boundaries_of(target)).attrs.update(attributes)
    return found


def _coordinate_systems(axes: str, pixel_size_um: float | None) -> list[dict[str, Any]]:
    """Transformations from pixels of the image to `global`, the identity, and to `um`."""
    transformations: dict[str, dict[str, Any]] = {"global": {"type": "identity"}}
    if pixel_size_um is not None:
        transformations["um"] = {"type": "scale", "scale": [pixel_size_um] * 2}
    described = [{"name": name, "type": "space", "unit": "unit"} for name in axes]
    return [
        {**how, "input": {"name": axes, "axes": described}, "output": {"name": name, "axes": described}}
        for name, how in transformations.items()
    ]
