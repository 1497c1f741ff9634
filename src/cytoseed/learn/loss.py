"""The training loss: a seed term and an instance term (the paper's sections 2.3 and 2.5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.model import Segmenter
from cytoseed.core.pixels import window_pixels
from cytoseed.core.seeds import find_seeds


class Losses(NamedTuple):
    """Loss terms of one batch, scalars."""

    seed: Tensor  # mean over annotated pixels
    instance: Tensor  # mean over seeds; 0 without seeds


class TrainingSeeds(NamedTuple):
    """How seeds are sampled for the instance term."""

    max_per_image: int
    window_px: int  # side of the window around each seed
    generator: torch.Generator  # random generator, on the device of the fields


def batch_losses(
    model: Segmenter, fields: Tensor, labels: Tensor, distance: Tensor, training: TrainingSeeds, pretrain: bool
) -> Losses:
    """Both loss terms of one batch, means over the targets of which a pixel is annotated.

    `fields` (N, T, F, H, W) are of `Segmenter.fields`; `labels` (N, T, H, W) are ids, 0 background, -1 ignored;
    `distance` (N, T, H, W) is the target of the seed map. `pretrain`: cross-entropy and Dice, not L1 and Lovász hinge.
    """
    seed_terms, instance_terms = [], []
    for index, (classifier, own_fields) in enumerate(zip(model.classifiers, fields.unbind(1), strict=True)):
        true = labels[:, index]
        seed_map = own_fields[:, -1]
        seed_terms.append(seed_loss(seed_map, true, distance[:, index], pretrain))
        seeds = draw_seeds(seed_map.detach(), true, model, training)
        encoded = classifier.encode(own_fields)  # type: ignore[operator]
        logits = classifier(own_fields, encoded, seeds, training.window_px // 2).flatten(1)  # (S, w * w)
        flat, inside = window_pixels(list(true.shape), seeds, training.window_px // 2)
        window_labels = true.flatten()[flat].flatten(1)
        seed_labels = true[seeds[:, 0], seeds[:, 1], seeds[:, 2]]
        valid = inside.flatten(1) & (window_labels >= 0)
        instance_loss = dice_loss if pretrain else lovasz_hinge
        instance_terms.append(instance_loss(logits, window_labels == seed_labels[:, None], valid))
    annotated = (labels >= 0).transpose(0, 1).flatten(1).any(1).sum().clamp(min=1)  # targets
    return Losses(torch.stack(seed_terms).sum() / annotated, torch.stack(instance_terms).sum() / annotated)


def draw_seeds(seed_map: Tensor, labels: Tensor, model: Segmenter, training: TrainingSeeds) -> Tensor:
    """Random sample, sorted by image, of the seeds of inference that lie on objects: (S, 3), image, row and column."""
    seeds = find_seeds(seed_map, model.peak_radius_px, model.seed_threshold)
    seeds = seeds[labels[seeds[:, 0], seeds[:, 1], seeds[:, 2]] > 0]
    order = torch.rand(seeds.shape[0], generator=training.generator, device=seeds.device)
    seeds = seeds[torch.argsort(order)]
    seeds = seeds[torch.argsort(seeds[:, 0], stable=True)]
    image = seeds[:, 0].contiguous()
    start = torch.searchsorted(image, image)  # first seed of the same image
    return seeds[torch.arange(image.shape[0], device=image.device) - start < training.max_per_image]


def seed_loss(seed_map: Tensor, labels: Tensor, distance: Tensor, pretrain: bool) -> Tensor:
    """L1 between 15 S and 15 d, mean over annotated pixels (equation 1); all inputs (N, H, W).

    In pre-training, cross-entropy of lying on an object with the logit 15 (S - 0.5).
    """
    if pretrain:
        losses = F.binary_cross_entropy_with_logits(15 * (seed_map - 0.5), (labels > 0).float(), reduction="none")
    else:
        losses = 15 * (seed_map - distance).abs()
    valid = labels >= 0
    return (losses * valid).sum() / valid.sum().clamp(min=1)


def lovasz_hinge(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Lovász hinge, a convex surrogate of 1 - IoU, mean over windows (Berman et al. 2018); 0 without windows.

    `target` marks pixels of the seed's object, `valid` the pixels that count; all inputs are (S, P).
    """
    sign = target.to(logits.dtype) * 2 - 1
    errors = torch.where(valid, 1 - logits * sign, -1.0)  # an error below 0 has no weight
    errors, order = torch.sort(errors, dim=1, descending=True)
    sorted_target = (target & valid).gather(1, order).to(logits.dtype)
    total = sorted_target.sum(1, keepdim=True)
    intersection = total - sorted_target.cumsum(1)
    union = total + (1 - sorted_target).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1)
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (F.relu(errors) * gradient).sum() / max(1, logits.shape[0])


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice of probabilities and target, mean over windows; inputs as for `lovasz_hinge`."""
    probability = torch.sigmoid(torch.where(valid, logits, -100.0))
    truth = (target & valid).to(logits.dtype)
    overlap = 2 * (probability * truth).sum(1) + 1
    return (1 - overlap / (probability.sum(1) + truth.sum(1) + 1)).sum() / max(1, logits.shape[0])
