"""Outlines follow pixel edges: rasterising them gives back exactly the pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from cytoseed.results.outline import Ring, outline


def fill(rings: list[Ring], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill rings of upright and level sides by the even-odd rule: each upright side flips all to its right."""
    inside = np.zeros(shape, bool)
    for ring in rings:
        for (x0, y0), (x1, y1) in itertools.pairwise(ring):
            assert (x0 == x1) != (y0 == y1), "sides are upright or level, and none is empty"
            if x0 == x1:
                inside[min(y0, y1) : max(y0, y1), x0:] ^= True
    return inside


def area(ring: Ring) -> float:
    x, y = np.array(ring, dtype=float).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[letter == "#" for letter in row] for row in rows])


FIGURE_OF_EIGHT = mask("##..", "##..", "..##", "..##")
PINCHED_HOLE = mask(".##", "#.#", "###")
ISLAND_AT_A_CORNER = mask("######", "##...#", "#.#..#", "#...##", "#..###", "######")
TARGET = mask("#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######")

masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9))


@given(masks)
@example(FIGURE_OF_EIGHT)
@example(PINCHED_HOLE)
@example(ISLAND_AT_A_CORNER)
@example(TARGET)
@example(mask("#"))
@example(mask("#.", ".#"))
def test_rasterised_outlines_are_the_mask(shape: NDArray[np.bool_]) -> None:
    polygons = outline(shape)
    np.testing.assert_array_equal(fill([ring for rings in polygons for ring in rings], shape.shape), shape)
    assert len(polygons) == ndimage.label(shape)[1], "a polygon for each piece that is connected by edges"


@given(masks)
@example(FIGURE_OF_EIGHT)
@example(PINCHED_HOLE)
@example(ISLAND_AT_A_CORNER)
@example(TARGET)
def test_polygons_are_valid(shape: NDArray[np.bool_]) -> None:
    for exterior, *holes in outline(shape):
        piece = fill([exterior, *holes], shape.shape)
        assert ndimage.label(piece)[1] == 1
        assert area(exterior) + sum(area(hole) for hole in holes) == piece.sum()
        assert area(exterior) > 0
        for hole in holes:
            assert area(hole) < 0
            assert fill([exterior], shape.shape)[fill([hole], shape.shape)].all()
        for ring in (exterior, *holes):
            assert ring[0] == ring[-1]
            assert len({tuple(corner) for corner in ring}) == len(ring) - 1, "a ring does not touch itself"
            steps = np.diff(np.array([*ring, ring[1]]), axis=0)
            turns = steps[:-1, 0] * steps[1:, 1] - steps[:-1, 1] * steps[1:, 0]
            assert (turns != 0).all(), "corners only"


@given(masks.filter(lambda shape: shape.any()), st.integers(0, 50_000), st.integers(0, 50_000))
def test_the_place_of_the_mask_is_added(shape: NDArray[np.bool_], left: int, top: int) -> None:
    for here, there in zip(outline(shape), outline(shape, left=left, top=top), strict=True):
        for ring, moved in zip(here, there, strict=True):
            assert [[x + left, y + top] for x, y in ring] == moved


@pytest.mark.parametrize("shape", [(0, 0), (3, 4)])
def test_nothing_has_no_outline(shape: tuple[int, int]) -> None:
    assert outline(np.zeros(shape, bool)) == []
