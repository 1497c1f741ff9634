"""Parquet: the table in proper types, the same bytes however it comes, and opened by pandas, Polars and pyarrow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from pieced import Nothing, Pieced

from cytoseed.results import Result
from cytoseed.results.formats import parquet
from cytoseed.results.formats.parquet import write_parquet

FLAGS = ["touches_image_edge", "touches_tile_edge"]


def in_types(table: pd.DataFrame) -> pd.DataFrame:
    """The table as Parquet holds it."""
    return table.astype({"id": np.int32, **dict.fromkeys(FLAGS, bool)})


def written(result: Result, path: Path) -> Path:
    write_parquet(result, path)
    return path


def test_read_back_by_every_reader(whole: Result, tmp_path: Path) -> None:
    path = written(whole, tmp_path / "a.parquet")
    wanted = in_types(whole.table)
    pd.testing.assert_frame_equal(pd.read_parquet(path), wanted, check_exact=True)
    pd.testing.assert_frame_equal(pq.read_table(path).to_pandas(), wanted, check_exact=True)
    frame = pl.read_parquet(path)
    assert frame.columns == list(wanted.columns)
    for column in wanted:
        np.testing.assert_array_equal(frame[column].to_list(), wanted[column].tolist())  # NaN is equal to NaN
    kinds = {"id": pl.Int32, "target": pl.String, **dict.fromkeys(FLAGS, pl.Boolean)}
    for column, kind in zip(frame.columns, frame.dtypes, strict=True):
        assert kind == kinds.get(column, pl.Int64 if wanted[column].dtype == np.int64 else pl.Float64)


@pytest.mark.parametrize("targets", [("nuclei",), ("nuclei", "cells")])
def test_without_objects(targets: tuple[str, ...], tmp_path: Path) -> None:
    labels = np.zeros((len(targets), 8, 9), np.int32)
    whole, some = (
        Result.from_labels(plane if len(targets) > 1 else plane[0], np.zeros((2, 8, 9)), targets=targets)
        for plane in (labels, labels + 1)
    )
    nothing = Nothing((2, 8, 9), targets=targets, channel_names=("channel 0", "channel 1"), pixel_size_um=None)
    schema = pq.read_schema(written(some, tmp_path / "some"))
    for case, result in enumerate((whole, nothing)):
        path = written(result, tmp_path / str(case))
        assert pq.read_schema(path).equals(schema)
        assert pq.read_metadata(path).num_row_groups == 0
        assert len(pd.read_parquet(path)) == 0
        assert pl.read_parquet(path).height == 0
        assert pl.read_parquet(path).columns == schema.names


@pytest.mark.parametrize("rows", [1, 3, 4, 100])
@pytest.mark.parametrize("objects", [1, 3])
def test_groups_do_not_depend_on_blocks(
    nuclei: Result, tmp_path: Path, rows: int, objects: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", rows)
    pieced = written(Pieced(nuclei, objects), tmp_path / "pieced")
    assert pieced.read_bytes() == written(nuclei, tmp_path / "whole").read_bytes()
    with pq.ParquetFile(pieced) as file:
        sizes = [file.metadata.row_group(index).num_rows for index in range(file.metadata.num_row_groups)]
    assert sizes == [rows] * (4 // rows) + [4 % rows] * (4 % rows > 0)
    pd.testing.assert_frame_equal(pd.read_parquet(pieced), in_types(nuclei.table), check_exact=True)


def test_of_many_channels_groups_have_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_VALUES", 600)
    image = np.ones((40, 4, 5), np.uint16)
    result = Result.from_labels(np.arange(20, dtype=np.int32).reshape(4, 5), image)
    with pq.ParquetFile(written(result, tmp_path / "a")) as file:
        assert file.metadata.num_columns == 15 + 7 * 40
        assert file.metadata.num_row_groups == 10


def test_nan_is_a_value_and_not_missing(tmp_path: Path) -> None:
    image = np.array([[[np.nan, 1, 2, np.inf]]])
    result = Result.from_labels(np.array([[1, 1, 2, 3]], np.int32), image, channel_names=("a",))
    table = pq.read_table(written(result, tmp_path / "a"))
    assert sum(column.null_count for column in table.columns) == 0
    assert np.isnan(table["mean_a"].to_numpy()).tolist() == [True, False, False]
    assert pl.read_parquet(tmp_path / "a")["mean_a"].is_nan().to_list() == [True, False, False]
    pd.testing.assert_frame_equal(table.to_pandas(), in_types(result.table), check_exact=True)


def test_metadata_of_the_file(nuclei: Result, tmp_path: Path) -> None:
    path, _ = nuclei.save(tmp_path, formats=("parquet",))
    assert path.name == "tissue.parquet"
    metadata = pq.read_schema(path).metadata
    assert list(metadata) == [b"cytoseed"]
    told = json.loads(metadata[b"cytoseed"])
    units = told.pop("units")
    assert told.pop("version")
    assert told == {
        "source": "tissue.ome.tif",
        "shape": [3, 20, 30],
        "pixel_size_um": 0.25,
        "targets": ["nuclei"],
        "channels": ["red", "green", "blue"],
        "stains": ["haematoxylin", "eosin", "dab"],
    }
    assert list(units) == list(nuclei.table.columns)
    assert {unit: [name for name, own in units.items() if own == unit][:2] for unit in sorted(set(units.values()))} == {
        "": ["id", "eccentricity"],
        "as stored": ["mean_red", "sd_red"],
        "optical density (log10)": ["mean_od_haematoxylin", "sd_od_haematoxylin"],
        "px": ["box_x_px", "box_y_px"],
        "µm": ["centroid_x_um", "centroid_y_um"],
        "µm²": ["area_um2"],
    }
