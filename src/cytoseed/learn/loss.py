"""What training minimises: a term for the seed map and one for the instances (the paper's sections 2.3 and 2.5)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.model import Segmenter
from cytoseed.core.pixels import window_pixels
from cytoseed.core.seeds import find_seeds


class Losses(NamedTuple):
    """Terms of the loss of one batch, each a scalar."""

    seed: Tensor
    """Mean over annotated pixels; with L1, on the scale of 15 (d - 0.5)."""
    instance: Tensor
    """Mean over seeds; 0 without any."""
    seeds: int
    """Seeds that the instance term was taken over."""


class TrainingSeeds(NamedTuple):
    """How seeds are drawn for the instance term."""

    most: int
    """At most this many from each image."""
    window_px: int
    """Window around each; it reaches half of this to each side."""
    generator: torch.Generator
    """Draws them, on the device of the fields."""


def batch_losses(
    model: Segmenter, fields: Tensor, labels: Tensor, distance: Tensor, training: TrainingSeeds, pretrain: bool
) -> Losses:
    """Both terms for one batch.

    Parameters
    ----------
    model : Segmenter
        Its classifiers and its seed threshold and radius are used.
    fields : Tensor, shape (N, T, F, H, W), float32
        What `Segmenter.fields` returned.
    labels : Tensor, shape (N, T, H, W), int
        Ids of objects, 0 for background, -1 for pixels that nobody annotated: these count in no term.
    distance : Tensor, shape (N, T, H, W), float32
        Target d of the seed map: relative distance to the object's boundary, 0 to 1, 0 outside objects.
    training : TrainingSeeds
        How many seeds are drawn, and their windows.
    pretrain : bool
        Take binary cross-entropy for the seeds and Dice for the instances instead of L1 and Lovász hinge.

    Returns
    -------
    Losses
        Means over the targets.
    """
    seed_terms, instance_terms, count = [], [], 0
    for target, (classifier, own) in enumerate(zip(model.classifiers, fields.unbind(1), strict=True)):
        true = labels[:, target]
        seed_map = own[:, -1]
        seed_terms.append(seed_loss(seed_map, true, distance[:, target], pretrain))
        seeds = draw_seeds(seed_map.detach(), true, model, training)
        count += seeds.shape[0]
        encoded = classifier.encode(own)  # type: ignore[operator]
        logits = classifier(own, encoded, seeds, training.window_px // 2).flatten(1)  # (S, w * w)
        flat, inside = window_pixels(list(true.shape), seeds, training.window_px // 2)
        there = true.flatten()[flat].flatten(1)
        of_seed = true[seeds[:, 0], seeds[:, 1], seeds[:, 2]]
        counts = inside.flatten(1) & (there >= 0)
        term = dice_loss if pretrain else lovasz_hinge
        instance_terms.append(term(logits, there == of_seed[:, None], counts))
    return Losses(torch.stack(seed_terms).mean(), torch.stack(instance_terms).mean(), count)


def draw_seeds(seed_map: Tensor, labels: Tensor, model: Segmenter, training: TrainingSeeds) -> Tensor:
    """Find the seeds that inference would find, keep those on annotated objects, draw some of each image.

    Parameters
    ----------
    seed_map : Tensor, shape (N, H, W), float
    labels : Tensor, shape (N, H, W), int
        Seeds lie where this is above 0.
    model : Segmenter
        Its seed threshold and radius are used.
    training : TrainingSeeds

    Returns
    -------
    Tensor, shape (S, 3), int64
        Image, row and column, in raster order of the images, drawn order within; S may be 0.
    """
    seeds = find_seeds(seed_map, model.peak_radius_px, model.seed_threshold)
    seeds = seeds[labels[seeds[:, 0], seeds[:, 1], seeds[:, 2]] > 0]
    luck = torch.rand(seeds.shape[0], generator=training.generator, device=seeds.device)
    seeds = seeds[torch.argsort(luck)]
    seeds = seeds[torch.argsort(seeds[:, 0], stable=True)]
    image = seeds[:, 0].contiguous()
    start = torch.searchsorted(image, image)  # first seed of the same image
    return seeds[torch.arange(image.shape[0], device=image.device) - start < training.most]


def seed_loss(seed_map: Tensor, labels: Tensor, distance: Tensor, pretrain: bool) -> Tensor:
    """L1 between 15 S and 15 d over annotated pixels (equation 1), or cross-entropy of being on an object.

    Parameters
    ----------
    seed_map, distance : Tensor, shape (N, H, W), float32
    labels : Tensor, shape (N, H, W), int
    pretrain : bool
        Take the cross-entropy, with 15 (S - 0.5) for a logit.

    Returns
    -------
    Tensor
        Scalar.
    """
    if pretrain:
        losses = F.binary_cross_entropy_with_logits(15 * (seed_map - 0.5), (labels > 0).float(), reduction="none")
    else:
        losses = 15 * (seed_map - distance).abs()
    counts = labels >= 0
    return (losses * counts).sum() / counts.sum().clamp(min=1)


def lovasz_hinge(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Lovász hinge: a convex stand-in for 1 - IoU, of each window, and their mean (Berman et al. 2018).

    Parameters
    ----------
    logits : Tensor, shape (S, P), float32
    target : Tensor, shape (S, P), bool
        Which pixels belong to the seed's object.
    counts : Tensor, shape (S, P), bool
        Pixels that count; the others change nothing, whatever their logit.

    Returns
    -------
    Tensor
        Scalar, 0 or more; 0 for S = 0.
    """
    sign = target.to(logits.dtype) * 2 - 1
    errors = torch.where(counts, 1 - logits * sign, -1.0)  # an error below 0 has no weight
    errors, order = torch.sort(errors, dim=1, descending=True)
    sorted_target = (target & counts).gather(1, order).to(logits.dtype)
    total = sorted_target.sum(1, keepdim=True)
    intersection = total - sorted_target.cumsum(1)
    union = total + (1 - sorted_target).cumsum(1)
    jaccard = 1 - intersection / union.clamp(min=1)
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (F.relu(errors) * gradient).sum() / max(1, logits.shape[0])


def dice_loss(logits: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """1 - Dice of probabilities and target, of each window, and their mean.

    Parameters
    ----------
    logits : Tensor, shape (S, P), float32
    target, counts : Tensor, shape (S, P), bool
        As for `lovasz_hinge`.

    Returns
    -------
    Tensor
        Scalar from 0 to 1; 0 for S = 0.
    """
    probability = torch.sigmoid(torch.where(counts, logits, -100.0))
    wanted = (target & counts).to(logits.dtype)
    overlap = 2 * (probability * wanted).sum(1) + 1
    return (1 - overlap / (probability.sum(1) + wanted.sum(1) + 1)).sum() / max(1, logits.shape[0])
