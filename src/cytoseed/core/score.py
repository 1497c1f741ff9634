"""Evidence for objects, and scores from it: how likely an object is right."""

from collections.abc import Sequence

import torch
from torch import Tensor

UNCALIBRATED = (0.0, 0.0, 1.0)
"""Calibration of a model that has none: the score is the probability that the mean logit stands for."""


def object_evidence(labels: Tensor, seed_map: Tensor, logits: Tensor, count: int) -> Tensor:
    """Highest value of the seed map and mean logit of objects 1..count, (count + 1, 2) float64; row 0 means nothing.

    All are (H, W). Pixels without a logit (-inf), such as filled holes, do not count. An id without pixels has -inf.
    """
    flat = labels.flatten()
    place = flat.nonzero()[:, 0]
    label = flat.index_select(0, place).to(torch.int64)
    height = seed_map.flatten().index_select(0, place).to(torch.float64)
    logit = logits.flatten().index_select(0, place).to(torch.float64)
    has_logit = logit > -float("inf")
    none = torch.zeros(count + 1, dtype=torch.float64, device=labels.device)
    heights = (none - float("inf")).scatter_reduce(0, label, height, "amax")
    total = none.scatter_add(0, label, torch.where(has_logit, logit, 0.0))
    pixels = none.scatter_add(0, label, has_logit.to(torch.float64))
    means = torch.where(pixels > 0, total / pixels.clamp(min=1), -float("inf"))
    return torch.stack([heights, means], 1)


def scores_of(evidence: Tensor, calibration: Sequence[float]) -> Tensor:
    """Probabilities (K,) that objects are right, to four digits, from their evidence (K, 2); NaN where it is -inf.

    `calibration` are the constant, the weight of the seed value and that of the mean logit.
    """
    constant, of_seed, of_logit = calibration
    score = torch.sigmoid(constant + of_seed * evidence[:, 0] + of_logit * evidence[:, 1])
    return torch.where(torch.isfinite(evidence).all(1), (score * 1e4).round() / 1e4, float("nan"))


def confident_labels(labels: Tensor, scores: Tensor, min_score: float) -> tuple[Tensor, Tensor]:
    """Labels (T, h, w) and scores (T, K + 1) without objects of a lower score, numbered again; a cell's decides."""
    if not min_score:
        return labels, scores
    decides = torch.where(torch.isnan(scores[-1]), scores[0], scores[-1])
    is_kept = (decides >= min_score).index_fill(0, torch.tensor([0]), True)
    kept = is_kept.nonzero()[:, 0]
    number = (is_kept.cumsum(0) - 1) * is_kept
    return number[labels.long()].int(), scores[:, kept]
