import pytest
import torch

from bright import bright_config, bright_segmenter
from cytoseed.core.model import Segmenter, Thresholds
from cytoseed.settings import ModelConfig
from ideal import ideal_fields, ideal_segmenter

SIZES = [(1, 1), (1, 300), (20, 20), (63, 200), (65, 31), (128, 128)]


@pytest.mark.parametrize("size", SIZES)
def test_any_size_gives_labels_of_that_size_and_changes_no_input(size):
    model = bright_segmenter()
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(0))
    before = image.clone()
    labels = model(image)
    assert labels.shape == (2, 1, *size)
    assert labels.dtype == torch.int32
    assert torch.equal(image, before)


@pytest.mark.parametrize("value", [0.0, 1.0, -0.5])
@pytest.mark.parametrize("size", SIZES)
def test_an_image_of_one_value_gives_none_or_one_object(size, value):
    labels = bright_segmenter()(torch.full((1, 1, *size), value))
    assert labels.max() == int(value == 1.0 and size[0] * size[1] >= bright_config().min_size_px)


def test_each_threshold_acts():
    labels = torch.zeros(60, 60, dtype=torch.int64)
    labels[5:9, 5:9], labels[20:40, 20:40] = 1, 2
    model = ideal_segmenter()
    fields = ideal_fields(labels, model)
    assert model.labels(fields, Thresholds(4, 0.5, 0.0, 0.5, 1)).max() == 2
    assert model.labels(fields, Thresholds(4, 0.5, 0.0, 0.5, 17)).max() == 1  # the smaller has 16 pixels
    assert model.labels(fields, Thresholds(4, 1.1, 0.0, 0.5, 1)).max() == 0  # no seed is that high
    assert model.labels(fields, Thresholds(4, 0.5, 1.0, 0.5, 1)).max() == 0  # no logit is that high


def test_several_seeds_in_one_object_are_one_object():
    labels = torch.zeros(80, 80, dtype=torch.int64)
    labels[10:70, 10:70] = 1
    model = ideal_segmenter()
    fields = ideal_fields(labels, model)
    for row, column in [(15, 15), (15, 60), (60, 15), (40, 42)]:
        fields[0, 0, 2, row, column] = 0.9
    found = model.labels(fields, model.thresholds)[0, 0]
    assert torch.equal(found.long(), labels)


@pytest.mark.parametrize("network", ["paper", "lite", "slim"])
def test_fields_are_the_same_with_gradients_and_without(network):
    """Without, they are computed in place."""
    torch.manual_seed(0)
    model = Segmenter(ModelConfig("x", channels=1, network=network, targets=("nuclei", "cells"))).eval()
    image = torch.rand(2, 1, 40, 50)
    with_gradients = model.fields(image)
    assert with_gradients.requires_grad
    with torch.no_grad():
        assert torch.equal(model.fields(image), with_gradients)
