"""Resampling beside PyTorch's own and its definition, and parts beside the whole."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch.nn import functional as F

from cytoseed.core.scale import (
    full_box,
    labels_needed,
    part_needed,
    rescale,
    rescale_labels,
    rescale_labels_part,
    rescale_part,
)

labels_images = arrays(np.int32, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(-1, 5))


@st.composite
def boxes(draw, largest=60):
    """Sizes of a small and a full image, and a box of the full one."""
    small = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    full = draw(st.tuples(st.integers(1, largest), st.integers(1, largest)))
    top, left = draw(st.integers(0, full[0] - 1)), draw(st.integers(0, full[1] - 1))
    return small, full, (top, left, draw(st.integers(1, full[0] - top)), draw(st.integers(1, full[1] - left)))


def interpolated(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """PyTorch's resampling, in float64: in float32 it is some 1e-4 px off the place in images of thousands of px."""
    size = (height, width)
    return F.interpolate(image[None].double(), size, mode="bilinear", antialias=True, align_corners=False)[0].float()


@given(st.data())
def test_rescale_is_what_pytorch_computes(data):
    height, new_height = (data.draw(st.integers(1, 70)) for _ in range(2))
    width, new_width = (data.draw(st.integers(2, 70)) for _ in range(2))  # PyTorch 2.13 errs where a width is 1
    image = torch.rand(2, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    expected = interpolated(image, new_height, new_width)
    torch.testing.assert_close(rescale(image, new_height, new_width), expected, atol=1e-5, rtol=0)


def test_a_single_row_or_column_is_resampled_along_itself():
    line = torch.rand(2, 1, 9, generator=torch.Generator().manual_seed(0))
    for size in (4, 20):
        expected = interpolated(line.expand(2, 9, 9), 9, size)[:, :1]
        torch.testing.assert_close(rescale(line, 1, size), expected)
        torch.testing.assert_close(rescale(line.mT, size, 1), expected.mT)


@given(boxes(90), st.tuples(*[st.integers(0, 5)] * 4))
def test_a_part_gives_the_bits_of_the_whole(case, more):
    source, size, (top, left, height, width) = case
    image = torch.rand(2, *source, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
    step = (source[0] / size[0], source[1] / size[1])
    y, x, h, w = part_needed((top, left, height, width), source, step)
    first, last = (max(0, y - more[0]), max(0, x - more[1])), (y + h + more[2], x + w + more[3])
    part = image[:, first[0] : last[0], first[1] : last[1]]
    found = rescale_part(part, first, source, step, (top, left, height, width))
    assert torch.equal(found, rescale(image, *size)[:, top : top + height, left : left + width])


@pytest.mark.parametrize("size", [(1000, 1000), (1199, 801), (2000, 2000), (2901, 2650), (11, 10)])
def test_tiles_of_a_large_image_give_the_bits_of_the_whole(size):
    """Sizes at which the whole is computed in several bands and by several threads."""
    source = (2000, 2000)
    image = torch.rand(3, *source, generator=torch.Generator().manual_seed(0))
    whole, step = rescale(image, *size), (source[0] / size[0], source[1] / size[1])
    torch.testing.assert_close(whole, interpolated(image, *size), atol=1e-5, rtol=0)
    tile = max(4, size[0] // 3)
    for top in range(0, size[0], tile):
        for left in range(0, size[1], tile):
            box = (top, left, min(tile, size[0] - top), min(tile, size[1] - left))
            y, x, h, w = part_needed(box, source, step)
            found = rescale_part(image[:, y : y + h, x : x + w], (y, x), source, step, box)
            assert torch.equal(found, whole[:, top : top + box[2], left : left + box[3]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("size", [(300, 417), (700, 650), (7, 9)])
def test_a_gpu_computes_the_same_and_its_parts_give_the_bits_of_its_whole(size):
    source = (600, 601)
    image = torch.rand(3, *source, generator=torch.Generator().manual_seed(0))
    whole, step = rescale(image.cuda(), *size), (source[0] / size[0], source[1] / size[1])
    assert whole.is_cuda
    torch.testing.assert_close(whole.cpu(), rescale(image, *size), atol=1e-6, rtol=1e-6)
    box = (size[0] // 3, size[1] // 4, size[0] // 2, size[1] // 2)
    y, x, h, w = part_needed(box, source, step)
    found = rescale_part(image.cuda()[:, y : y + h, x : x + w], (y, x), source, step, box)
    assert torch.equal(found, whole[:, box[0] : box[0] + box[2], box[1] : box[1] + box[3]])


def test_a_box_is_weighted_as_the_definition_says():
    """Three source pixels to one: a triangle of 3 px to each side, cut at the image's edge and made whole again."""
    source = torch.arange(9.0).square().expand(1, 1, 9)
    weights = torch.tensor([1.0, 2, 3, 2, 1]) / 9
    middle = rescale_part(source, (0, 0), (1, 9), (1.0, 3.0), (0, 1, 1, 1))
    torch.testing.assert_close(middle, (source[..., 2:7] * weights).sum(-1, keepdim=True))
    first = rescale_part(source, (0, 0), (1, 9), (1.0, 3.0), (0, 0, 1, 1))
    torch.testing.assert_close(first, (source[..., :4] * weights[1:] / weights[1:].sum()).sum(-1, keepdim=True))


def test_a_part_that_is_too_small_is_refused():
    image, step, box = torch.rand(1, 40, 40), (2.0, 2.0), (5, 5, 4, 4)
    y, x, h, w = part_needed(box, (40, 40), step)
    assert (y, x, h, w) == (9, 9, 10, 10)
    enough = image[:, y : y + h, x : x + w]
    assert rescale_part(enough, (y, x), (40, 40), step, box).shape == (1, 4, 4)
    for part, origin in (
        (enough[:, 1:], (y + 1, x)),
        (enough[:, :-1], (y, x)),
        (enough[:, :, 1:], (y, x + 1)),
        (enough[:, :, :-1], (y, x)),
    ):
        with pytest.raises(ValueError, match=r"needs 10 x 10 px from \(9, 9\)"):
            rescale_part(part, origin, (40, 40), step, box)


@pytest.mark.parametrize(
    ("box", "step", "told"),
    [
        ((0, 0, 21, 20), (2.0, 2.0), "reaches beyond the source of 40 px"),
        ((0, 0, 0, 5), (2.0, 2.0), "must be 1 or more"),
        ((0, 0, 5, 5), (0.0, 2.0), "step is 0.0; it must be above 0"),
        ((0, 0, 5, 5), (2.0, float("nan")), "step is nan; it must be above 0"),
    ],
)
def test_impossible_boxes_and_steps_are_refused(box, step, told):
    with pytest.raises(ValueError, match=told):
        part_needed(box, (40, 40), step)


def test_an_output_may_reach_beyond_a_level_cut_to_whole_pixels():
    """Level 250 px wide of an image of 1003: its px count as 4, so the last centre lies at 250.2."""
    level, step = torch.rand(1, 8, 250), (1.0, 1003 / 250 / 4)
    found = rescale_part(level, (0, 0), (8, 250), step, (0, 0, 8, 250))
    assert found.isfinite().all()
    torch.testing.assert_close(found[..., -1], level[..., -1])
    part = rescale_part(level[:, :, 240:], (0, 240), (8, 250), step, (0, 245, 8, 5))
    assert torch.equal(part, found[..., 245:])


@pytest.mark.parametrize("box", [(0, 0, 100, 100), (99, 0, 1, 1), (40, 90, 8, 10)])
def test_an_output_may_reach_beyond_at_the_same_scale(box):
    """A box counts as at the edge up to one px beyond it."""
    source = torch.rand(1, 99, 99)
    found = rescale_part(source, (0, 0), (99, 99), (1.0, 1.0), box)
    top, left, height, width = box
    edge = torch.nn.functional.pad(source, [0, 1, 0, 1], mode="replicate")
    assert torch.equal(found, edge[:, top : top + height, left : left + width])


@given(labels_images, st.integers(1, 20), st.integers(1, 20))
def test_each_new_pixel_has_the_label_at_its_centre(labels, new_height, new_width):
    result = rescale_labels(torch.from_numpy(labels), new_height, new_width)
    assert result.dtype == torch.int32
    height, width = labels.shape[1:]
    for row, column in np.ndindex(new_height, new_width):
        old_row, old_column = (2 * row + 1) * height // (2 * new_height), (2 * column + 1) * width // (2 * new_width)
        np.testing.assert_array_equal(result[:, row, column], labels[:, old_row, old_column])


@given(boxes(), st.integers(0, 3))
def test_a_part_gives_that_box_of_the_whole(case, more):
    small, full, box = case
    labels = torch.arange(2 * small[0] * small[1]).view(2, *small)  # each pixel another value
    y, x, h, w = labels_needed(box, small, full)
    first = max(0, y - more), max(0, x - more)
    part = labels[:, first[0] : y + h + more, first[1] : x + w + more]
    found = rescale_labels_part(part, first, small, full, box)
    top, left, height, width = box
    assert torch.equal(found, rescale_labels(labels, *full)[:, top : top + height, left : left + width])
    assert {found.min().item(), found[1].max().item()} == {
        labels[0, y, x].item(),
        labels[1, y + h - 1, x + w - 1].item(),
    }


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.integers(1, 20),
)
def test_boxes_that_tile_the_small_image_tile_the_full_one(small, full, tile):
    """Each full-size pixel lies in the box of the tile that its centre falls in, and in no other."""
    owner = torch.full(full, -1)
    for number, (top, left) in enumerate((y, x) for y in range(0, small[0], tile) for x in range(0, small[1], tile)):
        box = (top, left, min(tile, small[0] - top), min(tile, small[1] - left))
        y, x, h, w = full_box(box, small, full)
        assert (owner[y : y + h, x : x + w] == -1).all()
        owner[y : y + h, x : x + w] = number
        if h and w:
            needed = labels_needed((y, x, h, w), small, full)
            assert needed[0] >= top
            assert needed[1] >= left
            assert needed[0] + needed[2] <= top + box[2]
            assert needed[1] + needed[3] <= left + box[3]
    assert (owner >= 0).all()


def test_sizes_of_a_slide_stay_exact():
    """Twice the product of two sizes is beyond 32 bits and beyond what float32 counts."""
    small, full = (61_003, 49_999), (122_007, 100_001)
    assert full_box((0, 0, *small), small, full) == (0, 0, *full)
    first, second = full_box((0, 0, 30_000, 49_999), small, full), full_box((30_000, 0, 31_003, 49_999), small, full)
    assert first[2] == second[0]
    assert first[2] + second[2] == full[0]
    box = (122_000, 99_990, 7, 11)
    y, x, h, w = labels_needed(box, small, full)
    part = torch.arange(h * w).view(1, h, w)
    found = rescale_labels_part(part, (y, x), small, full, box)
    assert (y + h, x + w) == small
    assert found[0, -1, -1] == h * w - 1


def test_labels_that_are_too_small_are_refused():
    labels = torch.zeros(1, 20, 20, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"needs 5 x 5 px from \(5, 5\)"):
        rescale_labels_part(labels[:, 6:, 5:], (6, 5), (20, 20), (40, 40), (10, 10, 10, 10))
    with pytest.raises(ValueError, match=r"needs 5 x 5 px from \(5, 5\)"):
        rescale_labels_part(labels[:, 5:, 5:9], (5, 5), (20, 20), (40, 40), (10, 10, 10, 10))
    with pytest.raises(ValueError, match="reaches beyond the full-size image"):
        labels_needed((35, 0, 6, 5), (20, 20), (40, 40))
