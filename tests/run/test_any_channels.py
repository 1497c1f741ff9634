"""Segmentation by a model of any number of channels: in any order, in one pass and in tiles, chosen or all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tifffile
import torch

import cytoseed
from cytoseed.learn.widen import widen_model
from cytoseed.models.weights import Model
from same import assert_same_objects


@pytest.fixture(scope="module")
def wide() -> Model:
    """`nuclei` for any number of channels, whose ChannelNet mixes them."""
    model = widen_model(cytoseed.load_model("nuclei"), "any", ("nuclei", "cells"))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.segmenter.network.mix_channels.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def panel() -> np.ndarray:
    """Five channels with discs at different places, uint16, (5, H, W)."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (5, 300, 340)).astype(np.uint16)
    rows, columns = np.indices(image.shape[1:])
    for channel in range(5):
        for y, x in rng.uniform(10, 290, (25, 2)):
            image[channel][np.hypot(rows - y, columns - x) < rng.uniform(5, 9)] += np.uint16(rng.integers(300, 900))
    return image


def test_the_order_does_not_matter_and_channels_can_be_chosen(wide: Model, panel: np.ndarray) -> None:
    labels = cytoseed.segment(panel, wide).labels
    assert labels.shape == (2, 300, 340)
    assert labels[0].max() > 20
    assert np.array_equal(labels, cytoseed.segment(panel[[3, 0, 4, 2, 1]], wide).labels)
    chosen = cytoseed.segment(panel, wide, channels=[0, 3]).labels
    assert np.array_equal(chosen, cytoseed.segment(panel[[3, 0]], wide).labels)
    assert not np.array_equal(chosen, labels)


@pytest.mark.parametrize("tiles", [{}, {"tile_size_px": 128, "skip_background": False}])
def test_empty_channels_change_nothing(wide: Model, panel: np.ndarray, tiles: dict[str, Any]) -> None:
    more = np.insert(panel[:2], [0, 1, 2], np.array([0, 7, 0], np.uint16)[:, None, None], axis=0)
    assert more.shape[0] == 5
    assert np.array_equal(
        cytoseed.segment(panel[:2], wide, **tiles).labels, cytoseed.segment(more, wide, **tiles).labels
    )
    assert not cytoseed.segment(np.zeros((3, 64, 64), np.uint16), wide).labels.any()


@pytest.mark.parametrize("channels", [1, 5])
def test_tiles_give_the_objects_of_one_pass(wide: Model, panel: np.ndarray, channels: int) -> None:
    whole = cytoseed.segment(panel[:channels], wide).labels
    tiled = cytoseed.segment(panel[:channels], wide, tile_size_px=128, skip_background=False).labels
    for one, other in zip(whole, tiled, strict=True):
        assert_same_objects(one, other)


def test_a_file_without_a_nuclear_name_is_segmented_with_all_its_channels(
    wide: Model, panel: np.ndarray, tmp_path
) -> None:
    names = ["CD3", "CD8", "PanCK", "Ki67", "CD45"]
    tifffile.imwrite(tmp_path / "panel.ome.tif", panel, metadata={"axes": "CYX", "Channel": {"Name": names}})
    result = cytoseed.segment(tmp_path / "panel.ome.tif", wide)
    assert result.record.settings["channel_names"] == names
    assert np.array_equal(result.labels, cytoseed.segment(panel, wide).labels)
