"""Real images on which all ways of running a model are compared, as the bundled models' users have them."""

import os
from itertools import groupby
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from cytoseed.images import open_image
from cytoseed.learn.samples import Sample, find_samples

DATA = Path(os.environ.get("CYTOSEED_DATA") or Path(__file__).parents[2] / "shared" / "data")
LARGEST_PX = 352  # side of what is taken of an image, from its middle
HOW_MANY = {
    ("bbbc039", "fluorescence"): 2,
    ("bitdepth_nucseg", "fluorescence"): 4,
    ("dsb2018", "brightfield"): 5,
    ("dsb2018", "brightfield-grey"): 1,
    ("dsb2018", "fluorescence"): 5,
    ("kumar_train16", "brightfield"): 3,
}


def twenty_images() -> list[tuple[str, np.ndarray]]:
    """Twenty images of the validation split, of all kinds: name, raw pixels (3,H,W) uint8 or uint16 at 0.5 µm a pixel.

    Grey ones have the same values in all channels. Where the data are not here, the test is skipped.
    """
    if not (DATA / "samples.csv").is_file():
        pytest.skip("the real images are not here; set CYTOSEED_DATA")

    def kind(sample: Sample) -> tuple[str, str]:
        return sample.dataset, sample.modality

    known = (sample for sample in find_samples(DATA, splits=["val"]) if kind(sample) in HOW_MANY)
    samples = sorted(known, key=lambda sample: (*kind(sample), sample.name))
    chosen = []
    for key, group in groupby(samples, kind):
        of_kind = list(group)
        count = HOW_MANY[key]
        chosen += [of_kind[index * len(of_kind) // count] for index in range(count)]
    return [(f"{sample.dataset}/{sample.name}", _seen(sample)) for sample in chosen]


def bundled_images() -> list[tuple[str, np.ndarray]]:
    """Images that scikit-image brings along, as `twenty_images` gives them: parts of a section, and its negative."""
    from skimage import data

    section = data.immunohistochemistry().transpose(2, 0, 1)
    negative = np.repeat(255 - section.mean(0).astype(np.uint8)[None], 3, axis=0)
    return [
        ("section", section[:, 100:340, 150:400]),
        ("its negative in grey", negative[:, 200:456, 240:496]),
        ("a strip", section[:, 300:321, :]),
        ("a corner", section[:, :40, :33]),
    ]


def as_png(pixels: np.ndarray) -> bytes:
    """A PNG of an image (3,H,W): grey where all channels are alike."""
    is_grey = (pixels == pixels[:1]).all()
    return imagecodecs.png_encode(pixels[0] if is_grey else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _seen(sample: Sample) -> np.ndarray:
    """The middle of an image, at the model's pixel size where its own is known, in three channels."""
    pixels = open_image(sample.image_path).read()
    shrunk = round(0.5 / (sample.pixel_size_um or 0.5))
    side = LARGEST_PX * shrunk
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[1:])
    part = pixels[:, top : top + side, left : left + side]
    if shrunk > 1:
        height, width = part.shape[1] // shrunk, part.shape[2] // shrunk
        whole = part[:, : height * shrunk, : width * shrunk]
        part = whole.reshape(-1, height, shrunk, width, shrunk).mean((2, 4)).round().astype(pixels.dtype)
    return np.repeat(part, 3, axis=0) if len(part) == 1 else part
