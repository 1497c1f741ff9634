"""Stains: varied alike in an image and its palette, and made up within range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from cytoseed.learn.stain_augment import BatchRandom, synthetic_section, vary_stain

CPU = torch.device("cpu")


def batch_random(count: int, seed: int = 0) -> BatchRandom:
    return BatchRandom(torch.Generator().manual_seed(seed), CPU, count)


def section(count: int = 6, side: int = 16) -> torch.Tensor:
    """Pixels of two stains in random amounts, 0 to 1, where 1 is no stain."""
    generator = torch.Generator().manual_seed(7)
    amounts = torch.rand(count, 2, side, side, generator=generator)
    colours = F.normalize(torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]]), dim=1)
    return (-torch.einsum("nshw,sc->nchw", amounts, colours)).exp()


def density(image: torch.Tensor) -> torch.Tensor:
    return -((image.flatten(2) * 255 + 1) / 256).log()


def test_what_is_not_stained_stays_as_it_is():
    image, palette = section(), section(side=8).flatten(2)
    stained = torch.tensor([True, False] * 3)
    before = image.clone(), palette.clone()
    changed, changed_palette = vary_stain(image, palette, stained, batch_random(6))
    assert torch.equal(changed[~stained], image[~stained])
    assert torch.equal(changed_palette[~stained], palette[~stained])
    assert not torch.allclose(changed[stained], image[stained], atol=0.02)
    assert torch.equal(image, before[0])
    assert torch.equal(palette, before[1])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_of_other_than_three_channels_stay_as_they_are(channels):
    image, palette = torch.rand(2, channels, 8, 8), torch.rand(2, channels, 30)
    changed, changed_palette = vary_stain(image, palette, torch.tensor([True, True]), batch_random(2))
    assert changed is image
    assert changed_palette is palette
    assert synthetic_section(image, torch.zeros(2, 8, 8, dtype=torch.int64), batch_random(2)) is image


@settings(max_examples=25)
@given(st.integers(0, 1000))
def test_image_and_palette_get_the_same_mixture_of_the_three_densities(seed):
    """One 3 x 3 matrix for each image: what was alike stays alike, and twice the stain is twice as dense."""
    image = section()
    changed, palette = vary_stain(image, image.flatten(2), torch.ones(6, dtype=torch.bool), batch_random(6, seed))
    assert changed.shape == image.shape
    assert changed.min() > 0
    torch.testing.assert_close(palette, changed.flatten(2), rtol=1e-5, atol=1e-6)
    before, after = density(image), -changed.flatten(2).log()
    mixing = torch.linalg.lstsq(before.transpose(1, 2), after.transpose(1, 2)).solution
    torch.testing.assert_close(before.transpose(1, 2) @ mixing, after.transpose(1, 2), atol=1e-3, rtol=0)


def test_amounts_of_stain_vary_within_their_range():
    """Most images keep their density within a factor of two."""
    image = section(count=300)
    changed, _ = vary_stain(image, image.flatten(2), torch.ones(300, dtype=torch.bool), batch_random(300))
    ratio = -changed.flatten(1).log().mean(1) / density(image).mean((1, 2))
    low, high = ratio.quantile(0.05), ratio.quantile(0.95)
    assert 0.5 < low < 0.9
    assert 1.1 < high < 2
    same = (changed - (image * 255 + 1) / 256).abs().amax((1, 2, 3)) < 1e-4
    assert 0.1 < same.float().mean() < 0.3  # a fifth is left alone


def nuclei(count: int = 4, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright discs on dark ground, normalised, and their ids, with a strip that nobody annotated."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    labels = torch.zeros(side, side, dtype=torch.int64)
    for number, (row, column) in enumerate([(8, 8), (8, 22), (22, 12)], start=1):
        labels[(rows - row) ** 2 + (columns - column) ** 2 <= 25] = number * 1000
    image = (labels > 0).float() * 0.9 + 0.05
    labels[-3:] = -1
    return image.expand(count, 3, side, side).clone(), labels.expand(count, side, side).clone()


@settings(max_examples=25)
@given(st.integers(0, 1000), st.sampled_from([32, 33, 64]), st.integers(1, 3))
def test_a_section_has_shape_and_range_of_a_normalised_image(seed, side, count):
    image, labels = nuclei(count, side)
    before = image.clone(), labels.clone()
    made = synthetic_section(image, labels, batch_random(count, seed))
    assert made.shape == image.shape
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    assert made.min() >= -0.5
    assert made.max() <= 1.5
    assert (made.amax((2, 3)) - made.amin((2, 3)) > 0.2).all()
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])
