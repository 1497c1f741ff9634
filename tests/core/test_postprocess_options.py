"""Postprocessing options; that each one acts, exported or not, is tested in export/test_torchscript_options.py."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bright import bright_segmenter
from cytoseed.core.merge import confident_objects
from ideal import ideal_fields, ideal_segmenter


def bright_fields(model, image):
    return model.fields(image[None, None])


@given(
    arrays(np.int64, (2, 5, 6), elements=st.integers(0, 3)),
    arrays(np.float32, (2, 5, 6), elements=st.sampled_from([0, 0.25, 0.5, 1])),
    st.sampled_from([0.25, 0.5, 0.75]),
)
def test_confident_objects_have_that_mean_or_more(labels, seed_map, threshold):
    left = confident_objects(torch.from_numpy(labels), torch.from_numpy(seed_map), 3, threshold).numpy()
    for value in range(1, 4):
        own = labels == value
        keeps = own.any() and seed_map[own].sum() >= threshold * own.sum()
        np.testing.assert_array_equal(left == value, own if keeps else np.zeros_like(own))


def test_without_cleaning_objects_keep_pieces_and_holes():
    image = torch.zeros(60, 60)
    image[10:22, 10:22] = 1
    image[14:17, 18:20] = 0  # a hole away from the seed
    image[10:22, 24:26] = 1  # a piece apart from it, too small for a seed of its own
    image[16, 13] = 1.5
    model = bright_segmenter()
    thresholds = model.thresholds._replace(seed_threshold=1.2)
    fields = bright_fields(model, image)
    cleaned = model.labels(fields, thresholds)[0, 0] > 0
    as_they_are = model.labels(fields, thresholds, model.default_options._replace(clean=False))[0, 0] > 0
    wanted = torch.zeros(60, 60, dtype=torch.bool)
    wanted[10:22, 10:22] = True
    assert torch.equal(cleaned, wanted)
    assert torch.equal(as_they_are, image > 0.5)


@pytest.mark.parametrize("clean", [True, False])
def test_small_objects_are_left_out(clean):
    image = torch.zeros(60, 60)
    image[5:10, 5:10], image[45:55, 45:55] = 1, 1
    model = bright_segmenter()
    for smallest, count in [(4, 2), (25, 2), (26, 1), (101, 0)]:
        found = model.labels(
            bright_fields(model, image),
            model.thresholds._replace(min_size_px=smallest),
            model.default_options._replace(clean=clean),
        )
        assert found.max() == count


def test_a_given_seed_in_the_background_makes_no_object():
    labels = torch.zeros(60, 60, dtype=torch.int64)
    labels[5:25, 5:25], labels[30:50, 30:50] = 1, 2
    model = ideal_segmenter()
    options = model.default_options._replace(seeds=torch.tensor([[0, 55, 2]]))  # where no map holds its seed
    assert not (model.labels(ideal_fields(labels, model), model.thresholds, options)[0, 0] > 0)[labels > 0].any()


@pytest.mark.parametrize("window", [8, 24, 100, 600])
def test_the_first_window_changes_nothing_up_to_the_largest(window):
    labels = torch.zeros(150, 150, dtype=torch.int64)
    labels[5:14, 5:14], labels[20:120, 30:130] = 1, 2
    model = ideal_segmenter()
    fields = ideal_fields(labels, model)
    found = model.labels(fields, model.thresholds, model.default_options._replace(window_px=window))[0, 0]
    assert torch.equal(found.long(), labels)


def test_a_larger_first_window_holds_objects_beyond_the_largest():
    labels = torch.zeros(160, 160, dtype=torch.int64)
    labels[10:150, 10:150] = 1
    model = ideal_segmenter(max_window_px=64)
    fields = ideal_fields(labels, model)
    assert (model.labels(fields, model.thresholds) > 0).sum() < (labels > 0).sum()
    wide = model.default_options._replace(window_px=200)
    assert torch.equal(model.labels(fields, model.thresholds, wide)[0, 0].long(), labels)
