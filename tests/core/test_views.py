"""The eight views, the median over them, and labels that turn with the image."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.core.model import Segmenter
from cytoseed.core.network import REACH, STRIDE
from cytoseed.core.views import VIEWS, median, turn, turn_back
from cytoseed.settings import ModelConfig
from ideal import ideal_fields, ideal_segmenter

PICTURE = torch.arange(2 * 3 * 5).view(2, 3, 5)


def test_the_views_are_distinct_and_can_be_turned_back():
    square = torch.arange(9).view(3, 3)
    assert len({tuple(turn(square, view).flatten().tolist()) for view in range(VIEWS)}) == VIEWS
    for view in range(VIEWS):
        assert torch.equal(turn_back(turn(PICTURE, view), view), PICTURE)
        assert turn(PICTURE, view).shape == ((2, 3, 5), (2, 5, 3))[view % 2]


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=9))
def test_the_median_is_the_mean_of_the_middle_two(values):
    own = median(torch.tensor(values)[:, None])
    assert own.item() == pytest.approx(statistics.median(values), rel=1e-5, abs=1e-5)


def test_the_median_of_infinities_is_infinite():
    assert median(torch.full((8, 2), -float("inf"))).tolist() == [-float("inf")] * 2


def views_of(labels: torch.Tensor, model: Segmenter) -> torch.Tensor:
    """Ideal fields of each view's own image, turned back."""
    fields = [ideal_fields(turn(labels, view).contiguous(), model) for view in range(VIEWS)]
    return torch.stack([turn_back(own, view) for view, own in enumerate(fields)])


def test_views_that_agree_give_what_one_view_gives():
    labels = torch.zeros(40, 48, dtype=torch.int64)
    labels[3:12, 4:20], labels[12:30, 6:11], labels[25:38, 30:47] = 1, 2, 3
    model = ideal_segmenter()
    views = views_of(labels, model)
    assert torch.equal(model.labels_of_views(views, model.thresholds)[0, 0].long(), labels)
    for view in range(1, VIEWS):  # a view read as another gives something else
        wrong = model.labels_of_views(views[view : view + 1], model.thresholds)[0, 0].long()
        assert not torch.equal(wrong, labels)


def test_the_median_outweighs_one_wrong_view():
    labels = torch.zeros(32, 32, dtype=torch.int64)
    labels[8:20, 8:20] = 1
    model = ideal_segmenter()
    views = views_of(labels, model)
    views[3, :, :, :2, 10:12, 10:18] = 50.0  # one view puts a part of the object elsewhere
    assert torch.equal(model.labels_of_views(views, model.thresholds)[0, 0].long(), labels)


def test_fields_of_views_turn_with_the_image():
    torch.manual_seed(0)
    model = Segmenter(ModelConfig("x", channels=1)).eval()
    image = torch.rand(1, 1, 32, 64)
    with torch.inference_mode():
        views, turned = model.views(image), model.views(turn(image, 5).contiguous())
    assert views.shape == (VIEWS, 1, 1, 9, 32, 64)
    back = turn_back(turned, 5)
    for one in views:
        assert min((one - other).abs().max() for other in back) < 1e-4


@pytest.mark.parametrize(
    ("name", "size", "start", "end"),
    [
        ("lite", (293, 307), (0, 0), (219, 221)),
        ("lite", (293, 307), (48, 32), (271, 266)),
        ("lite", (293, 307), (80, 80), (293, 307)),
        ("paper", (229, 237), (24, 8), (226, 211)),
    ],
)
def test_a_part_has_the_views_of_the_whole_image(name, size, start, end):
    """A part cut at a multiple of the stride: each view has the phase, and the padding, that it has in the whole."""
    torch.manual_seed(0)
    model = Segmenter(ModelConfig("x", channels=1, network=name)).eval()
    assert start[0] % STRIDE[name] == start[1] % STRIDE[name] == 0
    image, reach = torch.rand(1, 1, *size), REACH[name]
    (top, left), (bottom, right) = start, end
    with torch.inference_mode():
        whole, part = model.views(image), model.views(image[:, :, top:bottom, left:right])
    assert whole.shape[-2:] == size
    above, before = (reach if first else 0 for first in start)  # the image's own edge cuts nothing off
    below, behind = (reach if last < side else 0 for last, side in zip(end, size, strict=True))
    expected = whole[..., top + above : bottom - below, left + before : right - behind]
    found = part[..., above : bottom - top - below, before : right - left - behind]
    assert min(expected.shape[-2:]) > 8
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
