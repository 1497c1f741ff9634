"""Cells grown from nuclei: tiles equal the whole, every cell holds its nucleus, and what does not fit is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bright import bright_config, bright_segmenter
from cytoseed.models.weights import Model
from cytoseed.run.api import segment
from same import assert_same_objects

NUCLEI = Model(bright_config(1, ("nuclei",)), bright_segmenter(1, ("nuclei",)))


def scene(seed, height=330, width=290):
    """Bright discs on a dark ground, some of which touch the border of a tile of 128 px."""
    random = np.random.default_rng(seed)
    rows, columns = np.ogrid[:height, :width]
    image = np.full((height, width), 10, np.uint8)
    for y, x in [(128, 60), (130, 132), (250, 128), *random.uniform(0, (height, width), (35, 2))]:
        image[(rows - y) ** 2 + (columns - x) ** 2 < random.uniform(3, 9) ** 2] = random.integers(150, 220)
    image[0, 0], image[-1, -1] = 0, 255
    return image


@settings(max_examples=6)
@given(st.integers(0, 999), st.sampled_from([0.5, 0.3, 1.0]), st.sampled_from([1, 4.2, 12]))
def test_tiles_give_the_cells_of_one_pass(seed, pixel_size, expand_um):
    given = {"pixel_size_um": pixel_size, "expand_um": expand_um}
    whole = segment(scene(seed), NUCLEI, **given).labels
    in_tiles = segment(scene(seed), NUCLEI, tile_size_px=128, skip_background=False, **given).labels
    for one, other in zip(whole, in_tiles, strict=True):
        assert_same_objects(one, other)
    for nuclei, cells in (whole, in_tiles):
        assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()
        assert np.unique(nuclei).tolist() == np.unique(cells).tolist()


def test_cells_reach_as_far_as_given_and_nuclei_stay():
    image = scene(4)
    alone, (nuclei, cells) = (segment(image, NUCLEI, pixel_size_um=0.5, expand_um=um).labels for um in (None, 4))
    assert_same_objects(alone, nuclei)
    rows, columns = np.nonzero(nuclei)
    outside = np.argwhere((cells > 0) & (nuclei == 0))
    assert len(outside) > 1000
    for y, x in outside[::37]:
        nearest = ((rows - y) ** 2 + (columns - x) ** 2).min()
        assert nearest <= 8**2


def test_a_run_writes_cells_with_nuclei(tmp_path):
    result = segment(scene(2), NUCLEI, pixel_size_um=0.5, expand_um=3, output=tmp_path, formats=["geojson", "table"])
    assert result.targets == ("nuclei", "cells")
    assert result.settings["expand_um"] == 3
    (path,) = tmp_path.glob("*.geojson")
    features = json.loads(path.read_text())["features"]
    assert {feature["properties"]["objectType"] for feature in features} == {"cell"}
    assert all("nucleusGeometry" in feature for feature in features)


def test_what_cannot_grow_is_refused():
    with pytest.raises(ValueError, match="the pixel size is unknown: give --pixel-size"):
        segment(scene(0), NUCLEI, expand_um=5)
    both = Model(bright_config(1, ("nuclei", "cells")), bright_segmenter(1, ("nuclei", "cells")))
    with pytest.raises(ValueError, match="finds cells itself"):
        segment(scene(0), both, pixel_size_um=0.5, expand_um=5)
    with pytest.raises(ValueError, match="expand_um is 0; it must be above 0"):
        segment(scene(0), NUCLEI, pixel_size_um=0.5, expand_um=0)
