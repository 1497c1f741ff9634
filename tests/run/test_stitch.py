"""Stitching: worked examples, and a labelling cut into tiles comes back."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoseed.results.objects import Objects, pack_masks
from cytoseed.run.stitch import stitch
from cytoseed.run.tiles import Grid

PAIR = Grid(height=128, width=256, core_px=128, margin_px=64, reach_px=0)  # two tiles, side by side


def made(*found):
    """Objects from (mask of the whole image, score, owned)."""
    boxes, masks = [], []
    for mask, _, _ in found:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((rows[0], columns[0], rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
        masks.append(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return Objects(
        target=np.zeros(len(found), np.uint8),
        box_yxhw=np.array(boxes, np.int64).reshape(-1, 4),
        bits=pack_masks(masks),
        score=np.array([score for _, score, _ in found], np.float32),
        is_owned=np.array([owned for _, _, owned in found], bool),
        numbers=np.zeros((len(found), 0)),
        columns=np.zeros(0, np.str_),
        is_count=np.zeros(0, bool),
        left_out_yxhw=np.zeros((0, 4), np.int64),
    )


def paired(*found):
    """Objects from (mask, score, owned, partner): first nuclei, which have a partner behind them, then cells."""
    objects = made(*[(mask, score, owned) for mask, score, owned, _ in found])
    partner = np.array([other for *_, other in found], np.int64)
    target = (partner >= 0) & (partner < np.arange(len(found)))
    return replace(objects, target=target.astype(np.uint8), partner=partner)


def box(top, left, height, width, grid=PAIR):
    mask = np.zeros((grid.height, grid.width), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def kept_of(first, second):
    tiles = [first, second]
    found, trimmed = stitch(PAIR, 64, tiles.__getitem__, 0.5)
    by_tile = [found.place[start:end].tolist() for start, end in pairwise(found.first.tolist())]
    return by_tile, found, trimmed


def test_an_owned_object_is_kept_once():
    near_border = box(10, 120, 10, 20)
    by_tile, found, trimmed = kept_of(
        made((box(50, 20, 9, 9), 0.9, True), (near_border, 0.8, False)), made((near_border, 0.8, True))
    )
    assert by_tile == [[0], [0]]
    assert found.first.tolist() == [0, 1, 2]
    assert found.id.tolist() == [1, 2]
    assert not trimmed


def test_of_an_object_with_two_owners_the_higher_score_is_kept():
    one, other = box(10, 120, 10, 20), box(10, 120, 10, 19)
    assert kept_of(made((one, 0.8, True)), made((other, 0.9, True)))[0] == [[], [0]]
    assert kept_of(made((one, 0.9, True)), made((other, 0.8, True)))[0] == [[0], []]
    assert kept_of(made((one, 0.8, True)), made((other, 0.8, True)))[0] == [[0], []]


def test_an_object_without_owner_is_kept_once():
    orphan = box(10, 120, 10, 20)
    assert kept_of(made((orphan, 0.8, False)), made((orphan, 0.8, False)))[0] == [[0], []]
    assert kept_of(made(), made((orphan, 0.8, False)))[0] == [[], [0]]


def test_an_object_without_owner_is_dropped_or_trimmed_where_it_is_covered():
    orphan = box(10, 120, 10, 20)
    assert kept_of(made((orphan, 0.9, False)), made((box(10, 130, 10, 20), 0.7, True)))[0] == [[], [0]]
    by_tile, _found, trimmed = kept_of(made((orphan, 0.9, False)), made((box(10, 135, 10, 20), 0.7, True)))
    assert by_tile == [[0], [0]]
    (trimmed,) = trimmed
    assert (trimmed.tile, trimmed.place, trimmed.box_yxhw) == (0, 0, (10, 120, 10, 15))
    assert trimmed.mask.all()


def test_of_two_overlapping_objects_the_lower_score_is_trimmed_to_one_piece():
    tall = box(10, 120, 30, 10)
    across = box(30, 115, 4, 40)  # cuts the tall one in two, the upper part the larger
    by_tile, _found, trimmed = kept_of(made((tall, 0.6, True)), made((across, 0.9, True)))
    assert by_tile == [[0], [0]]
    (trimmed,) = trimmed
    assert trimmed.box_yxhw == (10, 120, 20, 10)


def test_an_object_wholly_inside_a_better_one_vanishes():
    by_tile, _found, trimmed = kept_of(made((box(20, 125, 3, 3), 0.5, True)), made((box(10, 120, 40, 30), 0.9, True)))
    assert by_tile == [[], [0]]
    assert not trimmed


def test_targets_do_not_compete():
    first = made((box(10, 120, 10, 20), 0.8, True))
    second = made((box(10, 120, 10, 20), 0.9, True))
    second.target[:] = 1
    assert kept_of(first, second)[0] == [[0], [0]]


NUCLEUS, CELL = box(14, 124, 6, 8), box(10, 118, 14, 20)  # across the border


def numbered(first, second):
    """Which of each tile's objects are kept, and their ids."""
    by_tile, found, _trimmed = kept_of(first, second)
    ids = iter(found.id.tolist())
    return [[(place, next(ids)) for place in of_tile] for of_tile in by_tile]


def test_a_nucleus_has_the_id_of_its_cell():
    alone, lone_cell = (box(60, 10, 5, 5), 0.9, True, -1), (box(90, 9, 9, 9), 1, True, -1)
    first = paired(alone, (NUCLEUS, 0.9, True, 2), (CELL, 0.9, True, 1), lone_cell)
    first.target[3] = 1
    second = paired((box(60, 200, 5, 5), 0.9, True, -1))
    assert numbered(first, second) == [[(1, 1), (0, 3), (2, 1), (3, 2)], [(0, 4)]]


def test_a_pair_with_two_owners_is_kept_once():
    """By the score of the cell, whatever that of the nucleus is."""
    low, high = ((NUCLEUS, 0.9, True, 1), (CELL, 0.7, True, 0)), ((NUCLEUS, 0.5, True, 1), (CELL, 0.8, True, 0))
    assert numbered(paired(*low), paired(*high)) == [[], [(0, 1), (1, 1)]]
    assert numbered(paired(*high), paired(*low)) == [[(0, 1), (1, 1)], []]
    assert numbered(paired(*low), paired(*low)) == [[(0, 1), (1, 1)], []]


def test_a_pair_wins_over_single_objects():
    """As where one tile sees the cell whole, and another only its nucleus."""
    pair = paired((NUCLEUS, 0.5, True, 1), (CELL, 0.5, True, 0))
    alone = made((NUCLEUS, 0.9, True))
    assert numbered(alone, pair) == [[], [(0, 1), (1, 1)]]
    assert numbered(pair, alone) == [[(0, 1), (1, 1)], []]
    lone_cell = paired((CELL, 0.9, True, -1))
    lone_cell.target[:] = 1
    assert numbered(lone_cell, pair) == [[], [(0, 1), (1, 1)]]


def test_a_pair_without_owner_is_kept_once():
    pair = paired((NUCLEUS, 0.9, False, 1), (CELL, 0.7, False, 0))
    assert numbered(pair, pair) == [[(0, 1), (1, 1)], []]
    assert numbered(paired(), pair) == [[], [(0, 1), (1, 1)]]


def test_a_nucleus_may_lose_its_cell():
    pair = paired((NUCLEUS, 0.9, True, 1), (CELL, 0.7, True, 0))
    other = paired((box(60, 140, 6, 6), 0.9, True, 1), (box(9, 117, 16, 22), 0.8, True, 0))
    assert numbered(pair, other) == [[(0, 1)], [(0, 2), (1, 2)]]


def test_a_trimmed_cell_keeps_its_nucleus():
    pair = paired((NUCLEUS, 0.9, True, 1), (CELL, 0.7, True, 0))
    other = paired((box(12, 140, 6, 6), 0.9, True, 1), (box(10, 134, 14, 30), 0.8, True, 0))
    by_tile, found, trimmed = kept_of(pair, other)
    assert (by_tile, found.id.tolist()) == ([[0, 1], [0, 1]], [1, 1, 2, 2])
    assert [(one.tile, one.place) for one in trimmed] == [(0, 1)]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([64, 128, 192]), st.booleans())
def test_a_labelling_cut_into_tiles_comes_back(seed, core, wrong_owners):
    """Also where rounding gives objects on a border to no tile, or to two."""
    rng = np.random.default_rng(seed)
    grid = Grid(height=300, width=260, core_px=core, margin_px=64, reach_px=0)
    masks = []
    for top in range(0, 290, 18):
        for left in range(0, 250, 18):
            if rng.random() < 0.6:
                height, width = rng.integers(3, 18, 2)
                masks.append(box(top, left, min(height, 300 - top), min(width, 260 - left), grid))
    tiles = [[] for _ in range(grid.tiles)]
    for mask in masks:
        rows, columns = np.nonzero(mask)
        peak = rows[len(rows) // 2], columns[len(columns) // 2]
        owner = peak[0] // core * grid.columns + peak[1] // core
        touched = {int(r // core * grid.columns + c // core) for r, c in zip(rows, columns, strict=True)}
        owners = {owner}
        if wrong_owners and len(touched) > 1:
            owners = set(rng.permutation(sorted(touched))[: rng.integers(0, 3)].tolist())
        for tile in touched | owners:
            tiles[tile].append((mask, 0.5 + 0.1 * rng.random(), tile in owners))
    objects = [made(*of_tile) for of_tile in tiles]
    found, trimmed = stitch(grid, 64, objects.__getitem__, 0.5)
    assert found.first[-1] == len(masks) == len(found.place)
    assert found.id.tolist() == list(range(1, len(masks) + 1))
    assert not trimmed
    canvas = np.zeros((1, 300, 260), np.int32)
    for tile, (start, end) in enumerate(pairwise(found.first.tolist())):
        chosen = objects[tile].take(found.place[start:end])
        chosen.paint(canvas, (0, 0, 300, 260), found.id[start:end])
    assert len(np.unique(canvas)) == len(masks) + 1
    for mask in masks:
        assert len(np.unique(canvas[0][mask])) == 1
