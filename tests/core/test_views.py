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


def test_the_median_of_what_lies_outside_is_outside():
    assert median(torch.full((8, 2), -float("inf"))).tolist() == [-float("inf")] * 2


def test_views_that_agree_give_what_one_view_gives():
    """Fields made for each view's own image, turned back: the same objects as from one view."""
    labels = torch.zeros(40, 48, dtype=torch.int64)
    labels[3:12, 4:20], labels[12:30, 6:11], labels[25:38, 30:47] = 1, 2, 3
    model = ideal_segmenter()
    views = torch.stack(
        [turn_back(ideal_fields(turn(labels, view).contiguous(), model), view) for view in range(VIEWS)]
    )
    assert torch.equal(model.labels_of_views(views, model.thresholds)[0, 0].long(), labels)
    for view in range(1, VIEWS):  # a view's coordinates read in another's way give something else
        wrong = model.labels_of_views(views[view : view + 1], model.thresholds)[0, 0].long()
        assert not torch.equal(wrong, labels)


def test_a_view_of_the_median_outweighs_a_single_fault():
    labels = torch.zeros(32, 32, dtype=torch.int64)
    labels[8:20, 8:20] = 1
    model = ideal_segmenter()
    views = torch.stack(
        [turn_back(ideal_fields(turn(labels, view).contiguous(), model), view) for view in range(VIEWS)]
    )
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
    """Odd sizes, and a part cut at a multiple of the stride: each view has the phase it has in the whole image."""
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


def test_padding_of_turned_views_is_at_the_lower_and_right_edge():
    """Each view of an odd image is that of the same image with its last row and column repeated."""
    torch.manual_seed(0)
    model = Segmenter(ModelConfig("x", channels=1)).eval()
    image = torch.rand(1, 1, 21, 30)
    repeated = torch.cat([image, image[:, :, -1:].expand(-1, -1, 11, -1)], 2)
    repeated = torch.cat([repeated, repeated[..., -1:].expand(-1, -1, -1, 2)], 3)
    with torch.inference_mode():
        torch.testing.assert_close(model.views(image), model.views(repeated)[..., :21, :30], atol=1e-5, rtol=0)
