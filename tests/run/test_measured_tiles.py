"""What is measured in tiles is what is measured in one pass, to the bit, but for which border of a tile is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from cytoseed.run.part import Subject, measured_again
from numpy.typing import NDArray

from bright import bright_config, bright_segmenter
from cytoseed.images import as_image, open_image
from cytoseed.models.weights import Model
from cytoseed.results.measure.table import measure_objects
from cytoseed.results.objects import Objects, numbers_of, pack_masks
from cytoseed.run.api import segment
from cytoseed.run.area import read_area
from cytoseed.run.plan import make_plan
from cytoseed.run.stitch import Trimmed
from cytoseed.run.survey import Limits, Survey, survey, tile_grid
from cytoseed.run.tiles import Grid
from cytoseed.settings import STAINS, SegmentOptions
from runs import run

RGB = Model(bright_config(3), bright_segmenter(3))
GREY = Model(bright_config(), bright_segmenter())
CORE = 128
RGB_NAMES = ("red", "green", "blue")


def brightfield(height: int = 270, width: int = 260) -> NDArray[np.uint8]:
    """A bright picture (H,W,3) of many colours with brighter discs all over it."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:height, :width]
    picture = rng.integers(90, 130, (height, width, 3))
    picture[..., 0] += 20
    for _ in range(height * width // 600):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, 9)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        picture[inside] = rng.integers(215, 256, (np.count_nonzero(inside), 3))
    picture[100:104, 15:245] = rng.integers(215, 256, (4, 230, 3))  # reaches out of its tile's margin
    return picture.astype(np.uint8)


def check_tiles(image: Any, model: Model, folder: Path, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the tables of tiles and of one pass; give both, in the order of the tiles' ids."""
    whole = segment(image, model, **options)
    report = run(image, folder, model, formats=["table", "labels"], skip_background=False, tile_size_px=CORE, **options)
    assert report.result is not None
    labels = report.result.labels_in((0, 0, *report.result.shape[1:]))[0]
    table = pd.concat([block.table for block in report.result.blocks()], ignore_index=True)
    assert len(table) == whole.count > 5
    number = np.zeros(whole.count + 1, np.int64)
    number[labels] = whole.labels
    once = whole.table.set_index("id").loc[number[table["id"]]].reset_index()
    assert (np.where(number[labels] == whole.labels, labels, -1) == labels).all(), "the same objects"
    apart = ["id", "touches_tile_edge"]
    pd.testing.assert_frame_equal(table.drop(columns=apart), once.drop(columns=apart), check_exact=True)
    assert list(table.columns) == list(once.columns)
    assert table["touches_tile_edge"].dtype == once["touches_tile_edge"].dtype == np.int64
    assert not once["touches_tile_edge"].any()
    for tile, block in zip(report.result.found.filled(), report.result.blocks(), strict=True):
        columns = -(-report.result.shape[2] // CORE)
        core = CORE * (tile // columns), CORE * (tile % columns)
        for row in block.table.to_dict("records"):
            assert row["touches_tile_edge"] == reaches_over(row, core, report.result.shape[1:]), row
    return table, once


def reaches_over(row: dict[str, Any], core: tuple[int, int], image_yx: tuple[int, int], core_px: int = CORE) -> bool:
    """Tell whether an object's box, a px wider, leaves the core but for what lies outside the image."""
    for begin, size, first, side in (
        (row["box_y_px"], row["box_height_px"], core[0], image_yx[0]),
        (row["box_x_px"], row["box_width_px"], core[1], image_yx[1]),
    ):
        if max(begin - 1, 0) < first or min(begin + size + 1, side) > min(first + core_px, side):
            return True
    return False


def test_of_a_brightfield_picture(tmp_path: Path) -> None:
    table, _ = check_tiles(brightfield(), RGB, tmp_path)
    assert [name for name in table if name.startswith("mean_")] == [
        *(f"mean_{name}" for name in RGB_NAMES),
        *(f"mean_od_{stain}" for stain in STAINS),
    ]
    assert 0 < table["touches_tile_edge"].sum() < len(table)
    assert 0 < table["touches_image_edge"].sum() < len(table)
    assert table["box_width_px"].max() > CORE


def test_of_one_channel_of_a_brightfield_picture(tmp_path: Path) -> None:
    """The other two are measured, and decide what stains there are, though nobody looks at them."""
    table, _ = check_tiles(brightfield(), GREY, tmp_path, channels=("red",))
    assert "mean_od_eosin" in table


def test_of_a_brightfield_picture_at_another_scale(tmp_path: Path) -> None:
    whole = segment(brightfield(), RGB, pixel_size_um=0.4)
    report = run(
        brightfield(), tmp_path, RGB, skip_background=False, tile_size_px=CORE, pixel_size_um=0.4, formats=["table"]
    )
    assert report.result is not None
    table = pd.concat([block.table for block in report.result.blocks()], ignore_index=True)
    keys = ["centroid_y_px", "centroid_x_px"]
    apart = ["id", "touches_tile_edge"]
    tables = [one.sort_values(keys).reset_index(drop=True).drop(columns=apart) for one in (table, whole.table)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    side = round(CORE / 0.8)  # at full resolution
    for tile, block in zip(report.result.found.filled(), report.result.blocks(), strict=True):
        columns = -(-report.result.shape[2] // side)
        core = side * (tile // columns), side * (tile % columns)
        for row in block.table.to_dict("records"):
            assert row["touches_tile_edge"] == reaches_over(row, core, report.result.shape[1:], side), row


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_of_other_pictures(dtype: Any, tmp_path: Path) -> None:
    image = np.moveaxis(brightfield(), -1, 0)[:1].astype(dtype) * dtype(7)
    table, _ = check_tiles(image, GREY, tmp_path)
    assert [name for name in table if name.startswith("mean_")] == ["mean_channel 0"]


def test_files_of_tiles_hold_the_table(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", brightfield(), tile=(64, 64), photometric="rgb")
    report = run(
        tmp_path / "a.tif",
        tmp_path / "out",
        RGB,
        skip_background=False,
        tile_size_px=CORE,
        formats=["table", "parquet"],
    )
    assert report.result is not None
    table = pd.concat([block.table for block in report.result.blocks()], ignore_index=True)
    csv = pd.read_csv(tmp_path / "out" / "a.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(csv, table.astype({"id": np.int64}), check_exact=True)
    parquet = pd.read_parquet(tmp_path / "out" / "a.parquet")
    kinds = {"touches_image_edge": bool, "touches_tile_edge": bool}
    pd.testing.assert_frame_equal(parquet, table.astype(kinds), check_exact=True)


# An object that lost pixels


def subject_of(pixels: NDArray[Any], model: Model, stains: tuple[str, ...] = ()) -> Subject:
    image = as_image(pixels)
    plan = make_plan(image, model.config, SegmentOptions())
    limits = Limits(np.zeros(3, np.float32), np.ones(3, np.float32))
    grid = Grid(*plan.size_yx, CORE, 64, 128)
    return Subject(image, plan, grid, limits, read_area(plan.full_yx), model.config.channels, False, stains)


@pytest.mark.parametrize(("tile", "touches"), [(1, 0), (0, 1), (4, 1)])
def test_what_is_left_of_an_object_is_measured_as_in_one_pass(tile: int, touches: int) -> None:
    picture = brightfield()
    subject = subject_of(picture, RGB, STAINS)
    mask = np.random.default_rng(1).random((9, 11)) < 0.7
    mask[0, 0] = mask[-1, -1] = True
    labels = np.zeros(picture.shape[:2], np.int32)
    labels[20:29, 140:151][mask] = 1
    known = measure_objects(labels, np.moveaxis(picture, -1, 0), subject.image.channel_names, None, STAINS)
    known["touches_tile_edge"] = touches
    was = Objects(
        target=np.zeros(1, np.uint8),
        box_yxhw=np.array([[18, 138, 20, 20]]),
        bits=pack_masks([np.ones((20, 20), bool)]),
        score=np.ones(1, np.float32),
        is_owned=np.ones(1, bool),
        left_out_yxhw=np.zeros((0, 4), np.int64),
        **{**numbers_of(known), "numbers": np.zeros((1, known.shape[1] - 1))},
    )
    with subject.image.regions() as regions:
        again = measured_again(subject, regions, was, Trimmed(tile, 0, (20, 140, 9, 11), mask))
    pd.testing.assert_frame_equal(again.table(), known.drop(columns="id"), check_exact=True)
    np.testing.assert_array_equal(again.mask(0), mask)


# Which stains there are


def seen(image: Any, model: Model, **options: Any) -> Survey:
    opened = open_image(image) if isinstance(image, Path) else as_image(image)
    wishes = SegmentOptions(tile_size_px=CORE, **options)
    plan = make_plan(opened, model.config, wishes)
    grid = tile_grid(plan, model.config, wishes, opened)
    with opened.regions() as regions:
        return survey(opened, regions, plan, grid, read_area(plan.full_yx), False)


@pytest.mark.parametrize("options", [{}, {"stain": "haematoxylin"}, {"channels": ("green",)}, {"channels": (2, 1, 0)}])
def test_stains_are_decided_by_all_channels(options: dict[str, Any]) -> None:
    model = GREY if options.get("channels") == ("green",) else RGB
    assert seen(brightfield(), model, **options).stains == STAINS
    assert seen(brightfield() // 4, model, **options).stains == ()
    assert segment(brightfield(), model, **options).stains == STAINS


@pytest.mark.parametrize(
    "image", [brightfield()[..., 0], brightfield().astype(np.uint16), np.stack([brightfield()[..., 0]] * 4)]
)
def test_images_without_stains(image: NDArray[Any]) -> None:
    assert seen(image, GREY, channels=(0,)).stains == ()


def test_what_was_not_read_decides_nothing(tmp_path: Path) -> None:
    """Of a file whose lower half is dark, that half is cut off."""
    path = tmp_path / "cut.tif"
    picture = np.full((2048, 512, 3), 30, np.uint8)
    picture[:1000] = brightfield(1000, 512)
    tifffile.imwrite(path, picture, tile=(64, 64), photometric="rgb")
    assert seen(path, RGB).stains == ()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 5])
    assert seen(path, RGB).stains == STAINS
