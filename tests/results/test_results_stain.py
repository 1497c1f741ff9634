"""Optical densities of stains: the law of light, scikit-image's deconvolution, and which images have stains."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from skimage.color import hed_from_rgb, separate_stains

from cytoseed.learn.samples import find_samples
from cytoseed.results import Result
from cytoseed.results.measure.stains import stain_density, stains_of
from cytoseed.settings import STAINS

DATA = Path(os.environ.get("CYTOSEED_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "dsb2018").is_dir(), reason="the real images are not here; set CYTOSEED_DATA"
)
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


def test_density_of_known_amounts() -> None:
    amounts = np.array([[0.8, 0.1, 0.0, 0.3], [0.2, 0.6, 0.0, 0.1], [0.0, 0.1, 0.0, 0.5]])
    pixels = (255 * 10 ** -(COLOURS.T @ amounts)).round().astype(np.uint8)
    for stain, known in zip(STAINS, amounts, strict=True):
        np.testing.assert_allclose(stain_density(list(pixels), stain), known, atol=0.02)  # 8 bits tell no more
    assert all(stain_density(list(np.full((3, 1), 255, np.uint8)), stain)[0] == 0 for stain in STAINS)


@pytest.mark.parametrize("types", [["uint8"] * 2, ["uint16"] * 3, ["uint8", "uint8", "float32"], []])
def test_density_of_other_channels(types: list[str]) -> None:
    with pytest.raises(ValueError, match=r"dab.*8 bits.*leave stains out"):
        stain_density([np.ones(4, kind) for kind in types], "dab")


@needs_data
def test_densities_of_real_nuclei_are_six_times_those_of_scikit_image() -> None:
    """It takes logarithms to the base of a millionth, and cuts at 0."""
    sample = next(s for s in find_samples(DATA, datasets=["kumar_train16"]))
    pixels, mask = sample.read()
    labels = np.maximum(mask, 0)
    table = Result.from_labels(labels, pixels, channel_names=RGB).table
    amounts = 6 * separate_stains(np.moveaxis(pixels, 0, -1), hed_from_rgb)
    darkest = pixels.min(axis=0)
    compared = 0
    for row in table.to_dict("records")[::40]:
        inside = labels == row["id"]
        if darkest[inside].min() == 0:
            continue
        for index, stain in enumerate(STAINS):
            own = amounts[inside, index]
            for statistic, known in zip(("p25", "p50", "p75"), np.percentile(own, [25, 50, 75]), strict=True):
                assert max(row[f"{statistic}_od_{stain}"], 0) == pytest.approx(known, abs=1e-5)
            if own.min() > 0:
                assert row[f"mean_od_{stain}"] == pytest.approx(own.mean(), rel=1e-5)
                assert row[f"sd_od_{stain}"] == pytest.approx(own.std(), rel=1e-4)
                compared += 1
    assert compared > 20
    around = float(np.median(amounts[..., 0][labels == 0]))
    assert table["mean_od_haematoxylin"].median() > 2 * around, "nuclei are full of it"


# Which images have stains


def brown(shape_yx: tuple[int, int] = (8, 9), value: int = 200) -> NDArray[np.uint8]:
    """A picture of one colour whose brightness is `value`."""
    return np.stack([np.full(shape_yx, value + change, np.uint8) for change in (10, 0, -10)])


@pytest.mark.parametrize(
    ("image", "names", "is_stained"),
    [
        (brown(), RGB, True),
        (brown(), ("channel 0", "channel 1", "channel 2"), True),
        (brown(value=96), RGB, True),
        (brown(value=95), RGB, False),
        (brown(), ("DAPI", "FITC", "TRITC"), False),
        (brown(), ("blue", "green", "red"), False),
        (brown().astype(np.uint16), RGB, False),
        (brown() / np.float32(255), RGB, False),
        (brown()[:1], ("red",), False),
        (brown()[[0, 1, 2, 2]], ("channel 0", "channel 1", "channel 2", "channel 3"), False),
        (np.full((3, 8, 9), 200, np.uint8), RGB, False),  # grey
        (brown()[:, :0], RGB, False),
        (brown().reshape(3, -1), RGB, True),
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
    assert stains_of(image, RGB) == STAINS
