"""Levels of label images: which pixels they take, and tiles of all of them in one pass."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Pieced, planes_of

from cytoseed.results import Result, pyramid
from cytoseed.results.pyramid import Level, halved, level_of, tiles_of

SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def spotted(targets: int, height: int, width: int, seed: int = 0) -> Result:
    """Labels of which about half the tiles of a few px are empty."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(1, 1000, (targets, height, width)).astype(np.int32)
    labels[
        :,
        ~rng.integers(0, 2, (height // 8 + 1, width // 8 + 1)).astype(bool).repeat(8, 0).repeat(8, 1)[:height, :width],
    ] = 0
    names = ("nuclei", "cells")[:targets]
    return Result.from_labels(
        labels[0] if targets == 1 else labels, np.zeros((1, height, width), np.uint8), targets=names
    )


def taken(labels: NDArray[np.int32], level: Level) -> NDArray[np.int32]:
    return labels[:, level.rows[:, None], level.columns]


# Which pixels


@given(SIDES, st.integers(1, 40))
def test_each_level_is_half_as_large_and_takes_the_centres(sides: tuple[int, int], smallest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "_SMALLEST_LARGE_PX", smallest)
        levels = halved(sides)
    assert max(levels[-1].shape) <= smallest
    assert all(max(level.shape) > smallest for level in levels[:-1])
    for number, level in enumerate(levels):
        factor = 2**number
        assert level.shape == tuple(-(-side // factor) for side in sides)
        for side, places in zip(sides, level, strict=True):
            expected = [min(index * factor + factor // 2, side - 1) for index in range(len(places))]
            assert places.tolist() == expected


@pytest.mark.parametrize(
    ("large", "small", "factor", "expected"),
    [
        (11, 5, 2.0, [1, 3, 5, 7, 9]),
        (11, 6, 2.0, [1, 3, 5, 7, 9, 10]),
        (11, 5, 2.2, [1, 3, 5, 7, 9]),
        (110, 5, 22.0000001, [11, 33, 55, 77, 99]),
        (110, 5, 21.9999999, [11, 33, 55, 77, 99]),
        (11, 5, None, [1, 3, 5, 7, 9]),
        (12, 4, None, [1, 4, 7, 10]),
        (10, 7, None, [0, 2, 3, 5, 6, 7, 9]),
        (12, 4, 1.0, [1, 4, 7, 10]),
        (12, 4, -3.0, [1, 4, 7, 10]),
        (12, 4, float("inf"), [1, 4, 7, 10]),
        (12, 4, float("nan"), [1, 4, 7, 10]),
        (1, 1, 2.0, [0]),
    ],
)
def test_sizes_that_are_stated_and_those_that_cannot_be(
    large: int, small: int, factor: float | None, expected: list[int]
) -> None:
    level = level_of((large, 1), (small, 1), None if factor is None else (factor, 1.0))
    assert level.rows.tolist() == expected
    assert level.columns.tolist() == [0]


# All levels in one pass


@settings(max_examples=60)
@given(SIDES, st.integers(1, 2), st.integers(1, 20), st.integers(1, 40), st.booleans())
@example((64, 64), 1, 16, 16, False)
@example((1, 1), 2, 16, 16, False)
def test_tiles_are_cut_out_of_the_levels(
    sides: tuple[int, int], targets: int, side_px: int, read_px: int, is_uneven: bool
) -> None:
    whole = spotted(targets, *sides)
    result = Pieced(whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "_READ_PX", read_px)
        patch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)
        levels = halved(sides)
        if is_uneven:
            levels = (*levels, level_of(sides, ((sides[0] + 2) // 3, (3 * sides[1] + 4) // 5)))
        tiles = list(tiles_of(result, levels, side_px))
    found = [np.zeros((targets, *level.shape), np.int32) for level in levels]
    for tile in tiles:
        assert tile.labels.any(), "those without objects are left out"
        top, left = tile.row * side_px, tile.column * side_px
        place = found[tile.level][:, top : top + side_px, left : left + side_px]
        assert tile.labels.shape == place.shape
        place[:] = tile.labels
    for labels, level in zip(found, levels, strict=True):
        np.testing.assert_array_equal(labels, taken(planes_of(whole), level))
    assert max(Counter(tile[:3] for tile in tiles).values(), default=1) == 1, "each tile once"
    asked = np.zeros(sides, int)
    for top, left, height, width in result.asked_yxhw:
        assert max(height, width) <= read_px
        asked[top : top + height, left : left + width] += 1
    assert (asked == 1).all(), "each pixel is read once"


def test_tiles_are_given_as_soon_as_what_they_show_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pyramid, "_READ_PX", 32)
    monkeypatch.setattr(pyramid, "_SMALLEST_LARGE_PX", 8)
    result = Pieced(Result.from_labels(np.ones((256, 256), np.int32), np.zeros((1, 256, 256), np.uint8)))
    levels = halved((256, 256))
    given_px = [0] * len(levels)
    for tile in tiles_of(result, levels, 16):
        given_px[tile.level] += tile.labels.size
        read_px = 32 * 32 * len(result.asked_yxhw)
        for number, of_level in enumerate(given_px):
            held = read_px / 4**number - of_level
            assert held <= (32 * 32 if number == 0 else 16 * 16), "what is read last, and one tile of each level"
    assert given_px == [level.shape[0] * level.shape[1] for level in levels]
