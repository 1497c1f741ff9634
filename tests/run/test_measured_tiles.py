"""Measurements in tiles equal those of one pass to the bit, except `touches_tile_edge`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bright import GREY, RGB
from cytoseed.images import as_image
from cytoseed.models.weights import Model
from cytoseed.results.measure.table import measure_objects
from cytoseed.results.objects import Objects, numbers_of, pack_masks
from cytoseed.run.api import segment
from cytoseed.run.plan import make_plan
from cytoseed.run.stitch import ObjectMask, _to_measure, measure_trimmed
from cytoseed.run.survey import Limits, survey
from cytoseed.run.tile import Clock, SlideContext
from cytoseed.run.tiles import Grid
from cytoseed.settings import STAINS, SegmentOptions
from runs import run

CORE = 128
RGB_NAMES = ("red", "green", "blue")


def brightfield(height: int = 270, width: int = 260) -> NDArray[np.uint8]:
    """A bright image (H,W,3) of many colours with brighter discs."""
    rng = np.random.default_rng(4)
    rows, columns = np.mgrid[:height, :width]
    image = rng.integers(90, 130, (height, width, 3))
    image[..., 0] += 20
    for _ in range(height * width // 600):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, 9)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        image[inside] = rng.integers(215, 256, (np.count_nonzero(inside), 3))
    image[100:104, 15:245] = rng.integers(215, 256, (4, 230, 3))  # reaches out of its tile's margin
    return image.astype(np.uint8)


def check_tiles(image: Any, model: Model, folder: Path, **options: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the tables of tiles and of one pass, and return both in the order of the tiles' ids."""
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
    side = round(CORE / whole.settings["scale"])  # at full resolution
    columns = -(-report.result.shape[2] // side)
    for tile, block in zip(report.result.contents._filled, report.result.blocks(), strict=True):
        core = side * (tile // columns), side * (tile % columns)
        for row in block.table.to_dict("records"):
            assert row["touches_tile_edge"] == reaches_over(row, core, report.result.shape[1:], side), row
    return table, once


def reaches_over(row: dict[str, Any], core: tuple[int, int], image_yx: tuple[int, int], core_px: int) -> bool:
    """Whether an object's box, a px wider and clipped to the image, leaves the core."""
    for begin, size, first, side in (
        (row["box_y_px"], row["box_height_px"], core[0], image_yx[0]),
        (row["box_x_px"], row["box_width_px"], core[1], image_yx[1]),
    ):
        if max(begin - 1, 0) < first or min(begin + size + 1, side) > min(first + core_px, side):
            return True
    return False


def test_brightfield(tmp_path: Path) -> None:
    table, _ = check_tiles(brightfield(), RGB, tmp_path)
    assert [name for name in table if name.startswith("mean_")] == [
        *(f"mean_{name}" for name in RGB_NAMES),
        *(f"mean_od_{stain}" for stain in STAINS),
    ]
    assert 0 < table["touches_tile_edge"].sum() < len(table)
    assert 0 < table["touches_image_edge"].sum() < len(table)
    assert table["box_width_px"].max() > CORE


def test_one_channel_of_a_brightfield_image(tmp_path: Path) -> None:
    """The other two channels are measured as well, and decide which stains are."""
    table, _ = check_tiles(brightfield(), GREY, tmp_path, channels=("red",))
    assert "mean_od_eosin" in table


def test_brightfield_at_another_scale(tmp_path: Path) -> None:
    check_tiles(brightfield(), RGB, tmp_path, pixel_size_um=0.4)


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_fluorescence(dtype: Any, tmp_path: Path) -> None:
    image = np.moveaxis(brightfield(), -1, 0)[:1].astype(dtype) * dtype(7)
    table, _ = check_tiles(image, GREY, tmp_path)
    assert [name for name in table if name.startswith("mean_")] == ["mean_channel 0"]


# Trimmed objects


def context_of(pixels: NDArray[Any], model: Model, stains: tuple[str, ...] = ()) -> SlideContext:
    image = as_image(pixels)
    plan = make_plan(image, model.config, SegmentOptions())
    limits = Limits(np.zeros(3, np.float32), np.ones(3, np.float32))
    plan = plan._replace(grid=Grid(*plan.size_yx, CORE, 64, 128))
    return SlideContext(image, image.regions, Clock(), plan, limits, model.config.channels, False, stains)


@pytest.mark.parametrize(("tile", "touches"), [(1, 0), (0, 1), (4, 1)])
def test_a_trimmed_object_is_measured_as_in_one_pass(tile: int, touches: int) -> None:
    image = brightfield()
    context = context_of(image, RGB, STAINS)
    mask = np.random.default_rng(1).random((9, 11)) < 0.7
    mask[0, 0] = mask[-1, -1] = True
    labels = np.zeros(image.shape[:2], np.int32)
    labels[20:29, 140:151][mask] = 1
    known = measure_objects(labels, np.moveaxis(image, -1, 0), context.image.channel_names, None, STAINS)
    known["touches_tile_edge"], known["score"] = touches, 0.75
    before = Objects(
        target=np.zeros(1, np.uint8),
        box_yxhw=np.array([[18, 138, 20, 20]]),
        bits=pack_masks([np.ones((20, 20), bool)]),
        score=np.ones(1, np.float32),
        is_owned=np.ones(1, bool),
        left_out_yxhw=np.zeros((0, 4), np.int64),
        **{**numbers_of(known), "numbers": numbers_of(known)["numbers"] * (numbers_of(known)["columns"] == "score")},
    )
    with context.image.regions() as regions:
        again = measure_trimmed(context._replace(regions=regions), before, ObjectMask(tile, 0, (20, 140, 9, 11), mask))
    pd.testing.assert_frame_equal(again.table(), known.drop(columns="id"), check_exact=True)
    np.testing.assert_array_equal(again.mask(0), mask)


def test_a_cell_whose_nucleus_lost_pixels_is_measured_again() -> None:
    """Not the nucleus alone: its lost pixels are the cytoplasm's; nor a cell that was dropped."""
    cell, inner = np.ones((8, 8), bool), np.ones((4, 4), bool)
    objects = Objects(
        target=np.array([0, 1], np.uint8),
        box_yxhw=np.array([[12, 12, 4, 4], [10, 10, 8, 8]]),
        bits=pack_masks([inner, cell]),
        score=np.ones(2, np.float32),
        is_owned=np.ones(2, bool),
        numbers=np.full((2, 1), 0.5),
        columns=np.array(["score"]),
        is_count=np.zeros(1, bool),
        left_out_yxhw=np.zeros((0, 4), np.int64),
        partner=np.array([1, 0]),
    )
    left = ObjectMask(0, 0, (12, 12, 2, 4), inner[:2])
    assert [own.place for own, _ in _to_measure(objects, [left], {0})] == [0]
    (nucleus, none), (whole, of_cell) = _to_measure(objects, [left], {0, 1})
    assert (nucleus, none, whole.place) == (left, None, 1)
    image = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    context = context_of(image, GREY)
    context = context._replace(plan=context.plan._replace(targets=("nuclei", "cells")))
    with context.image.regions() as regions:
        again = measure_trimmed(context._replace(regions=regions), objects.take([1]), whole, of_cell).table()
    outside = cell.copy()
    outside[2:4, 2:6] = False
    assert again["cytoplasm_mean_channel 0"][0] == pytest.approx(image[10:18, 10:18][outside].mean())


# Stains


def stains_of(image: Any, model: Model, **options: Any) -> tuple[str, ...]:
    opened = as_image(image)
    plan = make_plan(opened, model.config, SegmentOptions(tile_size_px=CORE, **options))
    with opened.regions() as regions:
        return survey(opened, regions, plan, skip_background=False)[2]


@pytest.mark.parametrize("options", [{}, {"stain": "haematoxylin"}, {"channels": ("green",)}, {"channels": (2, 1, 0)}])
def test_stains_are_decided_by_all_channels(options: dict[str, Any]) -> None:
    model = GREY if options.get("channels") == ("green",) else RGB
    assert stains_of(brightfield(), model, **options) == STAINS
    assert stains_of(brightfield() // 4, model, **options) == ()
    assert segment(brightfield(), model, **options).stains == STAINS


@pytest.mark.parametrize(
    "image", [brightfield()[..., 0], brightfield().astype(np.uint16), np.stack([brightfield()[..., 0]] * 4)]
)
def test_images_without_stains(image: NDArray[Any]) -> None:
    assert stains_of(image, GREY, channels=(0,)) == ()
