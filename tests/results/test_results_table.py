"""The table: scikit-image's numbers, whatever touches an object and however the image is cut; and its file."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops_table

from cytoseed.learn.samples import read_mask
from cytoseed.results import Segmentation, hull, shape
from cytoseed.results.formats.csv import write_table
from cytoseed.results.table import measure_objects

DATA = Path(os.environ.get("CYTOSEED_DATA") or Path(__file__).parents[3] / "shared" / "data")

COLUMNS = [
    "id", "centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um", "area_px", "area_um2",
    "perimeter_px", "perimeter_um", "eccentricity", "solidity",
]  # fmt: skip


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


def check_with_scikit_image(labels: NDArray[np.int32]) -> None:
    """Compare with what scikit-image measures of one object after the other."""
    image = np.random.default_rng(0).random(labels.shape).astype(np.float32)
    table = measure_objects(labels, [image], ["DAPI"], 0.5)
    assert list(table.columns) == [*COLUMNS, "mean_DAPI"]
    if not labels.any():
        assert table.empty
        return
    properties = ("label", "centroid", "area", "perimeter", "eccentricity", "solidity", "intensity_mean")
    known = regionprops_table(labels, image.astype(np.float64), properties)
    for name, wanted in {
        "id": known["label"],
        "centroid_y_px": known["centroid-0"] + 0.5,
        "centroid_x_px": known["centroid-1"] + 0.5,
        "area_px": known["area"],
        "solidity": known["solidity"],
    }.items():
        np.testing.assert_array_equal(table[name], wanted, err_msg=name)
    np.testing.assert_allclose(table["perimeter_px"], known["perimeter"], rtol=1e-12)
    np.testing.assert_allclose(table["mean_DAPI"], known["intensity_mean"], rtol=1e-12)
    # scikit-image's own rounding gives a circle up to about 1e-8
    np.testing.assert_allclose(table["eccentricity"], known["eccentricity"], rtol=1e-9, atol=5e-8)


@settings(max_examples=300)
@given(LABELS)
def test_numbers_are_those_of_scikit_image(labels: NDArray[np.int32]) -> None:
    check_with_scikit_image(labels)


@pytest.mark.skipif(not (DATA / "dsb2018").is_dir(), reason="the real masks are not here; set CYTOSEED_DATA")
def test_numbers_of_real_nuclei_are_those_of_scikit_image() -> None:
    for path in sorted((DATA / "dsb2018" / "masks").iterdir())[::60]:
        check_with_scikit_image(np.maximum(read_mask(path), 0))


@pytest.mark.parametrize(
    ("drawn", "perimeter", "eccentricity", "solidity"),
    [
        (["#"], 0, 0, 1),
        (["####"], 2, 1, 1),
        (["#", "#", "#"], 1, 1, 1),
        (["###", "###", "###"], 8, 0, 1),
        (["#..", ".#.", "..#"], 2**0.5, 1, 1),
        (["##..", "..##"], 1 + 2**0.5, None, 4 / 6),
        ([".#.", "###", ".#."], 4 * 2**0.5, 0, 1),
        (["#.#", "...", "#.#"], 0, 0, 4 / 9),
        (["###", "#.#", "###"], 8, 0, 8 / 9),
        (["#...", "#...", "#...", "####"], None, None, 7 / 10),
    ],
)
def test_small_shapes(drawn: list[str], perimeter: float | None, eccentricity: float | None, solidity: float) -> None:
    labels = np.array([[place == "#" for place in line] for line in drawn]).astype(np.int32)
    check_with_scikit_image(labels)
    row = measure_objects(labels, [], [], None).iloc[0]
    assert row["solidity"] == solidity
    assert perimeter is None or row["perimeter_px"] == pytest.approx(perimeter, rel=1e-12)
    assert eccentricity is None or row["eccentricity"] == eccentricity


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers(0, 10**6))
def test_an_object_measures_the_same_wherever_it_is_cut_out(seed: int, top: int, left: int) -> None:
    labels = blobs(seed)
    image = np.random.default_rng(seed).random((2, *labels.shape)).astype(np.float32)
    whole = measure_objects(labels, image, ["a", "b"], 0.25, top, left)
    for label in whole["id"]:
        y, x = ndimage.find_objects(labels)[label - 1]
        crop = np.where(labels[y, x] == label, labels[y, x], 0)
        own = measure_objects(crop, image[:, y, x], ["a", "b"], 0.25, top + y.start, left + x.start)
        kept = whole[whole["id"] == label].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, kept, check_exact=True)


@given(st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_how_much_is_looked_at_in_one_go_changes_nothing(seed: int, size: int) -> None:
    labels = blobs(seed)
    whole = measure_objects(labels, [labels], ["a"], None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shape, "_STRIP_PX", size)
        patch.setattr(hull, "_ROWS_AT_ONCE", size)
        parts = measure_objects(labels, [labels], ["a"], None)
    pd.testing.assert_frame_equal(parts, whole, check_exact=True)


def test_ids_may_have_gaps() -> None:
    labels = np.zeros((5, 6), np.int32)
    labels[0, :3], labels[2:4, 1:3], labels[4, 5] = 2**31 - 1, 7, 40_000
    table = measure_objects(labels, [labels], ["id"], None)
    assert table["id"].tolist() == [7, 40_000, 2**31 - 1]
    assert table["area_px"].tolist() == [4, 1, 3]
    assert table["mean_id"].tolist() == [7, 40_000, 2**31 - 1]


def test_a_long_crooked_object_is_measured_exactly() -> None:
    rows = np.arange(2000)
    labels = np.zeros((2000, 1700), np.int32)
    middle = 800 + (700 * np.sin(rows / 150) * np.cos(rows / 37)).astype(int)
    for row, column in zip(rows, middle, strict=True):
        labels[row, column - 40 : column + 40] = 1
    check_with_scikit_image(labels)


def test_channels_are_taken_one_at_a_time() -> None:
    labels = np.ones((4, 5), np.int32)
    alive: list[weakref.ref[NDArray[Any]]] = []

    def channels() -> Iterator[NDArray[Any]]:
        for value in range(5):
            assert not any(channel() is not None for channel in alive), "the one before is gone"
            channel = np.full((4, 5), value)
            alive.append(weakref.ref(channel))
            yield channel
            del channel

    table = measure_objects(labels, channels(), list("abcde"), None)
    assert [table[f"mean_{name}"][0] for name in "abcde"] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float16, np.float64])
def test_channels_of_every_type(dtype: Any) -> None:
    labels = np.array([[1, 1, 0], [2, 2, 2]], np.int32)
    channel = np.array([[0, 1, 1], [1, 1, 1]]).astype(dtype)
    assert measure_objects(labels, [channel], ["a"], None)["mean_a"].tolist() == [0.5, 1]


def test_channels_that_do_not_belong_to_the_labels() -> None:
    labels = np.ones((4, 5), np.int32)
    with pytest.raises(ValueError, match=r"\(5, 4\).*\(4, 5\)"):
        measure_objects(labels, [labels.T], ["a"], None)
    for channels in ([], [labels] * 3):
        with pytest.raises(ValueError, match="zip"):
            measure_objects(labels, channels, ["a", "b"], None)


# Of a result


def test_table_of_one_target(nuclei: Segmentation) -> None:
    table = nuclei.table
    assert list(table.columns) == [*COLUMNS, "mean_red", "mean_green", "mean_blue"]
    assert table.dtypes.tolist() == [
        np.float64 if name not in {"id", "area_px"} else np.int64 for name in table.columns
    ]
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
    pd.testing.assert_frame_equal(pd.read_csv(path, float_precision="round_trip"), nuclei.table, check_exact=True)


def in_blocks(result: Segmentation, *tables: pd.DataFrame) -> Any:
    """Stand in for a result that is given block by block, whose labels the table does not need."""
    blocks = [SimpleNamespace(table=table) for table in tables]
    return SimpleNamespace(
        targets=result.targets,
        channel_names=result.channel_names,
        pixel_size_um=result.pixel_size_um,
        blocks=lambda: iter(blocks),
    )


@pytest.mark.parametrize("name", ["nuclei", "cells"])
def test_csv_of_blocks_is_that_of_the_whole(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    result: Segmentation = request.getfixturevalue(name)
    table = result.table
    whole = table.to_csv(index=False, lineterminator="\n").encode()
    for case, tables in enumerate(([table], [table[:1], table[1:2], table[2:]], [table[:0], table])):
        write_table(in_blocks(result, *tables), tmp_path / f"{case}.csv")
        assert (tmp_path / f"{case}.csv").read_bytes() == whole, case


@pytest.mark.parametrize("name", ["nuclei", "cells"])
def test_csv_without_objects_names_the_columns(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    result: Segmentation = request.getfixturevalue(name)
    for case, tables in enumerate(([], [result.table[:0]])):
        write_table(in_blocks(result, *tables), tmp_path / f"{case}.csv")
        assert (tmp_path / f"{case}.csv").read_text() == ",".join(result.table.columns) + "\n"


def test_names_of_channels_in_any_script_are_kept(tmp_path: Path) -> None:
    result = Segmentation(np.ones((2, 2), np.int32), np.ones((1, 2, 2)), channel_names=('核, "α"',))
    write_table(in_blocks(result, result.table), tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv", encoding="utf-8").columns[-1] == 'mean_核, "α"'
