"""The table: scikit-image's numbers, whatever touches an object and however the image is cut; and its CSV."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pieced import Nothing, pixels_of
from scipy import ndimage
from skimage.measure import regionprops_table

from cytoseed.results import Result
from cytoseed.results.formats.parquet import write_table
from cytoseed.results.measure.table import Frame, measure_objects
from cytoseed.settings import STAINS

COLUMNS = [
    "id", "box_x_px", "box_y_px", "box_width_px", "box_height_px",
    "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um", "area_px", "area_um2",
    "perimeter_px", "perimeter_um", "axis_major_px", "axis_major_um", "axis_minor_px", "axis_minor_um",
    "eccentricity", "solidity", "touches_image_edge", "touches_tile_edge",
]  # fmt: skip
COUNTS = {
    "id", "box_x_px", "box_y_px", "box_width_px", "box_height_px", "area_px", "touches_image_edge", "touches_tile_edge"
}  # fmt: skip
STATISTICS = ("mean", "sd", "p05", "p25", "p50", "p75", "p95")


def of_channels(*names: str) -> list[str]:
    return [f"{statistic}_{name}" for name in names for statistic in STATISTICS]


def blobs(seed: int) -> NDArray[np.int32]:
    """Objects of all sizes with bays and holes, touching, cut by the border."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(3, 70, 2)
    levels = ndimage.gaussian_filter(rng.normal(size=(height, width)), rng.uniform(0.5, 5))
    pieces, _ = ndimage.label(levels > np.quantile(levels, rng.uniform(0, 0.9)), structure=np.ones((3, 3)))
    halves = np.mgrid[:height, :width][rng.integers(2)] > rng.integers(1, min(height, width))
    return np.where(pieces > 0, 2 * pieces + halves, 0).astype(np.int32)


LABELS = st.one_of(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements={"min_value": 0, "max_value": 4},
        fill=st.just(0),
    ),
    st.integers(0, 2**32 - 1).map(blobs),
)


def sd(mask: NDArray[np.bool_], image: NDArray[np.float64]) -> float:
    return float(np.std(image[mask]))


def percentiles(mask: NDArray[np.bool_], image: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.percentile(image[mask], [5, 25, 50, 75, 95])


@settings(max_examples=200)
@given(LABELS)
def test_numbers_are_those_of_scikit_image(labels: NDArray[np.int32]) -> None:
    """As it measures them of one object after the other."""
    image = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    table = measure_objects(labels, [image], ["DAPI"], 0.5)
    assert list(table.columns) == [*COLUMNS, *of_channels("DAPI")]
    if not labels.any():
        assert table.empty
        return
    properties = (
        "label", "bbox", "centroid", "area", "perimeter", "axis_major_length", "axis_minor_length", "eccentricity",
        "solidity", "intensity_mean",
    )  # fmt: skip
    known = regionprops_table(labels, image.astype(np.float64), properties, extra_properties=(sd, percentiles))
    top, left, bottom, right = (known[f"bbox-{side}"] for side in range(4))
    for name, wanted in {
        "id": known["label"],
        "box_x_px": left,
        "box_y_px": top,
        "box_width_px": right - left,
        "box_height_px": bottom - top,
        "centroid_y_px": known["centroid-0"] + 0.5,
        "centroid_x_px": known["centroid-1"] + 0.5,
        "area_px": known["area"],
        "solidity": known["solidity"],
        "touches_image_edge": (top == 0) | (left == 0) | (bottom == labels.shape[0]) | (right == labels.shape[1]),
        "touches_tile_edge": np.zeros(len(table)),
    }.items():
        np.testing.assert_array_equal(table[name], wanted, err_msg=name)
    np.testing.assert_allclose(table["perimeter_px"], known["perimeter"], rtol=1e-12)
    # scikit-image's own rounding gives a circle up to about 1e-8, and a line a width of as much of its length
    np.testing.assert_allclose(table["eccentricity"], known["eccentricity"], rtol=1e-9, atol=5e-8)
    longest = float(known["axis_major_length"].max())
    np.testing.assert_allclose(table["axis_major_px"], known["axis_major_length"], rtol=1e-12)
    np.testing.assert_allclose(table["axis_minor_px"], known["axis_minor_length"], rtol=1e-9, atol=5e-8 * longest)
    np.testing.assert_allclose(table["mean_DAPI"], known["intensity_mean"], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(table["sd_DAPI"], known["sd"], rtol=1e-9, atol=1e-12)
    for index, name in enumerate(STATISTICS[2:]):
        np.testing.assert_array_equal(table[f"{name}_DAPI"], known[f"percentiles-{index}"], err_msg=name)


@pytest.mark.parametrize("sides", [(0.2, 0.4), (0.5, 0.25)])
def test_lengths_in_um_use_both_sides_of_a_pixel(sides: tuple[float, float]) -> None:
    y, x = np.mgrid[:300, :300] + 0.5
    labels = (((y - 150) * sides[0]) ** 2 + ((x - 150) * sides[1]) ** 2 < 15**2).astype(np.int32)
    row = measure_objects(labels, [], [], sides).iloc[0]
    plain = measure_objects(labels, [], [], None).iloc[0]
    assert (row["centroid_x_um"], row["centroid_y_um"]) == (150 * sides[1], 150 * sides[0])
    assert row["area_um2"] == pytest.approx(np.pi * 15**2, rel=0.01)
    assert row["perimeter_um"] == pytest.approx(2 * np.pi * 15, rel=0.08)
    assert [row["axis_major_um"], row["axis_minor_um"]] == pytest.approx([30, 30], rel=0.005)
    assert row["eccentricity"] < 0.1
    assert plain["eccentricity"] > 0.8
    assert (row[["perimeter_px", "axis_major_px"]] == plain[["perimeter_px", "axis_major_px"]]).all()


def test_rounding_gives_a_line_no_width_below_0() -> None:
    labels = np.zeros((51, 301), np.int32)
    for step in (0, 3, 8, 12, 31, 50):  # whose smaller moment comes out as -1e-11
        labels[step, 6 * step] = 1
    row = measure_objects(labels, [], [], None).iloc[0]
    assert row["axis_minor_px"] == 0
    assert row["eccentricity"] == 1


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_object_measures_the_same_wherever_it_is_cut_out(seed: int, top: int, left: int) -> None:
    labels = blobs(seed)
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (3, *labels.shape)).astype(np.uint8)
    real = rng.normal(size=labels.shape) * 10 ** rng.uniform(-9, 9, labels.shape)  # the order of a sum would show
    reals = np.stack([real, real.astype(np.float32)])
    sides = (0.25, 0.25 + 0.07 * (seed % 2))
    core = (top + int(rng.integers(20)), left + int(rng.integers(20)), 30, 30)
    frame = Frame(top, left, (top + labels.shape[0] + 1, left + labels.shape[1]), core)
    for image, names, stains in ((colours, ["red", "green", "blue"], STAINS), (reals, ["a", "b"], ())):
        whole = measure_objects(labels, image, names, sides, stains, frame)
        for label in whole["id"]:
            y, x = ndimage.find_objects(labels)[label - 1]
            crop = np.where(labels[y, x] == label, labels[y, x], 0)
            place = frame._replace(top=top + y.start, left=left + x.start)
            own = measure_objects(crop, image[:, y, x], names, sides, stains, place)
            kept = whole[whole["id"] == label].reset_index(drop=True)
            pd.testing.assert_frame_equal(own, kept, check_exact=True)


PART = Frame(100, 200, (300, 400), (110, 201, 60, 80))


@pytest.mark.parametrize(
    ("box_yxhw", "frame", "touches_image", "touches_tile"),
    [
        ((0, 5, 3, 3), None, 1, 0),
        ((1, 5, 3, 3), None, 0, 0),
        ((17, 5, 3, 3), None, 1, 0),
        ((5, 0, 3, 3), None, 1, 0),
        ((5, 27, 3, 3), None, 1, 0),
        ((16, 26, 3, 3), None, 0, 0),
        # the border of the part is not a border of the image
        ((17, 27, 3, 3), PART, 0, 0),
        # beside the first row of the core, from it on, across it, outside
        ((11, 5, 3, 3), PART, 0, 0),
        ((10, 5, 3, 3), PART, 0, 1),
        ((8, 5, 5, 3), PART, 0, 1),
        ((0, 5, 3, 3), PART, 0, 1),
        ((15, 2, 3, 3), PART, 0, 0),
        ((15, 1, 3, 3), PART, 0, 1),
        # before the last row and column of the core, and up to them
        ((6, 6, 3, 3), PART._replace(core_yxhw=(0, 0, 110, 210)), 0, 0),
        ((7, 5, 3, 3), PART._replace(core_yxhw=(0, 0, 110, 400)), 0, 1),
        ((5, 7, 3, 3), PART._replace(core_yxhw=(0, 0, 300, 210)), 0, 1),
        # sides of the core that are sides of the image do not count as sides of the tile
        ((0, 5, 3, 3), Frame(0, 0, (300, 400), (0, 0, 64, 64)), 1, 0),
        ((17, 27, 3, 3), Frame(280, 370, (300, 400), (256, 320, 44, 80)), 1, 0),
        ((17, 5, 3, 3), Frame(280, 370, (300, 400), (256, 380, 44, 20)), 1, 1),
    ],
)
def test_what_touches_which_border(
    box_yxhw: tuple[int, int, int, int], frame: Frame | None, touches_image: int, touches_tile: int
) -> None:
    top, left, height, width = box_yxhw
    labels = np.zeros((20, 30), np.int32)
    labels[top : top + height, left : left + width] = 1
    row = measure_objects(labels, [], [], None, (), frame).iloc[0]
    assert (row["touches_image_edge"], row["touches_tile_edge"]) == (touches_image, touches_tile)
    first_row, first_column = (frame.top, frame.left) if frame else (0, 0)
    assert (row["box_y_px"], row["box_x_px"]) == (first_row + top, first_column + left)
    assert (row["box_height_px"], row["box_width_px"]) == (height, width)


@pytest.mark.parametrize("shape_yx", [(6, 7), (0, 7)])
def test_an_image_without_objects(shape_yx: tuple[int, int]) -> None:
    picture = np.zeros((3, *shape_yx), np.uint8)
    table = measure_objects(np.zeros(shape_yx, np.int32), picture, ["red", "green", "blue"], 0.5, STAINS)
    stained = [f"od_{stain}" for stain in STAINS]
    assert list(table.columns) == [*COLUMNS, *of_channels("red", "green", "blue", *stained)]
    assert table.empty
    assert all(table[name].dtype == (np.int64 if name in COUNTS else np.float64) for name in table)


# Of a result


def test_table_of_one_target(nuclei: Result) -> None:
    table = nuclei.table
    stained = [f"od_{stain}" for stain in STAINS]
    assert list(table.columns) == [*COLUMNS, *of_channels("red", "green", "blue", *stained)]
    assert table.dtypes.tolist() == [np.int64 if name in COUNTS else np.float64 for name in table.columns]
    assert table["id"].tolist() == [1, 2, 3, 4]
    assert table["area_px"].tolist() == [20, 8, 1, 28]
    first = table.iloc[0]
    assert (first["centroid_x_px"], first["centroid_y_px"]) == (5.5, 4.0), "the middle of columns 3 to 8, rows 2 to 6"
    assert (first["centroid_x_um"], first["centroid_y_um"]) == (1.375, 1.0)
    assert first["area_um2"] == 20 / 16
    assert first["mean_green"] == pytest.approx(pixels_of(nuclei)[1][nuclei.labels == 1].mean())
    box = table.loc[3, ["box_x_px", "box_y_px", "box_width_px", "box_height_px"]].tolist()
    assert box == [1, 10, 14, 9], "around both pieces"


def test_table_of_two_targets(cells: Result) -> None:
    table = cells.table
    assert "area_um2" not in table.columns
    assert list(zip(table["target"], table["id"], strict=True)) == [
        ("nuclei", 1), ("nuclei", 2), ("nuclei", 5), ("cells", 1), ("cells", 2), ("cells", 4),
    ]  # fmt: skip
    row = table[(table["target"] == "cells") & (table["id"] == 4)].iloc[0]
    assert row["mean_CD3"] == pytest.approx(pixels_of(cells)[1, 12:14, 2:8].mean())


def test_channels_of_one_name_keep_their_own_columns() -> None:
    labels = np.ones((4, 5), np.int32)
    image = np.stack([np.full((4, 5), 3), np.full((4, 5), 8)])
    table = Result.from_labels(labels, image, channel_names=("CD3", "CD3")).table
    assert (table["mean_CD3 (0)"][0], table["mean_CD3 (1)"][0]) == (3, 8)
    table = Result.from_labels(labels, image[[0, 1, 1]], channel_names=("CD3", "CD3", "CD3 (0)")).table
    assert [table[f"p50_{name}"][0] for name in ("CD3 (0)", "CD3 (1)", "CD3 (0) (2)")] == [3, 8, 8]


def test_csv_holds_nan_and_infinity(tmp_path: Path) -> None:
    image = np.array([[[np.nan, 1, 1 / 3, np.inf, 1e300]]])
    result = Result.from_labels(np.array([[1, 1, 2, 3, 4]], np.int32), image)
    write_table(result, tmp_path / "a.csv")
    read = pd.read_csv(tmp_path / "a.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(read, result.table, check_exact=True)
    assert read["mean_channel 0"].tolist()[1:] == [1 / 3, np.inf, 1e300]
    assert read.loc[0].isna().sum() == len(STATISTICS)


def test_csv_without_objects_names_the_columns(tmp_path: Path) -> None:
    for targets, names in {("nuclei",): "id,box", ("nuclei", "cells"): "id,target,box"}.items():
        write_table(Nothing((3, 20, 30), targets=targets), tmp_path / "a.csv")
        assert (tmp_path / "a.csv").read_text().startswith(names)
