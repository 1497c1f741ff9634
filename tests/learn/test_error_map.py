"""Errors of objects: worked out by hand, and rules that hold for any pair of labellings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from test_metrics import label_pairs, strips

from cytoseed.learn.error_map import find_errors
from cytoseed.learn.metrics import score


@pytest.mark.parametrize(
    ("true", "predicted", "expected"),
    [
        pytest.param(
            *([(1, 4), (0, 1), (2, 4), (0, 5)], [(7, 4), (0, 6), (9, 4)]),
            {"found": [[1, 7]], "missed": [2], "false": [9]},
            id="found, missed and false",
        ),
        pytest.param(
            *([(3, 12), (0, 4)], [(1, 5), (0, 1), (2, 4), (4, 4), (0, 2)]),
            {"split": [3], "parts": [1, 2], "false": [4]},
            id="split in two, and exactly half of 4 in it",
        ),
        pytest.param(
            *([(3, 10)], [(1, 6), (2, 2), (5, 2)]),
            {"found": [[3, 1]], "false": [2, 5]},
            id="crumbs beside a match are not a split",
        ),
        pytest.param(
            *([(1, 5), (2, 5), (3, 2)], [(8, 11), (0, 1)]),
            {"merged": [1, 2], "missed": [3], "merging": [8]},
            id="two merged, and of 3 exactly half is covered",
        ),
        pytest.param(
            *([(1, 9), (2, 3)], [(8, 12)]),
            {"found": [[1, 8]], "merged": [2]},
            id="a small one in the match of a large one is merged",
        ),
        pytest.param(
            *([(1, 11), (2, 5)], [(4, 2), (5, 3), (6, 11)]),
            {"merged": [1, 2], "merging": [6], "false": [4, 5]},
            id="merged goes before split: 6 covers more than half of both",
        ),
        pytest.param(
            *([(1, 20), (2, 4), (3, 4)], [(4, 2), (0, 8), (5, 18)]),
            {"merged": [2, 3], "missed": [1], "merging": [5], "false": [4]},
            id="one that merges others is not a part, even with 10 of its 18 px in 1",
        ),
        pytest.param(
            *([(-1, 6), (1, 6), (-1, 6)], [(4, 5), (0, 4), (5, 3), (6, 6)]),
            {"found": [[1, 5]], "left_out": [4, 6]},
            id="not annotated",
        ),
        pytest.param(*([(-1, 1), (0, 5)], [(4, 3), (0, 3)]), {"false": [4]}, id="less than half not annotated"),
    ],
)
def test_errors_worked_out_by_hand(true, predicted, expected):
    errors = find_errors(strips(*predicted), strips(*true))
    assert {name: ids.tolist() for name, ids in vars(errors).items() if len(ids)} == expected


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
