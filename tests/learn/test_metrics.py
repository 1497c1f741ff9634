"""Our figures beside StarDist's, beside plain loops, and beside sums worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cytoseed.learn.metrics import THRESHOLDS, ImageScore, pool, score


@st.composite
def label_pairs(draw, lowest_true=0):
    """Two label images that agree in part: the second is the first, shifted and painted over with boxes."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    block = draw(st.integers(1, 4))
    coarse = draw(hnp.arrays(np.int32, (height, width), elements=st.integers(lowest_true, 6)))
    true = np.kron(coarse, np.ones((block, block), np.int32))
    predicted = np.roll(np.maximum(true, 0), draw(st.integers(0, 2)), axis=draw(st.integers(0, 1)))
    for image, lowest in ((true, lowest_true), (predicted, 0)):
        for _ in range(draw(st.integers(0, 4))):
            row, column = draw(st.integers(0, height * block - 1)), draw(st.integers(0, width * block - 1))
            size, label = draw(st.integers(1, 8)), draw(st.integers(lowest, 9))
            image[row : row + size, column : column + size] = label
    return predicted, true


def strips(*runs):
    """A label image of one row: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, label, np.int32) for label, length in runs])[None]


def aji_by_loops(predicted, true):
    """Kumar et al. 2017, algorithm 1, object by object on boolean masks."""
    masks = {j: predicted == j for j in np.unique(predicted) if j > 0}
    used, intersection, union = set(), 0, 0
    for i in np.unique(true):
        if i == 0:
            continue
        target = true == i
        best, best_iou = None, 0.0
        for j, mask in masks.items():
            iou = (target & mask).sum() / (target | mask).sum()
            if iou > best_iou:
                best, best_iou = j, iou
        if best is None:
            union += target.sum()
        else:
            used.add(best)
            intersection += (target & masks[best]).sum()
            union += (target | masks[best]).sum()
    union += sum(mask.sum() for j, mask in masks.items() if j not in used)
    return intersection, union


def assert_equals_stardist(ours: ImageScore, theirs):
    for i, result in enumerate(theirs):
        assert (ours.tp[i], ours.fp[i], ours.fn[i]) == (result.tp, result.fp, result.fn)
        if ours.true_objects or ours.predicted_objects:  # StarDist gives two empty images 0
            assert ours.f1_at(result.thresh) == pytest.approx(result.f1)
    if ours.true_objects or ours.predicted_objects:
        names = {"ap": "accuracy", "precision": "precision", "recall": "recall"}
        for name, their_name in (names | {"pq": "panoptic_quality", "sq": "mean_matched_score"}).items():
            assert ours.metrics[name] == pytest.approx(getattr(theirs[0], their_name), rel=1e-5)


@given(st.lists(label_pairs(), min_size=1, max_size=4))
def test_pooled_figures_equal_stardists(pairs):
    from stardist.matching import matching_dataset

    predicted, true = zip(*pairs, strict=True)
    theirs = matching_dataset(true, predicted, thresh=THRESHOLDS, by_image=False, show_progress=False)
    ours = pool(score(*pair) for pair in pairs)
    assert ours.images == len(pairs)
    assert_equals_stardist(ours, theirs)


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_an_iou_equal_to_the_threshold_matches(threshold):
    tenths = round(10 * threshold)
    result = score(strips((1, tenths), (0, 10 - tenths)), strips((1, 10)))
    assert result.f1_at(threshold) == 1
    assert sum(result.tp) == THRESHOLDS.index(threshold) + 1


@given(label_pairs())
def test_aggregated_jaccard_equals_plain_loops(pair):
    result = score(*pair)
    assert (result.aji_intersection, result.aji_union) == aji_by_loops(*pair)


def test_figures_worked_out_by_hand():
    #        true: 1 1 1 1 . 2 2 2 . . 3 3
    #   predicted: . 1 1 1 . . 2 4 4 4 . .  5 5
    true = strips((1, 4), (0, 1), (2, 3), (0, 2), (3, 2), (0, 2))
    predicted = strips((0, 1), (1, 3), (0, 2), (2, 1), (4, 3), (0, 2), (5, 2))
    result = score(predicted, true)
    # IoU: (1,1) 3/4; (2,2) 1/3; (2,4) 1/5; true 3 missed; predicted 4 and 5 used by nobody
    assert (result.tp, result.fp, result.fn) == ((1, 1, 1, 0, 0), (3, 3, 3, 4, 4), (2, 2, 2, 3, 3))
    expected = [2 / 7, 3 / 5 * 2 / 7, 1 / 6, 1 / 4, 1 / 3, 3 / 4 / 3.5, 3 / 4, (3 + 1) / (4 + 3 + 2 + 3 + 2), 10 / 18]
    assert list(result.metrics.values()) == pytest.approx(expected)
    assert (result.true_objects, result.predicted_objects, result.images) == (3, 4, 1)


def test_of_equally_good_predictions_the_lowest_id_is_used():
    true = strips((1, 6), (2, 6))
    # True object 1 has an IoU of 1/6 with both predictions, true object 2 meets only the long one.
    short_first = strips((1, 1), (0, 3), (2, 8))
    long_first = strips((2, 1), (0, 3), (1, 8))
    assert score(short_first, true).metrics["aji"] == pytest.approx((1 + 6) / (6 + 8))
    assert score(long_first, true).metrics["aji"] == pytest.approx((2 + 6) / (12 + 8 + 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
@given(pair=label_pairs())
def test_integer_types_and_gaps_in_ids_do_not_matter(dtype, pair):
    predicted, true = pair
    top = min(np.iinfo(dtype).max, 2**31 - 1) - 9
    far = np.where(predicted > 0, predicted.astype(np.int64) + top, 0).astype(dtype)
    assert score(far, true.astype(dtype)) == score(predicted, true)


@given(label_pairs(lowest_true=-1))
def test_the_truth_itself_scores_one(pair):
    predicted, true = pair
    right, result = score(np.maximum(true, 0), true), score(predicted, true)
    assert set(right.metrics.values()) == {1}
    assert all(0 <= value <= 1 + 1e-12 for value in result.metrics.values())


def test_two_empty_images_score_one_and_one_empty_image_scores_nothing():
    empty, some = np.zeros((3, 3), np.uint8), strips((1, 3), (0, 6)).reshape(3, 3)
    for pair, expected in (((empty, empty), 1), ((some, empty), 0), ((empty, some), 0)):
        assert set(score(*pair).metrics.values()) == {expected}
    assert score(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8)).f1 == 1


def test_pixels_that_nobody_annotated_are_left_out():
    true = strips((1, 4), (-1, 6), (0, 2))
    # 1 reaches into the unknown and matches on what is known; 2 lies there wholly, 3 by more than half
    predicted = strips((1, 6), (2, 2), (3, 2), (3, 1), (0, 1))
    result = score(predicted, true)
    assert (result.tp[-1], result.fp[-1], result.fn[-1]) == (1, 0, 0)
    assert result.metrics["aji"] == 1
    assert result.metrics["dice"] == pytest.approx(2 * 4 / (4 + 4 + 1))
    half, more = (score(strips(*runs), strips((-1, 2), (0, 2))) for runs in ([(1, 4)], [(1, 3), (0, 1)]))
    assert (half.fp[0], more.fp[0], more.f1) == (1, 0, 1)  # exactly half on unknown pixels still counts


def test_many_objects_need_little_memory():
    # 65,536 objects a side: a dense table of pairs would take 34 GB
    ids = np.arange(1, 256 * 256 + 1, dtype=np.int32).reshape(256, 256)
    result = score(ids.T.copy(), ids)
    assert result.f1_mean == 1
    assert result.true_objects == 65536


def test_a_threshold_without_counts_and_nothing_to_pool_are_refused():
    with pytest.raises(ValueError, match=r"threshold is 0\.55.*0\.5, 0\.6"):
        score(strips((1, 2)), strips((1, 2))).f1_at(0.55)
    with pytest.raises(ValueError, match="scores is empty"):
        pool([])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda good: (good.astype(float), good), TypeError, "predicted is float64"),
        (lambda good: (good, good.tolist()), TypeError, "true is list"),
        (lambda good: (good, good[None]), ValueError, r"true has shape \(1, 2, 2\)"),
        (lambda good: (good, good[:, :1]), ValueError, r"\(2, 2\) and true has \(2, 1\)"),
        (lambda good: (good - 1, good), ValueError, "predicted holds -1"),
        (lambda good: (good + 2**32, good), ValueError, "predicted holds 4294967296"),
    ],
)
def test_wrong_arrays_are_refused(change, error, message):
    with pytest.raises(error, match=message):
        score(*change(np.zeros((2, 2), np.int64)))
