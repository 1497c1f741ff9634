"""Grown labels against distances measured pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cytoseed.core.expand import expand_labels


def scattered(seed: int, height: int = 40, width: int = 50) -> torch.Tensor:
    random = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for number in range(1, 9):
        y, x = random.integers(0, (height - 3, width - 4))
        labels[y : y + 3, x : x + 4] = number
    return torch.from_numpy(labels)


@pytest.mark.parametrize("reach_px", [0.5, 1, 3.7, 10, 60])
def test_every_pixel_takes_the_nearest_object(reach_px):
    labels = scattered(0)
    expanded = expand_labels(labels, reach_px).numpy()
    rows, columns = np.nonzero(labels.numpy())
    for y, x in np.ndindex(labels.shape):
        squared = (rows - y) ** 2 + (columns - x) ** 2
        nearest = set(labels.numpy()[rows, columns][squared == squared.min()].tolist())
        expected = nearest if squared.min() <= reach_px**2 else {0}
        assert expanded[y, x] in expected
    assert (expanded[labels.numpy() > 0] == labels.numpy()[labels.numpy() > 0]).all()


def test_a_part_equals_the_whole_where_it_holds_all_within_reach():
    labels = scattered(1)
    whole, part = expand_labels(labels, 6.5), expand_labels(labels[8:36, 5:44], 6.5)
    assert torch.equal(part[6:-6, 6:-6], whole[14:30, 11:38])


def test_numbers_do_not_matter_and_empty_images_stay_empty():
    labels = scattered(2)
    reversed_numbers = torch.where(labels > 0, 9 - labels, 0)
    expanded = expand_labels(labels, 5)
    assert torch.equal(expand_labels(reversed_numbers, 5), torch.where(expanded > 0, 9 - expanded, 0))
    assert not expand_labels(torch.zeros(7, 9, dtype=torch.int32), 5).any()
