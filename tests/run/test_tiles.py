"""Tiles cover an image, and neighbours are all tiles whose objects can meet."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.run.tiles import GRAIN_PX, Grid

GRIDS = st.builds(
    Grid,
    height=st.integers(1, 1500),
    width=st.integers(1, 1500),
    core_px=st.integers(2, 8).map(lambda times: times * GRAIN_PX),
    margin_px=st.integers(1, 4).map(lambda times: times * GRAIN_PX),
    reach_px=st.sampled_from([96, 112]),
)


def overlap(one, other):
    return all(a < b + d and b < a + c for a, b, c, d in zip(one[:2], other[:2], one[2:], other[2:], strict=True))


@given(GRIDS)
def test_cores_cover_each_pixel_once(grid):
    covered = np.zeros((grid.height, grid.width), np.int32)
    for index in range(grid.tiles):
        tile = grid.tile(index)
        assert tile.number == index
        top, left, height, width = tile.core_yxhw
        covered[top : top + height, left : left + width] += 1
    assert (covered == 1).all()


@given(GRIDS)
def test_boxes_hold_each_other_and_begin_on_the_grain(grid):
    for index in range(grid.tiles):
        tile = grid.tile(index)
        for inner, outer, by in (
            (tile.core_yxhw, tile.objects_yxhw, grid.margin_px),
            (tile.objects_yxhw, tile.input_yxhw, grid.reach_px),
        ):
            for axis, side in enumerate((grid.height, grid.width)):
                begin, end = inner[axis], inner[axis] + inner[axis + 2]
                assert outer[axis] == max(0, begin - by)
                assert outer[axis] + outer[axis + 2] == min(side, end + by)
        assert tile.objects_yxhw[0] % GRAIN_PX == tile.objects_yxhw[1] % GRAIN_PX == 0
        assert tile.input_yxhw[0] % 16 == tile.input_yxhw[1] % 16 == 0


@given(GRIDS, st.data())
def test_neighbours_are_those_whose_objects_can_meet(grid, data):
    index = data.draw(st.integers(0, grid.tiles - 1))
    margin = data.draw(st.sampled_from([64, 256]))
    found = list(grid.neighbours(index, margin))
    assert found == sorted(set(found))
    assert index not in found
    own = grid._replace(margin_px=margin).tile(index).objects_yxhw
    meeting = {
        other
        for other in range(grid.tiles)
        if other != index and overlap(own, grid._replace(margin_px=margin).tile(other).objects_yxhw)
    }
    assert meeting <= set(found)
