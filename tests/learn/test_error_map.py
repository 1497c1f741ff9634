"""Verdicts on objects: worked out by hand, and rules that hold for any pair of labellings."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.learn.error_map import find_errors
from cytoseed.learn.metrics import score


def strips(*runs):
    """A label image of one row: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, label, np.int32) for label, length in runs])[None]


def verdicts(predicted, true):
    """Verdicts that are not empty."""
    errors = find_errors(predicted, true)
    return {name: ids.tolist() for name, ids in vars(errors).items() if len(ids)}


def test_a_found_a_missed_and_a_false_object():
    true = strips((1, 4), (0, 1), (2, 4), (0, 5))
    predicted = strips((7, 4), (0, 6), (9, 4))
    assert verdicts(predicted, true) == {"found": [[1, 7]], "missed": [2], "false": [9]}


def test_an_object_split_in_three():
    true = strips((3, 12), (0, 4))
    predicted = strips((1, 5), (0, 1), (2, 4), (4, 4), (0, 2))  # 4 has exactly half of itself in 3
    assert verdicts(predicted, true) == {"split": [3], "parts": [1, 2], "false": [4]}


def test_crumbs_beside_a_match_are_no_split():
    assert verdicts(strips((1, 6), (2, 2), (5, 2)), strips((3, 10))) == {"found": [[3, 1]], "false": [2, 5]}


def test_two_objects_merged():
    true = strips((1, 5), (2, 5), (3, 2))
    predicted = strips((8, 11), (0, 1))  # of 3 exactly half is covered
    assert verdicts(predicted, true) == {"merged": [1, 2], "missed": [3], "merging": [8]}


def test_a_small_object_swallowed_by_the_match_of_a_large_one_is_merged():
    assert verdicts(strips((8, 12)), strips((1, 9), (2, 3))) == {"found": [[1, 8]], "merged": [2]}


def test_merged_goes_before_split():
    true = strips((1, 11), (2, 5))
    predicted = strips((4, 2), (5, 3), (6, 11))  # 6 covers more than half of both; 4 and 5 lie in the first
    assert verdicts(predicted, true) == {"merged": [1, 2], "merging": [6], "false": [4, 5]}


def test_an_object_that_merges_others_is_no_part():
    true = strips((1, 20), (2, 4), (3, 4))
    predicted = strips((4, 2), (0, 8), (5, 18))  # 10 of 5's 18 lie in 1, and it covers 2 and 3
    assert verdicts(predicted, true) == {"merged": [2, 3], "missed": [1], "merging": [5], "false": [4]}


def test_pixels_that_nobody_annotated_are_left_out():
    true = strips((-1, 6), (1, 6), (-1, 6))
    predicted = strips((4, 5), (0, 4), (5, 3), (6, 6))
    assert verdicts(predicted, true) == {"found": [[1, 5]], "left_out": [4, 6]}
    assert verdicts(strips((4, 3), (0, 3)), strips((-1, 1), (0, 5))) == {"false": [4]}


@st.composite
def label_pairs(draw, lowest_true=0):
    """Label images of few, large, overlapping boxes: merges and splits are common."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    images = []
    for lowest in (0, lowest_true):
        image = draw(hnp.arrays(np.int32, shape, elements=st.integers(lowest, 4), fill=st.just(0)))
        for _ in range(draw(st.integers(0, 6))):
            row, column = draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))
            height, width = draw(st.integers(1, 8)), draw(st.integers(1, 8))
            image[row : row + height, column : column + width] = draw(st.integers(lowest, 12))
        images.append(image)
    return images[0], images[1]


def ids(labels):
    return np.unique(labels[labels > 0]).tolist()


@given(label_pairs(lowest_true=-1))
def test_every_object_has_exactly_one_verdict(pair):
    predicted, true = pair
    errors = find_errors(predicted, true)
    of_true = [errors.found[:, 0], errors.merged, errors.split, errors.missed]
    of_predicted = [errors.found[:, 1], errors.left_out, errors.merging, errors.parts, errors.false]
    assert sorted(np.concatenate(of_true).tolist()) == ids(true)
    assert sorted(np.concatenate(of_predicted).tolist()) == ids(predicted)
    assert all((np.diff(some) > 0).all() for some in (*of_true, *of_predicted[1:]))


@given(label_pairs(lowest_true=-1))
def test_verdicts_add_up_to_the_scores_counts(pair):
    errors, counts = find_errors(*pair), score(*pair)
    assert len(errors.found) == counts.tp[0]
    assert len(errors.missed) + len(errors.split) + len(errors.merged) == counts.fn[0]
    assert len(errors.false) + len(errors.parts) + len(errors.merging) == counts.fp[0]


@given(label_pairs())
def test_the_rules_in_plain_loops(pair):
    predicted, true = pair
    errors = find_errors(predicted, true)

    def covered_by(host):
        return [i for i in ids(true) if 2 * np.sum((true == i) & (predicted == host)) > np.sum(true == i)]

    def lies_in(part, whole):
        return 2 * np.sum((predicted == part) & (true == whole)) > np.sum(predicted == part)

    for host in errors.merging:
        assert len(covered_by(host)) > 1
        assert set(covered_by(host)) <= set(errors.merged)
    for swallowed in errors.merged:
        assert any(swallowed in hosted and len(hosted) > 1 for hosted in map(covered_by, ids(predicted)))
    for whole in errors.split:
        assert sum(lies_in(part, whole) for part in errors.parts) > 1
    for part in errors.parts:
        assert sum(lies_in(part, whole) for whole in errors.split) == 1
    for lone in errors.missed:
        assert sum(lies_in(other, lone) for other in errors.false) < 2
