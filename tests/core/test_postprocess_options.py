"""Postprocessing options: each one acts, and the defaults are what `labels` does without options."""

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


def test_without_choices_the_usual_ones_are_taken():
    model = bright_segmenter(targets=("nuclei", "cells"))
    image = torch.rand(60, 70, generator=torch.Generator().manual_seed(1))
    fields = bright_fields(model, image)
    assert model.labels(fields, model.thresholds).max() > 1
    assert torch.equal(
        model.labels(fields, model.thresholds), model.labels(fields, model.thresholds, options=model.default_options)
    )


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


def test_objects_of_a_low_mean_are_left_out():
    labels = torch.zeros(60, 60, dtype=torch.int64)
    labels[5:25, 5:25], labels[30:50, 30:50] = 1, 2
    model = ideal_segmenter()
    fields = ideal_fields(labels, model)
    fields[0, 0, 2][labels == 2] += 0.3
    for threshold, count in [(0.0, 2), (0.3, 2), (0.5, 1), (0.9, 0)]:
        found = model.labels(fields, model.thresholds, model.default_options._replace(mean_threshold=threshold))
        assert found.max() == count
    low = model.labels(fields, model.thresholds, model.default_options._replace(mean_threshold=0.5))[0, 0]
    assert torch.equal(low > 0, labels == 2)


def test_what_is_not_cleaned_keeps_its_pieces_and_holes():
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
def test_objects_smaller_than_the_smallest_are_left_out_cleaned_or_not(clean):
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


def test_targets_that_are_not_wanted_are_left_out():
    model = bright_segmenter(targets=("nuclei", "cells"))
    with torch.no_grad():
        model.classifiers[1].layers[0].bias.fill_(-0.1)  # cells are wider
    image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, 60, 70), 5, 1, 2)[0, 0] * 1.6
    fields, options = bright_fields(model, image), model.default_options
    apart = model.labels(fields, model.thresholds, options._replace(paired=False))
    assert not torch.equal(apart[0, 0] > 0, apart[0, 1] > 0)
    for target in (0, 1):
        wanted = [index == target for index in (0, 1)]
        alone = model.labels(fields, model.thresholds, options._replace(targets=wanted))
        assert alone.shape == (1, 1, 60, 70)
        assert torch.equal(alone[:, 0], apart[:, target])


def test_unpaired_targets_are_numbered_each_by_itself():
    model = bright_segmenter(targets=("nuclei", "cells"))
    image = torch.zeros(40, 60)
    image[5:15, 5:15], image[20:30, 20:30], image[5:15, 40:50] = 1, 1, 1
    fields = bright_fields(model, image)
    fields[0, 0, 3, :16, :16] = 0  # the first has no seed of a nucleus
    paired = model.labels(fields, model.thresholds)[0]
    assert paired[1].unique().tolist() == [0, 1, 2, 3]
    assert paired[0].unique().tolist() == [0, 2, 3]
    apart = model.labels(fields, model.thresholds, model.default_options._replace(paired=False))[0]
    assert apart[0].unique().tolist() == [0, 1, 2]


def test_given_seeds_take_the_place_of_those_found():
    labels = torch.zeros(60, 60, dtype=torch.int64)
    labels[5:25, 5:25], labels[30:50, 30:50] = 1, 2
    model = ideal_segmenter()
    fields = ideal_fields(labels, model)
    one = model.default_options._replace(seeds=torch.tensor([[0, 31, 33]]))
    found = model.labels(fields, model.thresholds, one)[0, 0]
    assert found.max() == 1
    assert torch.equal(found > 0, labels == 2)
    background = torch.tensor([[0, 55, 2]])  # where no map holds its seed
    none = model.default_options._replace(seeds=background)
    assert not (model.labels(fields, model.thresholds, none)[0, 0] > 0)[labels > 0].any()


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
