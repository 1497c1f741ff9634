"""Normalisation beside its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, from_dtype

from cytoseed.core.prepare import (
    fit_channels,
    normalise,
    percentile_ranks,
    percentiles,
    percentiles_of_counts,
    scale_intensity,
)

shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 60))
real_types = st.sampled_from([np.uint8, np.int16, np.int32, np.float32, np.float64]).map(np.dtype)


def values(dtype: np.dtype) -> st.SearchStrategy:
    if dtype.kind == "f":
        return st.floats(-1e6, 1e6, width=32)
    return from_dtype(dtype, min_value=max(-9999, np.iinfo(dtype).min), max_value=min(9999, np.iinfo(dtype).max))


images = st.tuples(real_types, shapes).flatmap(lambda kind: arrays(kind[0], kind[1], elements=values(kind[0])))


def ranked(channel: np.ndarray, share: float) -> float:
    """The value at a share of the way through the sorted pixels, by the nearest rank."""
    ordered = np.sort(channel, axis=None)
    return float(ordered[round(share * (ordered.size - 1))])


def reference(image: np.ndarray) -> np.ndarray:
    """`normalise` by its definition, channel by channel, in double precision."""
    result = np.zeros(image.shape)
    for channel, out in zip(image.astype(np.float32).astype(np.float64), result, strict=True):
        low, high = ranked(channel, 0.001), ranked(channel, 0.999)
        if low == high:
            low, high = channel.min(), channel.max()
        if low < high:
            out[:] = np.clip((channel - low) / (high - low), -0.5, 1.5)
    return result


@given(images)
def test_percentiles_are_values_at_the_nearest_rank(image):
    low, high = percentiles(torch.from_numpy(image))
    assert low.dtype == high.dtype == torch.float32
    for channel, least, most in zip(image.astype(np.float32), low.tolist(), high.tolist(), strict=True):
        ends = ranked(channel, 0.001), ranked(channel, 0.999)
        assert (least, most) == (ends if ends[0] < ends[1] else (channel.min(), channel.max()))


@given(st.one_of(st.integers(1, 10**13), st.integers(0, 10**9).map(lambda thousands: 1000 * thousands + 501)))
def test_ranks_are_the_nearest_and_of_two_the_even(count):
    assert percentile_ranks(count) == (1 + round(0.001 * (count - 1)), 1 + round(0.999 * (count - 1)))


@given(
    arrays(st.sampled_from([np.uint8, np.int16, np.uint16]), shapes, elements=st.integers(0, 120)), st.integers(-70, 0)
)
def test_percentiles_of_counts_are_those_of_the_pixels(image, lowest):
    image = image.astype(np.int32) + lowest
    counts = np.stack([np.bincount(channel.ravel() - lowest, minlength=150) for channel in image])
    of_counts = percentiles_of_counts(torch.from_numpy(counts), lowest)
    for one, other in zip(of_counts, percentiles(torch.from_numpy(image)), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_counts_may_be_more_than_32_bits_hold():
    counts = torch.zeros(1, 256, dtype=torch.int64)
    counts[0, 10], counts[0, 20], counts[0, 30] = 10**9, 10**12, 2 * 10**9
    assert [value.item() for value in percentiles_of_counts(counts)] == [20, 30]
    assert [value.item() for value in percentiles_of_counts(counts, -25)] == [-5, 5]


@pytest.mark.parametrize("counts", [torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64)])
def test_counts_of_no_pixels_are_refused(counts):
    with pytest.raises(ValueError, match="channel 0 has no pixels"):
        percentiles_of_counts(counts)


@given(images)
def test_normalise_is_its_definition(image):
    before = image.copy()
    result = normalise(torch.from_numpy(image))
    assert result.dtype == torch.float32
    assert result.shape == image.shape
    np.testing.assert_allclose(result.numpy(), reference(image), atol=1e-4)
    np.testing.assert_array_equal(image, before)


def test_normalise_clips_what_lies_far_outside():
    image = torch.arange(10_000.0).view(1, 100, 100)
    image[0, 0, 0], image[0, 99, 99] = -1e6, 1e6
    result = normalise(image)
    assert (result.min(), result.max()) == (-0.5, 1.5)


def test_minimum_and_maximum_where_nearly_all_pixels_are_equal():
    image = torch.full((1, 100, 100), 50, dtype=torch.int32)
    image[0, 3, 4:9] = 90
    image[0, 60, 60] = 10
    low, high = percentiles(image)
    assert (low.item(), high.item()) == (10, 90)
    result = normalise(image)
    assert result[0, 3, 5] == 1
    assert result[0, 60, 60] == 0
    assert result[0, 0, 0] == 0.5


def test_scale_intensity_takes_a_batch():
    image = torch.rand(4, 3, 5, 6)
    low, high = torch.rand(4, 3) * 0.4, torch.rand(4, 3) * 0.4 + 0.5
    together = scale_intensity(image, low, high)
    for index in range(4):
        assert torch.equal(together[index], scale_intensity(image[index], low[index], high[index]))


def test_fit_channels():
    grey, colour = torch.rand(1, 4, 5), torch.rand(3, 4, 5)
    assert torch.equal(fit_channels(grey, 3), torch.cat([grey] * 3))
    assert fit_channels(colour, 3) is colour
    for present, wanted, told in ((2, 3, "3 or 1"), (3, 1, "1"), (4, 3, "3 or 1")):
        with pytest.raises(ValueError, match=f"{present} channels, the model takes {told}: "):
            fit_channels(torch.zeros(present, 4, 5), wanted)
