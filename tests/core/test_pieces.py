import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from cytoseed.core.pieces import connected_components, seed_piece, whole_objects

labels_images = st.tuples(st.integers(1, 3), st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(0, 4))
)


def spread_ids(labels: np.ndarray) -> torch.Tensor:
    """An object's number occurs in one image only."""
    offsets = 4 * np.arange(len(labels))[:, None, None]
    return torch.from_numpy(np.where(labels > 0, labels + offsets, 0))


def reference(labels: np.ndarray, min_size: int) -> np.ndarray:
    """The same by scipy, object by object."""
    kept = np.zeros_like(labels)
    for value in range(1, labels.max() + 1):
        pieces, count = ndimage.label(labels == value)
        if count:
            areas = np.bincount(pieces.ravel())[1:]
            if areas.max() >= min_size:
                kept[pieces == areas.argmax() + 1] = value
    background, count = ndimage.label(kept == 0)
    filled = kept.copy()
    padded = np.pad(kept, 1, constant_values=-1)
    for hole in range(1, count + 1):
        mask = np.pad(background == hole, 1)
        ring = ndimage.binary_dilation(mask) & ~mask
        around = np.unique(padded[ring])
        if len(around) == 1 and around[0] > 0:
            filled[background == hole] = around[0]
    values = np.unique(filled[filled > 0])
    return np.where(filled > 0, np.searchsorted(values, filled) + 1, 0)


@given(labels_images, st.integers(0, 6))
def test_whole_objects_equal_scipy_object_by_object(labels, min_size):
    result = whole_objects(spread_ids(labels), 4 * len(labels), min_size)
    assert result.dtype == torch.int32
    for image, own in zip(labels, result.numpy(), strict=True):
        np.testing.assert_array_equal(own, reference(image, min_size))


@given(st.integers(1, 40), st.data())
def test_connected_components_finds_the_components_of_a_graph(count, data):
    nodes = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(nodes, nodes), max_size=60))
    first, second = (torch.tensor([e[k] for e in edges], dtype=torch.int64) for k in (0, 1))
    groups = {node: {node} for node in range(count)}
    for a, b in edges:
        union = groups[a] | groups[b]
        for node in union:
            groups[node] = union
    expected = [min(groups[node]) for node in range(count)]
    assert connected_components(first, second, count).tolist() == expected


@pytest.mark.parametrize("shuffled", [False, True])
def test_connected_components_follows_a_long_chain(shuffled):
    count = 100_000
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(count)
    assert connected_components(order[:-1], order[1:], count).max() == 0


@given(arrays(np.bool_, st.tuples(st.integers(1, 4), st.just(9), st.just(9))))
def test_seed_piece_is_the_piece_in_the_middle(mask):
    result = seed_piece(torch.from_numpy(mask)).numpy()
    for own, kept in zip(mask, result, strict=True):
        pieces, _ = ndimage.label(own)
        expected = own & (pieces == pieces[4, 4]) & (pieces[4, 4] > 0)
        np.testing.assert_array_equal(kept, expected)


def test_a_long_winding_object_is_one_piece():
    snake = np.zeros((101, 101), bool)
    snake[::2] = True
    snake[1::4, -1] = snake[3::4, 0] = True
    kept = whole_objects(torch.from_numpy(snake.astype(np.int64))[None], 1, 0)[0].numpy()
    assert (kept[snake] == 1).all()


def test_no_objects():
    assert whole_objects(torch.zeros(2, 5, 7, dtype=torch.int64), 0, 10).sum() == 0
    assert seed_piece(torch.zeros(0, 9, 9, dtype=torch.bool)).shape == (0, 9, 9)
