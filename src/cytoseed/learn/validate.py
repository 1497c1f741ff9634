"""A model scored on samples, as users would run it: whole images, at their own pixel size, through `segment`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from cytoseed.learn.evaluate import Evaluation, evaluate_samples
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import Model
from cytoseed.run.segment import segment
from cytoseed.settings import SegmentOptions


def evaluate_model(
    model: Model,
    samples: Sequence[Sample],
    options: SegmentOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Segment samples and score the labels against their masks.

    Parameters
    ----------
    model : Model
        Its first target is scored.
    samples : sequence of Sample
        At least one. One of known pixel size is rescaled to the model's; the others run as they are.
    options : SegmentOptions, optional
        How to segment; a pixel size or diameter given here goes before the samples' own.
    progress : callable, optional
        Called after each sample with the number done and the number of all.

    Returns
    -------
    Evaluation
        One entry a sample, in the same order.

    Raises
    ------
    TypeError, ValueError
        As `segment` and `evaluate_samples`.
    """
    wishes = options or SegmentOptions()
    scaled = wishes.pixel_size_um is not None or wishes.diameter_px is not None

    def label(pixels: NDArray[Any], sample: Sample) -> NDArray[Any]:
        own = wishes if scaled else dataclasses.replace(wishes, pixel_size_um=sample.find_pixel_size_um())
        labels = segment(pixels, model, own).labels
        return labels if labels.ndim == 2 else labels[0]

    return evaluate_samples(label, samples, progress)
