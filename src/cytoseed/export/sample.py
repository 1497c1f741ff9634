"""Sample image of an exported model, which needs no download; its labels; and the cover drawn from both."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.export.rdf import CLIP, EPS, PERCENTILES
from cytoseed.settings import ModelConfig

Segment = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From normalised images (1,C,H,W) to labels (1,T,H,W)."""

_ROWS, _COLUMNS = slice(256, 512), slice(244, 500)  # stroma beside a gland: isolated nuclei, and touching ones


class Sample(NamedTuple):
    """Part of scikit-image's section, stained with haematoxylin and DAB, and a model's labels of it."""

    picture: NDArray[np.uint8]
    """(3,256,256) RGB."""
    raw: NDArray[np.float32]
    """(1,C,256,256), 0 to 255: haematoxylin alone, dark on light, the same in each channel."""
    labels: NDArray[np.float32]
    """(1,T,256,256)."""


def make_sample(config: ModelConfig, segment: Segment) -> Sample:
    """Segment the sample image with an exported model."""
    from skimage import data

    from cytoseed.images.channels import unmix

    section = data.immunohistochemistry()
    picture = np.ascontiguousarray(section[_ROWS, _COLUMNS].transpose(2, 0, 1))
    stain = unmix(picture, "haematoxylin")
    grey = np.round(255 * (stain - stain.min()) / np.ptp(stain)).astype(np.float32)
    raw = np.repeat(grey, config.example_channels, axis=0)[None]
    return Sample(picture, raw, segment(preprocess(raw)))


def preprocess(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise raw images (1,C,H,W) as `rdf.yaml` specifies."""
    low, high = np.percentile(raw, PERCENTILES, axis=(2, 3), keepdims=True)
    scaled = (raw - low) / (high - low + EPS)
    return np.asarray(np.clip(scaled, *CLIP), dtype=np.float32)


def draw_cover(sample: Sample) -> bytes:
    """PNG, 1024 x 512 px: the sample image, and beside it the same image with outlines of its objects."""
    import imagecodecs

    from cytoseed.results import Result
    from cytoseed.results.formats.overlay import draw_overlay

    planes = sample.labels[0].astype(np.int32)
    found = planes[0] if len(planes) == 1 else planes
    targets = ("nuclei", "cells")[: len(planes)]  # names are not drawn
    halves = [draw_overlay(Result.from_labels(ids, sample.picture, targets=targets)) for ids in (0 * found, found)]
    return bytes(imagecodecs.png_encode(np.concatenate(halves, axis=1), level=9))


def encode_tensors(sample: Sample) -> dict[str, bytes]:
    """Test tensors (.npy) and sample tensors (.tif) as bioimage.io requires them, by file name."""
    import tifffile

    files: dict[str, bytes] = {}
    for which, tensor in (("input", sample.raw), ("output", sample.labels)):
        plain, tiff = io.BytesIO(), io.BytesIO()
        np.save(plain, tensor)
        tifffile.imwrite(tiff, tensor, photometric="minisblack", compression="zlib", software=False)
        files[f"test_{which}.npy"], files[f"sample_{which}.tif"] = plain.getvalue(), tiff.getvalue()
    return files
