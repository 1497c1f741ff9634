import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoseed.core.seeds import find_seeds

maps = st.tuples(st.integers(1, 2), st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
)


def reference(seed_map: np.ndarray, radius: int, threshold: float) -> list[list[int]]:
    """Pixel by pixel: at least the threshold, no larger one in reach, no equal one before it in reach."""
    seeds = []
    for n, row, column in np.ndindex(seed_map.shape):
        value = seed_map[n, row, column]
        top, left = max(0, row - radius), max(0, column - radius)
        around = seed_map[n, top : row + radius + 1, left : column + radius + 1]
        before = around.ravel()[: (row - top) * around.shape[1]]
        before = np.concatenate([before, around[row - top, : column - left]])
        if value >= threshold and value >= around.max() and not (before == value).any():
            seeds.append([n, row, column])
    return seeds


@given(maps, st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.8]))
def test_seeds_are_the_maxima_in_reach(seed_map, radius, threshold):
    found = find_seeds(torch.from_numpy(seed_map), radius, threshold)
    assert found.dtype == torch.int64
    assert found.tolist() == reference(seed_map, radius, threshold)


def test_below_the_threshold_and_nan_give_none():
    assert find_seeds(torch.full((2, 9, 9), 0.49), 4, 0.5).shape == (0, 3)
    assert find_seeds(torch.full((1, 9, 9), float("nan")), 4, 0.5).shape == (0, 3)
