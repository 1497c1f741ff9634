"""Optical densities of stains: the law of light, scikit-image's deconvolution, and which images have stains."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, separate_stains

from cytoseed.results.measure.stains import stain_density, stains_of
from cytoseed.settings import STAINS

RGB = ("red", "green", "blue")
# each stain's share in red, green and blue (Ruifrok and Johnston 2001)
COLOURS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


def densities(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Solve amounts @ COLOURS = -log10(light) pixel by pixel: (3,N) of (3,N)."""
    found = []
    for pixel in pixels.T.tolist():
        light = [-math.log10(max(value, 1) / 255) for value in pixel]
        found.append(np.linalg.solve(COLOURS.T, light))
    return np.array(found).T


@given(hnp.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 40))))
def test_density_is_that_of_the_law_of_light(pixels: NDArray[np.uint8]) -> None:
    for stain, known in zip(STAINS, densities(pixels), strict=True):
        found = stain_density(list(pixels), stain)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, known, atol=5e-6)
    pixels = np.maximum(pixels, 1)  # 0 counts as 1
    amounts = 6 * separate_stains(pixels.T, hed_from_rgb)  # its logarithms are to the base of a millionth, cut at 0
    found = [stain_density(list(pixels), stain) for stain in STAINS]
    np.testing.assert_allclose(np.maximum(found, 0).T, amounts, atol=1e-5)


@pytest.mark.parametrize("types", [["uint8"] * 2, ["uint16"] * 3, ["uint8", "uint8", "float32"], []])
def test_density_of_other_channels(types: list[str]) -> None:
    with pytest.raises(ValueError, match=r"dab.*8 bits.*leave stains out"):
        stain_density([np.ones(4, kind) for kind in types], "dab")


# Which images have stains


def brown(shape_yx: tuple[int, int] = (8, 9), value: int = 200) -> NDArray[np.uint8]:
    """A picture of one colour whose brightness is `value`."""
    return np.stack([np.full(shape_yx, value + change, np.uint8) for change in (25, 0, -25)])


@pytest.mark.parametrize(
    ("image", "names", "is_stained"),
    [
        (brown(), ("channel 0", "channel 1", "channel 2"), True),
        (brown(value=96), RGB, True),
        (brown(value=95), RGB, False),
        (brown(), ("DAPI", "FITC", "TRITC"), False),
        (brown().astype(np.uint16), RGB, False),
        (brown()[[0, 1, 2, 2]], ("channel 0", "channel 1", "channel 2", "channel 3"), False),
        (np.full((3, 8, 9), 200, np.uint8), RGB, False),  # grey
        (brown()[:, :0], RGB, False),
    ],
)
def test_stains_are_measured_in_bright_pictures_of_8_bits(
    image: NDArray[Any], names: tuple[str, ...], is_stained: bool
) -> None:
    assert stains_of(image, names) == (STAINS if is_stained else ())


@pytest.mark.parametrize("row", [0, 1000, 1999])
def test_a_little_colour_anywhere_is_colour(row: int) -> None:
    image = np.full((3, 2000, 1200), 200, np.uint8)
    image[2, row, 7] = 150
    assert stains_of(image, RGB) == STAINS[:2], "one brown pixel is no DAB"


def test_without_dab_nothing_brown_is_subtracted() -> None:
    """A picture made of two stains gives back their amounts, and has these stains."""
    amounts = np.random.default_rng(0).uniform(0, 0.6, (2, 400))
    light = np.rint(255 * 10 ** -(COLOURS[:2].T @ amounts)).astype(np.uint8)
    stains = stains_of(light[:, :, None], RGB)
    assert stains == ("haematoxylin", "eosin")
    for stain, known in zip(stains, amounts, strict=True):
        np.testing.assert_allclose(stain_density(list(light), stain, stains), known, atol=0.03)
