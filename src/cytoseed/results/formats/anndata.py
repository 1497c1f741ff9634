"""The table as AnnData: an h5ad file for scanpy, squidpy and others, and the tables of a SpatialData store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoseed.results.measure.compartments import COMPARTMENTS
from cytoseed.results.measure.intensity import STATISTICS
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    import anndata
    import pandas as pd

REGION_KEY, INSTANCE_KEY = "region", "cell_id"

_MEAN = STATISTICS[0]
_PARTS = {"": "", **{part: f"{part}_" for part in COMPARTMENTS}}  # beginning of the columns of each


def write_anndata(result: ResultView, path: Path) -> None:
    """Write the table as h5ad, one row per object, or per cell with two targets: see `annotated`."""
    import h5py
    from anndata.io import write_elem

    with h5py.File(path, "w") as file:
        write_elem(file, "/", annotated(result), dataset_kwargs={"compression": "gzip"})


def boundaries_of(target: str) -> str:
    """Name of a target's outlines, such as `nuclei_boundaries`: the region that its rows belong to."""
    return f"{target}_boundaries"


def annotated(result: ResultView, target: str | None = None) -> anndata.AnnData:
    """Table as an AnnData, one row per object, by id, with the keys that squidpy and sopa look for.

    `X` (float32) is the mean of each channel and of each stain's optical density, named in `var`; the layers `sd`,
    `p05` ... `p95` are its other statistics; `var["kind"]` is `channel` or `stain`. `obs` has `cell_id` (the id),
    `region` (see `boundaries_of`), `slide` (the source's name), `area` (px²) and all other columns of the table; its
    index is `<slide>_<id>`. `obsm["spatial"]` is the centroid (x,y) in px, `spatial_um` in µm where the pixel size is
    known.

    `uns["spatialdata_attrs"]` names what the rows annotate, `uns["cytoseed"]` what made the result. There is no
    `uns["spatial"]`: squidpy would take the objects for spots on a grid.

    Every object is one row. Of two targets it is a cell: `X` are means over the cell, the layers `nucleus` and
    `cytoplasm` those over its compartments, `nucleus_sd` and so on their other statistics; the shape of its nucleus is
    in columns that begin with `nuclei_`. All are NaN where it has none. A nucleus without a cell is a row of its own,
    in the region of the nuclei. With `target`, only objects of that target. The whole table is held in memory.
    """
    import anndata
    import pandas as pd

    slide = _text(result.stem)
    table = _rows(pd.concat(list(result.tables()), ignore_index=True), result.targets, target)
    regions = [boundaries_of(name) for name in table["target"].unique()]
    features = [str(name).removeprefix(f"{_MEAN}_") for name in table.columns if str(name).startswith(f"{_MEAN}_")]
    layers, spatial, in_layers = _matrices(table, features)
    obs = pd.DataFrame(
        {
            INSTANCE_KEY: table["id"].astype(np.int64),
            REGION_KEY: pd.Categorical([boundaries_of(name) for name in table["target"]], regions),
            "slide": pd.Categorical([slide] * len(table), [slide]),
            "area": table["area_px"].astype(np.float64),
        }
    )
    flags = {name: np.bool_ for name in table.columns if str(name).startswith("touches_")}
    single = table.drop(columns=["id", "target", *in_layers]).astype(flags)
    obs = pd.concat([obs, single], axis=1)
    obs.index = pd.Index([f"{slide}_{label}" for label in table["id"].tolist()], dtype=object)
    kinds = ["channel" if place < len(result.channel_names) else "stain" for place in range(len(features))]
    return anndata.AnnData(
        layers.pop(_MEAN),
        obs,
        pd.DataFrame({"kind": pd.Categorical(kinds)}, index=pd.Index(features, dtype=object)),
        uns=_described(result, slide, regions),
        obsm=spatial,
        layers=layers,
    )


def _rows(table: pd.DataFrame, targets: Sequence[str], target: str | None) -> pd.DataFrame:
    """Objects of one target, or every object once; by id, and with their `target`."""
    import pandas as pd

    if len(targets) == 1:
        return table.assign(target=targets[0]).sort_values("id", ignore_index=True)
    if target is not None:
        beside = () if target == targets[-1] else tuple(f"{part}_" for part in COMPARTMENTS)
        left_out = [name for name in table.columns if str(name).startswith(beside)] if beside else []
        return table[table["target"] == target].drop(columns=left_out).sort_values("id", ignore_index=True)
    ranked = table.assign(rank=table["target"].map(targets.index)).sort_values(["id", "rank"]).drop(columns="rank")
    outer = ranked.drop_duplicates("id", keep="last", ignore_index=True)
    joined = [outer]
    for name in targets[:-1]:
        inner = table[table["target"] == name].drop(columns=["target", *_values_in(table)]).set_index("id")
        joined.append(inner.astype(np.float64).reindex(outer["id"]).add_prefix(f"{name}_").reset_index(drop=True))
    return pd.concat(joined, axis=1)


def _values_in(table: pd.DataFrame) -> list[str]:
    """Columns of statistics of channels and stains, of objects and of compartments."""
    beginnings = tuple(f"{part}{statistic}_" for part in _PARTS.values() for statistic in STATISTICS)
    return [str(name) for name in table.columns if str(name).startswith(beginnings)]


def _matrices(
    table: pd.DataFrame, features: list[str]
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]], list[str]]:
    """Statistics (N,features) by layer, centroids (N,2) by name, and all columns of statistics."""
    layers = {}
    for part, beginning in _PARTS.items():
        for statistic in STATISTICS:
            columns = [f"{beginning}{statistic}_{feature}" for feature in features]
            name = part if part and statistic == _MEAN else f"{beginning}{statistic}"
            if part != "cell" and set(columns).issubset(table.columns):
                layers[name] = table[columns].to_numpy(np.float32)
    spatial = {}
    for name, unit in (("spatial", "px"), ("spatial_um", "um")):
        if f"centroid_x_{unit}" in table.columns:
            spatial[name] = table[[f"centroid_x_{unit}", f"centroid_y_{unit}"]].to_numpy(np.float64)
    return layers, spatial, _values_in(table)


def _described(result: ResultView, slide: str, regions: list[str]) -> dict[str, Any]:
    """Metadata: the outlines that rows annotate, and what made the result."""
    made: dict[str, Any] = {
        "version": metadata.version("cytoseed"),
        "source": slide,
        "model": _text(str(result.settings.get("model", ""))),
        "settings": json.dumps(dict(result.settings), sort_keys=True),
        "input": json.dumps(dict(result.input), sort_keys=True),
        "units": {"X": "as stored; stains: optical density (log10)", "area": "px²", "spatial": "px"},
    }
    if result.pixel_size_um is not None:
        size = result.pixel_size_um
        made["pixel_size_um"] = list(size) if isinstance(size, tuple) else size
        made["units"]["spatial_um"] = "µm"
    described: dict[str, Any] = {"cytoseed": made, "sopa_attrs": {"transcripts": False, "intensities": True}}
    if regions:
        region = regions[0] if len(regions) == 1 else regions
        described["spatialdata_attrs"] = {"region": region, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY}
    return described


def _text(name: str) -> str:
    """A file's name, which need not be UTF-8, as text that can be stored."""
    return name.encode("utf-8", "backslashreplace").decode()
