"""The result itself, and its table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from cytoseed.results import Segmentation

IMAGE = np.zeros((2, 4, 5), np.uint8)


def test_counts(nuclei: Segmentation, cells: Segmentation) -> None:
    assert (nuclei.count, len(nuclei)) == (4, 4)
    assert (cells.count, len(cells)) == (4, 4), "a cell and its nucleus count once"
    assert Segmentation(np.zeros((4, 5), np.int32), IMAGE).count == 0


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"labels": np.zeros((4, 5))}, TypeError, "float64.*integers"),
        ({"labels": np.zeros((5, 4), np.int32)}, ValueError, r"\(5, 4\).*must be \(4, 5\)"),
        ({"labels": np.full((4, 5), -1, np.int32)}, ValueError, "-1"),
        ({"targets": ("nuclei", "cells")}, ValueError, r"must be \(2, 4, 5\)"),
        ({"image": np.zeros((4, 5))}, ValueError, r"\(C,H,W\)"),
        ({"channel_names": ("DAPI",)}, ValueError, "2 channels"),
    ],
)
def test_parts_that_do_not_belong_together(changed: dict[str, Any], error: type[Exception], says: str) -> None:
    parts: dict[str, Any] = {"labels": np.zeros((4, 5), np.int32), "image": IMAGE}
    with pytest.raises(error, match=says):
        Segmentation(**(parts | changed))


def test_channels_without_names_are_numbered() -> None:
    assert Segmentation(np.zeros((4, 5), np.int64), IMAGE).channel_names == ("channel 0", "channel 1")


def test_table_of_one_target(nuclei: Segmentation) -> None:
    table = nuclei.table
    assert list(table.columns) == [
        "id", "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um", "area_px", "area_um2",
        "perimeter_px", "perimeter_um", "eccentricity", "solidity", "mean_red", "mean_green", "mean_blue",
    ]  # fmt: skip
    assert table["id"].tolist() == [1, 2, 3, 4]
    assert table["area_px"].tolist() == [20, 8, 1, 28]
    first, single = table.iloc[0], table.iloc[2]
    assert (first["centroid_x_px"], first["centroid_y_px"]) == (5.5, 4.0), "the middle of columns 3 to 8, rows 2 to 6"
    assert (first["centroid_x_um"], first["centroid_y_um"]) == (1.375, 1.0)
    assert first["area_um2"] == 20 / 16
    assert first["mean_green"] == pytest.approx(nuclei.image[1][nuclei.labels == 1].mean())
    assert (single["centroid_x_px"], single["centroid_y_px"]) == (29.5, 0.5)
    assert single["mean_red"] == nuclei.image[0, 0, 29]
    assert single["solidity"] == 1


def test_table_of_two_targets(cells: Segmentation) -> None:
    table = cells.table
    assert "area_um2" not in table.columns
    assert list(zip(table["target"], table["id"], strict=True)) == [
        ("nuclei", 1), ("nuclei", 2), ("nuclei", 5), ("cells", 1), ("cells", 2), ("cells", 4),
    ]  # fmt: skip
    row = table[(table["target"] == "cells") & (table["id"] == 4)].iloc[0]
    assert row["mean_CD3"] == pytest.approx(cells.image[1, 12:14, 2:8].mean())


def test_channels_of_one_name_keep_their_own_columns() -> None:
    labels = np.ones((4, 5), np.int32)
    image = np.stack([np.full((4, 5), 3), np.full((4, 5), 8)])
    table = Segmentation(labels, image, channel_names=("CD3", "CD3")).table
    assert (table["mean_CD3 (0)"][0], table["mean_CD3 (1)"][0]) == (3, 8)


def test_table_without_objects_has_its_columns(nuclei: Segmentation) -> None:
    empty = Segmentation(np.zeros_like(nuclei.labels), nuclei.image, channel_names=nuclei.channel_names)
    assert len(empty.table) == 0
    assert "mean_red" in empty.table.columns


@given(
    hnp.arrays(
        np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements={"min_value": 0, "max_value": 4}
    )
)
def test_every_number_is_finite(labels: np.ndarray[Any, Any]) -> None:
    table = Segmentation(labels, np.ones((1, *labels.shape), np.uint16), pixel_size_um=0.5).table
    assert np.isfinite(table.to_numpy(dtype=float)).all()
    assert table["area_px"].sum() == np.count_nonzero(labels)


def test_csv_is_the_table(nuclei: Segmentation, tmp_path: Path) -> None:
    path, _ = nuclei.save(tmp_path, formats=("table",))
    assert path.name == "tissue.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), nuclei.table, check_exact=True)
