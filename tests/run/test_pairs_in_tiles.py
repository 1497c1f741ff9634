"""Pairs of nucleus and cell in tiles: the pairs, ids, pixels and files of one pass."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bright import bright_config, bright_segmenter
from cytoseed.models.weights import Model
from cytoseed.run.api import segment
from cytoseed.run.slide import Callbacks
from runs import run
from same import assert_same_objects

TILES = {"tile_size_px": 128, "skip_background": False}
TARGETS = ("nuclei", "cells")


def model_of_pairs():
    """Nuclei are bright in the first channel, cells in the second."""
    segmenter = bright_segmenter(2, TARGETS)
    network, fields = segmenter.network, segmenter.field_count
    with torch.no_grad():
        network.refine.look.conv.weight.zero_()
        network.head.weight.zero_()
        for target in range(2):
            network.refine.look.conv.weight[target, target, 1, 1] = 1
            network.head.weight[target * fields + 2, target] = 1
            network.head.weight[target * fields + 3, target] = 15
    return Model(bright_config(2, TARGETS), segmenter)


MODEL = model_of_pairs()


def disc(shape, y, x, radius):
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def scene(seed=0, height=340, width=300, side=46):
    """Discs of cells and of nuclei: inside, sticking out, several in a cell, none, and some without a cell."""
    rng = np.random.default_rng(seed)
    image = np.full((2, height, width), 10, np.uint8)
    for top in range(0, height - side, side):
        for left in range(0, width - side, side):
            y, x = top + side / 2 + rng.uniform(-2, 2), left + side / 2 + rng.uniform(-2, 2)
            radius = rng.uniform(8, side / 2 - 1)
            if rng.random() < 0.8:
                image[1][disc(image.shape[1:], y, x, radius)] = rng.integers(150, 220)
            for _ in range(rng.integers(0, 3)):
                away = rng.uniform(0, 1.2 * radius, 2) * rng.choice([-1, 1], 2)
                image[0][disc(image.shape[1:], y + away[0], x + away[1], rng.uniform(3, 9))] = rng.integers(150, 220)
    image[:, 0, 0], image[:, -1, -1] = 0, 255
    return image


def assert_same_pairs(one, other):
    """Objects have the same pixels, and an id of one labelling is one id of the other, in both planes."""
    for plane, like in zip(one, other, strict=True):
        assert_same_objects(plane, like)
    ids = np.unique(np.stack([one[one > 0], other[one > 0]]), axis=1)
    assert len(np.unique(ids[0])) == len(np.unique(ids[1])) == ids.shape[1]


def pairs_in(labels):
    return np.intersect1d(*[np.unique(plane[plane > 0]) for plane in labels])


def long_pair():
    """A cell that reaches further than the usual margin, its nucleus at the far end; and one across a corner."""
    image = np.full((2, 300, 420), 10, np.uint8)
    image[1, 100:124, 30:260] = 200
    image[0, 105:118, 235:252] = 200
    image[1, 240:280, 240:270], image[0, 262:275, 258:268] = 200, 200
    image[:, 0, 0], image[:, -1, -1] = 0, 255
    return image


@settings(max_examples=8)
@given(st.integers(0, 999), st.sampled_from([None, 0.4, 0.5]))
@example(0, None)
def test_tiles_give_the_pairs_of_one_pass(seed, pixel_size):
    image = scene(seed)
    whole = segment(image, MODEL, pixel_size_um=pixel_size)
    in_tiles = segment(image, MODEL, pixel_size_um=pixel_size, **TILES)
    assert_same_pairs(whole.labels, in_tiles.labels)
    for labels in (whole.labels, in_tiles.labels):
        assert set(np.unique(labels)) == set(range(labels.max() + 1))
        assert len(pairs_in(labels)) > 3
        for number in pairs_in(labels):
            assert (labels[1][labels[0] == number] == number).all(), "a nucleus lies in its cell"
    assert whole.count == in_tiles.count == whole.labels.max()


def test_a_pair_across_tiles_stays_one():
    image = long_pair()
    labels = segment(image, MODEL, **TILES).labels
    expected = np.stack([image[0] == 200, image[1] == 200])
    assert pairs_in(labels).tolist() == [1, 2]
    np.testing.assert_array_equal(labels > 0, expected)
    assert_same_pairs(segment(image, MODEL).labels, labels)


def test_the_nucleus_of_a_cell_beyond_the_margin_is_kept_alone(tmp_path):
    image = np.full((2, 140, 900), 10, np.uint8)
    image[1, 50:60, 50:850] = np.random.default_rng(0).integers(170, 220, (10, 800))
    image[0, 52:58, 400:408] = 200
    image[:, 0, 0], image[:, -1, -1] = 0, 255
    notices = []
    report = run(image, tmp_path, MODEL, formats=["labels"], callbacks=Callbacks(notices.append), **TILES)
    labels = report.result.labels_in((0, 0, 140, 900))
    assert report.result.count == labels.max() == 1
    np.testing.assert_array_equal(labels[0] == 1, image[0] == 200)
    assert not labels[1].any()
    assert any("left out" in text for text in notices)


def test_a_region_takes_a_nucleus_with_its_cell():
    image = long_pair()
    left, right = segment(image, MODEL, region=(0, 0, 100, 200)), segment(image, MODEL, region=(200, 0, 100, 200))
    assert (left.count, right.count) == (1, 0)
    assert pairs_in(left.labels).tolist() == [1]


def test_blocks_and_files_hold_pairs(tmp_path):
    image = scene(3)
    whole = segment(image, MODEL)
    report = run(image, tmp_path, MODEL, formats=["labels", "geojson", "table"], **TILES)
    labels = report.result.labels_in((0, 0, *image.shape[1:]))
    number = dict(np.unique(np.stack([labels[labels > 0], whole.labels[labels > 0]]), axis=1).T.tolist())
    assert report.result.count == whole.count == len(number)
    own = {(row.pop("target"), row.pop("id")): row for row in whole.table.to_dict("records")}
    last = 0
    for block in report.result.blocks():
        ids = np.unique(block.labels[block.labels > 0])
        assert ids.tolist() == list(range(last + 1, last + 1 + len(ids))), "a pair is in one block"
        last = int(ids[-1])
        rows = block.table.to_dict("records")
        assert [row["target"] for row in rows] == sorted((row["target"] for row in rows), key=TARGETS.index)
        for row in rows:
            known = own.pop((row.pop("target"), number[row.pop("id")]))
            row.pop("touches_tile_edge"), known.pop("touches_tile_edge")
            assert row == pytest.approx(known, nan_ok=True)
    assert not own, "every object of both targets is in a block"
    features = json.loads((tmp_path / "array.geojson").read_text())["features"]
    with_nucleus = {f["properties"]["measurements"]["label"] for f in features if "nucleusGeometry" in f}
    assert with_nucleus == set(pairs_in(labels).tolist())
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds.count("cell") == len(np.unique(labels[1])) - 1
    assert len(features) == report.result.count


def test_cells_alone_equal_the_cells_of_pairs():
    """Where no nucleus reaches out of its cell, nuclei do not change the cells."""
    image = scene(5)
    image[0][image[1] == 10] = 10
    alone = Model(bright_config(1, ("cells",)), bright_segmenter(1, ("cells",)))
    cells = segment(image[1], alone, **TILES)
    both = segment(image, MODEL, **TILES)
    assert_same_objects(cells.labels, both.labels[1])
