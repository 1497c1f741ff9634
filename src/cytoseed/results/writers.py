"""The formats a result can be written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.results.formats.anndata import write_anndata
from cytoseed.results.formats.geojson import write_geojson, write_geojson_gz, write_geojson_split
from cytoseed.results.formats.labels import write_labels
from cytoseed.results.formats.ngff import write_ngff
from cytoseed.results.formats.objects_zip import SUFFIX as STORED_SUFFIX
from cytoseed.results.formats.objects_zip import write_objects
from cytoseed.results.formats.overlay import write_overlay
from cytoseed.results.formats.parquet import write_parquet, write_table
from cytoseed.results.formats.report import write_report
from cytoseed.results.formats.rois import rois_limit, write_rois
from cytoseed.results.formats.spatialdata import write_spatialdata
from cytoseed.results.view import ResultView


class Writer(NamedTuple):
    """A format."""

    name: str  # its name on the command line and in `Result.save`
    suffix: str  # ending of its files or folders
    write: Callable[[ResultView, Path], None]  # writes a result to a path where nothing is yet, block by block
    about: str  # short description, with programs that open it
    limit: Callable[[tuple[int, int, int], int], str | None] = lambda _, __: None
    """Given an image's shape (C,H,W) and a number of objects, why it cannot hold them and which format can, or None."""
    needs: str = ""  # import name of a package that it needs; empty: none but cytoseed's own
    extra: str = ""  # extra of cytoseed that installs the package


_SPATIAL: Any = {"needs": "anndata", "extra": "spatial"}
_VIEWERS = "napari, Fiji, Python, web viewers"
_NGFF_04 = f"label images as OME-Zarr 0.4: older {_VIEWERS}"
_EVERYTHING = "the whole result, from which `cytoseed convert` makes other formats"
_SPATIALDATA = "labels, outlines and table as SpatialData: squidpy, sopa, napari"

WRITERS = {
    writer.name: writer
    for writer in (
        Writer("anndata", ".h5ad", write_anndata, "measurements as AnnData: scanpy, squidpy, R", **_SPATIAL),
        Writer("table", ".csv", write_table, "measurements as CSV: Excel, R, pandas"),
        Writer("geojson", ".geojson", write_geojson, "outlines and measurements: QuPath, napari, GIS"),
        Writer("geojson.gz", ".geojson.gz", write_geojson_gz, "the same, compressed: QuPath"),
        Writer("geojson-split", ".geojson-parts", write_geojson_split, "the same, split by area, a folder: QuPath"),
        Writer("labels", ".labels.tif", write_labels, "label image as OME-TIFF: Fiji, napari, QuPath"),
        Writer("ngff", ".labels.zarr", write_ngff, f"label images as OME-Zarr 0.5: {_VIEWERS}"),
        Writer("ngff-0.4", ".labels-0.4.zarr", partial(write_ngff, version="0.4"), _NGFF_04),
        Writer("objects", STORED_SUFFIX, write_objects, _EVERYTHING),
        Writer("overlay", ".overlay.png", write_overlay, "the outlines drawn on the image"),
        Writer("parquet", ".parquet", write_parquet, "measurements as Parquet: pandas, Polars, R, DuckDB"),
        Writer("report", ".report.html", write_report, "a page to read: overview, distributions, doubtful objects"),
        Writer("rois", ".rois.zip", write_rois, "outlines as ImageJ ROIs: Fiji's ROI Manager", rois_limit),
        Writer("spatialdata", ".spatialdata.zarr", write_spatialdata, _SPATIALDATA, **_SPATIAL),
    )
}
"""The formats by name."""


def check_formats(names: Sequence[str], shape: tuple[int, int, int] | None = None, count: int = 0) -> tuple[str, ...]:
    """Names of formats, each once; an error if one is unknown, lacks its package or, given a shape, cannot hold it."""
    names = _known(names)
    for name in names:
        writer = WRITERS[name]
        if writer.needs and find_spec(writer.needs) is None:
            raise ModuleNotFoundError(
                f"format {name!r} needs the package {writer.needs}, which is not installed: "
                f"pip install 'cytoseed[{writer.extra}]'"
            )
    for sentence in refusals(names, shape, count).values() if shape is not None else ():
        raise ValueError(sentence)
    return names


def refusals(names: Sequence[str], shape: tuple[int, int, int], count: int) -> dict[str, str]:
    """For each format that cannot hold a result, a sentence that says why, and which format can."""
    reasons = {name: WRITERS[name].limit(shape, count) for name in names}
    return {name: f"format {name!r} cannot hold this result: {reason}" for name, reason in reasons.items() if reason}


def paths_of(folder: Path, stem: str, names: Sequence[str]) -> dict[str, Path]:
    """Path of each format's file."""
    return {name: folder / f"{stem}{WRITERS[name].suffix}" for name in _known(names)}


def _known(names: Sequence[str]) -> tuple[str, ...]:
    """Names of formats, each once; at least one, and all known."""
    names = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    for name in names or ("",):
        if name not in WRITERS:
            raise ValueError(f"format {name!r} is not known; the formats are {', '.join(WRITERS)}")
    return names
