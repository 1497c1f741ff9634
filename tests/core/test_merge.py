import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoseed.core.merge import agreeing_seeds, paint
from cytoseed.core.pixels import Maps

stacks = st.integers(0, 6).flatmap(lambda count: arrays(np.bool_, (count, 6, 7)))


def as_maps(masks: np.ndarray, logits: np.ndarray | None = None) -> Maps:
    flat = (len(masks), int(np.prod(masks.shape[1:])))
    seed, pixel = np.nonzero(masks.reshape(flat))
    values = np.ones(len(seed)) if logits is None else logits.reshape(flat)[seed, pixel]
    return Maps(torch.from_numpy(pixel), torch.from_numpy(seed), torch.from_numpy(values.astype(np.float32)))


@given(stacks, st.sampled_from([0.2, 0.5, 0.9, 1.0]))
def test_seeds_agree_by_iou_and_agreement_is_passed_on(masks, threshold):
    count = len(masks)
    group = list(range(count))
    for one in range(count):
        for other in range(one):
            union = (masks[one] | masks[other]).sum()
            common = (masks[one] & masks[other]).sum()
            if common > 0 and common >= np.float32(threshold) * np.float32(union):
                low, high = sorted((group[one], group[other]))
                group = [low if g == high else g for g in group]
    assert agreeing_seeds(as_maps(masks), count, threshold, 42).tolist() == group


@given(st.integers(1, 5).flatmap(lambda n: arrays(np.float32, (n, 5, 6), elements=st.sampled_from([-1, 0, 0.5, 1, 2]))))
def test_paint_is_the_argmax_where_any_logit_is_0_or_more(logits):
    masks = logits >= 0
    count = len(logits)
    painted = paint(as_maps(masks, logits), torch.arange(1, count + 1), 30)[0].view(5, 6).numpy()
    expected = np.where(masks.any(0), np.where(masks, logits, -np.inf).argmax(0) + 1, 0)  # ties: the smaller number
    np.testing.assert_array_equal(painted, expected)


def test_the_union_of_agreeing_maps_has_the_highest_of_their_logits():
    logits = np.array([[[3.0, 1.0, -1.0]], [[1.0, 2.0, 0.5]], [[2.0, 1.5, 0.25]]], np.float32)
    owner = torch.tensor([1, 1, 3])  # the first two are one object
    labels, best = paint(as_maps(logits >= 0, logits), owner, 3)
    assert (labels.tolist(), best.tolist()) == ([1, 1, 1], [3, 2, 0.5])


def test_many_maps_on_one_pixel_still_become_one_object():
    masks = np.ones((40, 3, 3), bool)
    assert agreeing_seeds(as_maps(masks), 40, 0.5, masks[0].size).tolist() == [0] * 40
