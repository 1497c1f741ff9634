"""Calibration of scores: of objects that a model scores at 0.8, about 80 % are right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.score import scores_of
from cytoseed.learn.metrics import find_overlaps
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import Model
from cytoseed.run.api import network_image
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.tile import full_size_objects
from cytoseed.settings import SegmentOptions

_BINS = 10
_ROUNDS = 50
_PENALTY = 1e-3  # keeps coefficients finite where every object is right


class Judged(NamedTuple):
    """Objects of one of a model's targets, and whether each is right."""

    evidence: NDArray[np.float64]  # (N,2) seed value and mean logit
    is_right: NDArray[np.bool_]  # (N,) has an IoU of at least 0.5 with a true object

    def scores(self, calibration: tuple[float, ...]) -> NDArray[np.float64]:
        """Score (N,) of each."""
        return scores_of(torch.from_numpy(self.evidence), calibration).numpy()


class Bin(NamedTuple):
    """Objects whose scores lie between two tenths."""

    objects: int
    score: float  # mean
    right: float  # share that is right


def judge_objects(model: Model, samples: Iterable[Sample], device: str = "auto", target: int = 0) -> Judged:
    """Find the objects of a target in samples and compare them with their masks; samples without its mask are left out.

    An object mostly on pixels that nobody annotated counts only if it is right, as in `metrics.score`.
    """
    engine = engine_for(model, choose_device(device))
    evidence, is_right = [np.zeros((0, 2))], [np.zeros(0, np.bool_)]
    for sample in samples:
        pixels, masks = sample.read_targets(model.config.targets)
        mask = masks[target]
        if (mask < 0).all():
            continue
        options = SegmentOptions(pixel_size_um=sample.find_pixel_size_um())
        tensor = network_image(pixels, model.config, options)
        labels, found = engine.labels_of_views(engine.views(tensor[None]), model.segmenter.thresholds)
        full, ids = full_size_objects(labels[target : target + 1], *mask.shape)
        overlaps = find_overlaps(full[0], mask)
        matches = np.zeros(len(overlaps.predicted_areas), np.bool_)
        matches[overlaps.predicted[overlaps.matched(0.5)]] = True
        counts = matches | ~overlaps.excused
        present = np.unique(full[0][full[0] > 0])
        evidence.append(found[target].numpy()[ids[present]][counts])
        is_right.append(matches[counts])
    return Judged(np.concatenate(evidence), np.concatenate(is_right))


def fit_calibration(judged: Judged) -> tuple[float, float, float]:
    """Coefficients of the logistic regression of being right on the evidence, by Newton's method."""
    if judged.is_right.all() or not judged.is_right.any():
        raise ValueError(
            f"{len(judged.is_right)} objects are all right or all wrong: there is nothing to fit; give more images"
        )
    centre, spread = judged.evidence.mean(axis=0), judged.evidence.std(axis=0)
    features = np.column_stack([np.ones(len(judged.evidence)), (judged.evidence - centre) / spread])
    weights, penalty = np.zeros(3), np.diag([0, _PENALTY, _PENALTY])
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-(features @ weights)))
        gradient = features.T @ (chance - judged.is_right) + penalty @ weights
        curvature = (features * (chance * (1 - chance))[:, None]).T @ features + penalty
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    slopes = weights[1:] / spread
    constant, of_seed, of_logit = (round(float(each), 4) for each in (weights[0] - slopes @ centre, *slopes))
    return constant, of_seed, of_logit


def reliability(scores: NDArray[np.float64], is_right: NDArray[np.bool_]) -> list[Bin]:
    """Objects by tenths of their score, without empty ones."""
    place = np.minimum((scores * _BINS).astype(int), _BINS - 1)
    groups = [place == number for number in range(_BINS)]
    return [Bin(int(own.sum()), float(scores[own].mean()), float(is_right[own].mean())) for own in groups if own.any()]


def calibration_error(bins: Iterable[Bin]) -> float:
    """Expected calibration error: mean difference of score and share that is right, weighted by objects."""
    every = list(bins)
    return sum(each.objects * abs(each.score - each.right) for each in every) / sum(each.objects for each in every)
