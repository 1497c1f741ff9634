"""An image to try a model on that needs no network, what the model finds in it, and the picture of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.export.description import CLIP, EPS, PERCENTILES
from cytoseed.settings import ModelConfig

Segment = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From normalised images (1,C,H,W) to labels (1,T,H,W)."""

_ROWS, _COLUMNS = slice(256, 512), slice(244, 500)  # stroma beside a gland: nuclei apart, and side by side


class Sample(NamedTuple):
    """A piece of scikit-image's section, which is stained with haematoxylin and DAB, seen by a model."""

    picture: NDArray[np.uint8]
    """(3,256,256) RGB."""
    raw: NDArray[np.float32]
    """(1,C,256,256), 0 to 255: haematoxylin alone, dark on light, the same in each channel."""
    labels: NDArray[np.float32]
    """(1,T,256,256): what the model finds."""


def make_sample(config: ModelConfig, segment: Segment) -> Sample:
    """Segment the sample image.

    Parameters
    ----------
    config : ModelConfig
        The model's.
    segment : callable
        The model as it was exported: from normalised images (1,C,H,W) to labels (1,T,H,W).
    """
    from skimage import data

    from cytoseed.images.unmix import unmix

    section = data.immunohistochemistry()
    picture = np.ascontiguousarray(section[_ROWS, _COLUMNS].transpose(2, 0, 1))
    stain = unmix(picture, "haematoxylin")
    grey = np.round(255 * (stain - stain.min()) / np.ptp(stain)).astype(np.float32)
    raw = np.repeat(grey, config.channels, axis=0)[None]
    return Sample(picture, raw, segment(preprocess(raw)))


def preprocess(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Do to raw images (1,C,H,W) what `rdf.yaml` says is to be done before the model sees them."""
    low, high = np.percentile(raw, PERCENTILES, axis=(2, 3), keepdims=True)
    scaled = (raw - low) / (high - low + EPS)
    return np.asarray(np.clip(scaled, *CLIP), dtype=np.float32)


def draw_cover(sample: Sample) -> bytes:
    """Draw the sample image beside itself with the outlines of what was found: PNG, 1024 x 512 px."""
    import imagecodecs

    from cytoseed.results import Segmentation
    from cytoseed.results.formats.overlay import draw_overlay

    planes = sample.labels[0].astype(np.int32)
    found = planes[0] if len(planes) == 1 else planes
    targets = ("nuclei", "cells")[: len(planes)]  # names do not show in the drawing
    halves = [draw_overlay(Segmentation(ids, image=sample.picture, targets=targets)) for ids in (0 * found, found)]
    return bytes(imagecodecs.png_encode(np.concatenate(halves, axis=1), level=9))


def encode_tensors(sample: Sample) -> dict[str, bytes]:
    """Write the tensors as bioimage.io wants them: to test with as .npy, to look at as .tif, by the file's name."""
    import io

    import tifffile

    files: dict[str, bytes] = {}
    for which, tensor in (("input", sample.raw), ("output", sample.labels)):
        plain, tiff = io.BytesIO(), io.BytesIO()
        np.save(plain, tensor)
        tifffile.imwrite(tiff, tensor, photometric="minisblack", compression="zlib", software=False)
        files[f"test_{which}.npy"], files[f"sample_{which}.tif"] = plain.getvalue(), tiff.getvalue()
    return files
