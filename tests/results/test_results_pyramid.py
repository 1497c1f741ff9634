"""Levels of label images: which pixels they take, and tiles of all of them in one pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from pieced import Pieced

from cytoseed.results import Result, pyramid
from cytoseed.results.pyramid import halved, level_of, tiles_of

SIDES = st.tuples(st.integers(1, 90), st.integers(1, 90))


# Which pixels


@pytest.mark.parametrize(
    ("large", "small", "factor", "expected"),
    [
        (11, 5, 2.0, [1, 3, 5, 7, 9]),
        (11, 6, 2.0, [1, 3, 5, 7, 9, 10]),
        (11, 5, 2.2, [1, 3, 5, 7, 9]),
        (110, 5, 22.0000001, [11, 33, 55, 77, 99]),
        (110, 5, 21.9999999, [11, 33, 55, 77, 99]),
        (11, 5, 1.0, [1, 3, 5, 7, 9]),
        (12, 4, 1.0, [1, 4, 7, 10]),
        (10, 7, 1.0, [0, 2, 3, 5, 6, 7, 9]),
        (12, 4, -3.0, [1, 4, 7, 10]),
        (12, 4, float("inf"), [1, 4, 7, 10]),
        (12, 4, float("nan"), [1, 4, 7, 10]),
        (1, 1, 2.0, [0]),
    ],
)
def test_sizes_that_are_stated_and_those_that_cannot_be(
    large: int, small: int, factor: float, expected: list[int]
) -> None:
    level = level_of((large, 1), (small, 1), (factor, 1.0))
    assert level.rows.tolist() == expected
    assert level.columns.tolist() == [0]


# All levels in one pass


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
