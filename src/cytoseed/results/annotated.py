"""The measurements as an AnnData, in an HDF5 file or a Zarr group: written row by row, never held whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cytoseed.results.facts import stem_of
from cytoseed.results.measure.intensity import STATISTICS
from cytoseed.results.measure.table import empty_table

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.results.view import ResultView

REGION_KEY = "region"
INSTANCE_KEY = "cell_id"

_SLIDE, _AREA, _NAME = "slide", "area", "_index"  # what sopa and AnnData call them
_MEAN = STATISTICS[0]
_MOST_ROWS, _LEAST_ROWS = 1 << 15, 1 << 13  # so many are written at a time, as a chunk of each array
_VALUES = 1 << 21  # 16 MB: of images with a hundred channels, fewer rows are


def boundaries_of(target: str) -> str:
    """Name the outlines of a target, `nuclei_boundaries`: the region that rows of its objects belong to."""
    return f"{target}_boundaries"


def write_annotated(result: ResultView, group: Any, target: str | None = None) -> None:
    """Write an AnnData, one row an object, in the order of the ids, with the keys that squidpy and sopa look for.

    `X` (float32) is the mean of each channel, and of each stain's optical density, in each object; the layers `sd`,
    `p05` ... `p95` are its other statistics; `var` says in `kind` whether it is a `channel` or a `stain`. `obs` has
    `cell_id` (the id), `region` (see `boundaries_of`), `slide` (the source's name), `area` (px²), and all other
    columns of the table. A row is called `<slide>_<id>`. `obsm["spatial"]` is the centroid (x,y) in px, as the table
    has it; `spatial_um` is the same in µm, where the pixel size is known.

    `uns["spatialdata_attrs"]` says what the rows annotate, where there are any, `uns["sopa_attrs"]` that `X` are
    intensities, and `uns["cytoseed"]` what made the result. There is no `uns["spatial"]`: where there is one, squidpy
    takes the objects for spots on a grid.

    Parameters
    ----------
    result : ResultView
        What to write.
    group : h5py.File or zarr.Group
        Where to; empty.
    target : str, optional
        The target whose objects are the rows. Without it all objects are, each once: of two targets, a cell with what
        was measured of its nucleus in further columns and layers, which begin with `nuclei_` and are NaN where it has
        none; a nucleus without a cell is a row of its own, of the nuclei's region.
    """
    group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    slide = _text(stem_of(result.source))
    features: list[str] = []
    regions: dict[str, int] = {}
    arrays: list[_Array] = []
    for table in _batches(result, target):
        features = features or _features(table)
        rows = _rows(table, slide, regions)
        arrays = arrays or _begin(group, rows, features, result.targets[:-1])
        for array in arrays:
            array.append(rows)
    for key, categories in ((REGION_KEY, list(regions)), (_SLIDE, [slide])):
        _write(group["obs"][key], "categories", np.array(categories, object))
    _write(group, "var", _variables(features, len(result.channel_names)))
    _write(group, "uns", _described(result, slide, list(regions)))


# Rows


def _batches(result: ResultView, target: str | None) -> Iterator[pd.DataFrame]:
    """Give the table in pieces of as many rows, but for the last; one without rows where there are no objects.

    Where pieces end does not depend on the blocks that a result is given in.
    """
    import pandas as pd

    empty = _objects(empty_table(result), result.targets, target)
    number = min(_MOST_ROWS, max(_LEAST_ROWS, _VALUES // len(empty.columns)))
    held: list[pd.DataFrame] = []
    missing, is_first = number, True
    for block in result.blocks():
        table = _objects(block.table, result.targets, target)
        while len(table):
            held.append(table[:missing])
            table, missing = table[missing:], missing - len(held[-1])
            if not missing:
                yield pd.concat(held, ignore_index=True)
                held, missing, is_first = [], number, False
    if held or is_first:
        yield pd.concat(held or [empty], ignore_index=True)


def _objects(table: pd.DataFrame, targets: Sequence[str], target: str | None) -> pd.DataFrame:
    """Take the objects of one target, or all, each once; sorted by id, and with their `target`."""
    import pandas as pd

    if len(targets) == 1:
        return table.assign(target=targets[0]).sort_values("id", ignore_index=True)
    if target is not None:
        return table[table["target"] == target].sort_values("id", ignore_index=True)
    ranked = table.assign(rank=table["target"].map(targets.index)).sort_values(["id", "rank"]).drop(columns="rank")
    outer = ranked.drop_duplicates("id", keep="last", ignore_index=True)
    joined = [outer]
    for name in targets[:-1]:
        inner = table[table["target"] == name].drop(columns="target").set_index("id").astype(np.float64)
        joined.append(inner.reindex(outer["id"]).add_prefix(f"{name}_").reset_index(drop=True))
    return pd.concat(joined, axis=1)


def _rows(table: pd.DataFrame, slide: str, regions: dict[str, int]) -> pd.DataFrame:
    """Put keys for AnnData, sopa and spatialdata before the measurements; `regions` numbers them as they are met."""
    import pandas as pd

    for name in table["target"].unique():
        regions.setdefault(boundaries_of(name), len(regions))
    keys = {
        _NAME: np.array([f"{slide}_{label}" for label in table["id"].tolist()], object),
        INSTANCE_KEY: table["id"].to_numpy(np.int64),
        REGION_KEY: np.array([regions[boundaries_of(name)] for name in table["target"]], np.int8),
        _SLIDE: np.zeros(len(table), np.int8),
        _AREA: table["area_px"].to_numpy(np.float64),
    }
    flags = [name for name in table.columns if str(name).startswith("touches_")]
    measured = table.drop(columns=["id", "target"]).astype(dict.fromkeys(flags, np.bool_))
    return pd.concat([pd.DataFrame(keys), measured], axis=1)


# Columns


def _features(table: pd.DataFrame) -> list[str]:
    """List the channels and stains of which there are statistics."""
    return [str(name).removeprefix(f"{_MEAN}_") for name in table.columns if str(name).startswith(f"{_MEAN}_")]


def _matrices(columns: set[str], features: list[str], inner: Sequence[str]) -> dict[tuple[str, str], list[str]]:
    """Find which columns are a matrix together: group and name of each, and its columns."""
    found = {}
    for prefix in ("", *(f"{target}_" for target in inner)):
        for statistic in STATISTICS:
            layer = f"{prefix}{statistic}"
            place = ("", "X") if layer == _MEAN else ("layers", layer)
            found[place] = [f"{layer}_{feature}" for feature in features]
    for name, unit in (("spatial", "px"), ("spatial_um", "um")):
        found["obsm", name] = [f"centroid_x_{unit}", f"centroid_y_{unit}"]
    return {place: names for place, names in found.items() if columns.issuperset(names)}


class _Array(NamedTuple):
    """An array in the file with a row for each object."""

    stored: Any
    """Of HDF5 or Zarr, (N,) or (N,M); grows."""
    kind: np.dtype[Any]
    """The type of its values."""
    columns: list[str]
    """The table's columns in it."""

    def append(self, rows: pd.DataFrame) -> None:
        """Add rows."""
        if len(rows):
            before, *width = self.stored.shape
            self.stored.resize((before + len(rows), *width))
            self.stored[before:] = rows[self.columns if width else self.columns[0]].to_numpy(self.kind)


def _begin(group: Any, rows: pd.DataFrame, features: list[str], inner: Sequence[str]) -> list[_Array]:
    """Make everything that has a row for each object, without rows yet."""
    matrices = _matrices({str(name) for name in rows.columns}, features, inner)
    in_matrices = {name for (parent, _), names in matrices.items() for name in names if parent != "obsm"}
    single = [str(name) for name in rows.columns if name not in in_matrices]
    groups = {name: _group(group, name, "dict", "0.1.0") for name in ("layers", "obsm", "obsp", "varm", "varp")}
    obs = _group(group, "obs", "dataframe", "0.2.0", {"_index": _NAME, "column-order": single[1:]})
    chunk = (max(1, len(rows)),)
    arrays = []
    for name in single:
        parent, key = obs, name
        if name in (REGION_KEY, _SLIDE):
            parent, key = _group(obs, name, "categorical", "0.2.0", {"ordered": False}), "codes"
        arrays.append(_growing(parent, key, [name], rows.dtypes[name], chunk))
    for (place, name), columns in matrices.items():
        kind = np.dtype(np.float64 if place == "obsm" else np.float32)
        arrays.append(_growing(groups.get(place, group), name, columns, kind, (*chunk, max(1, len(columns)))))
    return arrays


def _group(parent: Any, name: str, kind: str, version: str, others: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Make a group that AnnData reads as a kind of element, in a version of its encoding."""
    attributes = {"encoding-type": kind, "encoding-version": version, **others}
    if _is_zarr(parent):
        return parent.create_group(name, attributes=attributes)
    made = parent.create_group(name)
    made.attrs.update(attributes)
    return made


def _growing(parent: Any, name: str, columns: list[str], kind: np.dtype[Any], chunk: tuple[int, ...]) -> _Array:
    """Make an array without rows, of texts or numbers; how many axes it has, its chunks say."""
    is_text = kind.kind == "O"
    width = (len(columns),) * (len(chunk) - 1)
    attributes = {"encoding-type": "string-array" if is_text else "array", "encoding-version": "0.2.0"}
    options: dict[str, Any] = {"shape": (0, *width), "chunks": chunk}
    if _is_zarr(parent):
        made = parent.create_array(name, dtype=str if is_text else kind, **options, attributes=attributes)
        return _Array(made, kind, columns)
    import h5py

    options |= {"maxshape": (None, *width), "compression": "gzip", "shuffle": not is_text}
    made = parent.create_dataset(name, dtype=h5py.string_dtype() if is_text else kind, **options)
    made.attrs.update(attributes)
    return _Array(made, kind, columns)


def _write(parent: Any, name: str, element: Any) -> None:
    """Write a whole element of AnnData."""
    from anndata.io import write_elem

    # AnnData wants to be told whether to gather chunks in shards; with what is small, there is nothing to gather
    write_elem(parent, name, element, dataset_kwargs={"shards": None} if _is_zarr(parent) else {})


def _is_zarr(group: Any) -> bool:
    """Tell a group of Zarr from one of HDF5."""
    return hasattr(group, "create_array")


# What is not of one object


def _variables(features: list[str], channels: int) -> pd.DataFrame:
    """Describe the columns of the matrices: first the channels, then the stains."""
    import pandas as pd

    kinds = ["channel" if place < channels else "stain" for place in range(len(features))]
    return pd.DataFrame({"kind": pd.Categorical(kinds)}, index=pd.Index(features, dtype=object))


def _described(result: ResultView, slide: str, regions: list[str]) -> dict[str, Any]:
    """Say what the rows annotate, and what made them."""
    made: dict[str, Any] = {
        "version": metadata.version("cytoseed"),
        "source": slide,
        "model": _text(str(result.settings.get("model", ""))),
        "settings": json.dumps(dict(result.settings), sort_keys=True),
        "input": json.dumps(dict(result.input), sort_keys=True),
        "units": {"X": "as stored; stains: optical density (log10)", "area": "px²", "spatial": "px"},
    }
    if result.pixel_size_um is not None:
        made["pixel_size_um"] = result.pixel_size_um
        made["units"]["spatial_um"] = "µm"
    described: dict[str, Any] = {"cytoseed": made, "sopa_attrs": {"transcripts": False, "intensities": True}}
    if regions:
        region = regions[0] if len(regions) == 1 else regions
        described["spatialdata_attrs"] = {"region": region, "region_key": REGION_KEY, "instance_key": INSTANCE_KEY}
    return described


def _text(name: str) -> str:
    """Make a name of a file, which need not be UTF-8, one that can be stored."""
    return name.encode("utf-8", "backslashreplace").decode()
