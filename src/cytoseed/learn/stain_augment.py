"""Stain augmentation: real sections get other stains, fluorescence images become synthetic stained sections.

A stained pixel's optical density is a sum of stains, each an amount times a colour (Ruifrok and Johnston 2001).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.prepare import scale_intensity

_HAEMATOXYLIN, _EOSIN, _DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)


class BatchRandom:
    """Random numbers for the N crops of a batch."""

    def __init__(self, generator: torch.Generator, device: torch.device, count: int) -> None:
        self.generator = generator
        self.device = device
        self.count = count

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), shape (N, *shape)."""
        return torch.rand(self.count, *shape, generator=self.generator, device=self.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform between two values, shape (N, *shape)."""
        return low + (high - low) * self.uniform(*shape)

    def sometimes(self, share: float) -> Tensor:
        """1.0 with this probability, else 0.0, shape (N,)."""
        return (self.uniform() < share).float()

    def integer(self, below: int) -> Tensor:
        """Uniform from 0 to below - 1, shape (N,)."""
        return torch.randint(below, (self.count,), generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, shape (N, *shape)."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self.device)


def vary_stain(image: Tensor, palette: Tensor, stained: Tensor, random: BatchRandom) -> tuple[Tensor, Tensor]:
    """Vary amount and colour of the stains, equally in image (N, 3, H, W) and palette (N, 3, P), both in 0 to 1.

    Crops that are not `stained`, (N,), stay as they are, and so do images without three channels.
    """
    if image.shape[1] != 3:
        return image, palette
    stains = _stains(random.device)
    amount = torch.diag_embed(random.between(-0.4, 0.4, 3).exp())
    turned = stains + 0.06 * random.normal(3, 3)
    matrix = torch.linalg.inv(stains) @ amount @ turned  # (N, 3, 3), rows of colours
    identity = torch.eye(3, device=random.device).expand_as(matrix)
    matrix = torch.where((stained & (random.sometimes(0.8) > 0))[:, None, None], matrix, identity)
    swap = torch.where(stained, random.sometimes(0.05), 0.0)[:, None, None]  # sometimes the stains swap colours
    order = torch.argsort(random.uniform(3), dim=1)
    matrix = matrix.lerp(F.one_hot(order, 3).float() @ matrix, swap)

    def apply(values: Tensor) -> Tensor:
        density = -((values.flatten(2) * 255 + 1) / 256).clamp(min=1 / 256).log()  # (N, 3, P)
        changed = (-torch.einsum("ncp,ncd->ndp", density, matrix)).exp().view(values.shape)
        return torch.where(stained.view(-1, *[1] * (values.ndim - 1)), changed, values)

    return apply(image), apply(palette)


def synthetic_section(image: Tensor, labels: Tensor, random: BatchRandom, other_labels: Tensor | None = None) -> Tensor:
    """Synthetic stained section from bright nuclei: haematoxylin inside them, eosin or DAB around them.

    Around them are cells (grown nuclei), membranes and a textured background, in each crop paler or darker than the
    nuclei. `image` (N, 3, H, W) and the result are normalised; with other channels it stays as it is. `labels` (N, H,
    W) are ids, 0 background, -1 unknown. In some crops the cells are those of `other_labels`, by default of the
    previous crop: membranes must not reveal the nuclei.
    """
    if image.shape[1] != 3:
        return image
    nuclei = image.mean(1, keepdim=True).clamp(0, 1) ** per_crop(random.between(0.4, 1.2))
    inside = torch.maximum(nuclei, 0.7 * F.avg_pool2d((labels > 0).float()[:, None], 3, 1, 1))
    cells, membranes = _cells(labels, labels.roll(1, 0) if other_labels is None else other_labels, random)
    background = _texture(random, image.shape[2:])
    around = background * per_crop(random.sometimes(0.8) * random.between(0.05, 1.2))
    around = around + cells * (0.4 + background) * per_crop(random.sometimes(0.6) * random.between(0.1, 0.9))
    around = around + membranes * (0.3 + background) * per_crop(random.sometimes(0.4) * random.between(0.3, 1.8))
    around = around * (1 - inside * per_crop(random.between(0.5, 1.0)))
    amounts = torch.cat([nuclei * per_crop(random.between(0.25, 1.6)), around], dim=1)  # (N, 2, H, W)
    haematoxylin, eosin, dab = _stains(random.device)
    other = torch.where((random.sometimes(0.5) > 0)[:, None], dab, eosin)
    colours = torch.stack([haematoxylin.expand_as(other), other], 1) + 0.06 * random.normal(2, 3)
    section = (-torch.einsum("nshw,nsc->nchw", amounts, colours.clamp(min=0.02))).exp()
    some = section[:, :, ::8, ::8]
    return scale_intensity(section, some.amin((2, 3)), some.amax((2, 3)))


def _stains(device: torch.device) -> Tensor:
    """Colours of haematoxylin, eosin and DAB as unit vectors of optical density, (3, 3)."""
    return F.normalize(torch.tensor((_HAEMATOXYLIN, _EOSIN, _DAB), device=device), dim=1)


def per_crop(values: Tensor) -> Tensor:
    """One value per crop, (N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _cells(labels: Tensor, other_labels: Tensor, random: BatchRandom) -> tuple[Tensor, Tensor]:
    """Nuclei grown by 2 to 12 pixels (0 or 1), and a soft line around each; both (N, 1, H, W)."""
    grown = torch.where(per_crop(random.sometimes(0.3))[:, 0] > 0, other_labels, labels).clamp(min=0).float()[:, None]
    reach = random.integer(11) + 2
    for step in range(12):
        bigger = torch.where(grown > 0, grown, F.max_pool2d(grown, 3, 1, 1))
        grown = torch.where(per_crop(step < reach), bigger, grown)
    lines = (F.max_pool2d(grown, 3, 1, 1) != -F.max_pool2d(-grown, 3, 1, 1)).float()
    return (grown > 0).float(), F.avg_pool2d(lines, 3, 1, 1)


def _texture(random: BatchRandom, size: torch.Size) -> Tensor:
    """Smooth random texture of several scales, with streaks, 0 to 1, (N, 1, H, W)."""
    total = torch.zeros(random.count, 1, *size, device=random.device)
    for grid in ((4, 4), (16, 16), (64, 64), (128, 128), (6, 60), (60, 6)):
        coarse = random.uniform(1, *grid)
        total = total + F.interpolate(coarse, size, mode="bilinear") * per_crop(random.between(0.0, 1.0))
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    texture: Tensor = ((total - low) / (high - low).clamp(min=1e-6)) ** per_crop(random.between(0.7, 2.0))
    return texture
