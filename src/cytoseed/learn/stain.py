"""Stains: their amount and colour varied on real sections, and sections made up from fluorescence images.

A stained pixel's optical density is a sum of stains, each an amount times a colour (Ruifrok and Johnston 2001).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.prepare import scale_intensity

_HAEMATOXYLIN, _EOSIN, _DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)


class Luck:
    """Random draws, one value or more for each crop of a batch."""

    def __init__(self, generator: torch.Generator, device: torch.device, count: int) -> None:
        self.generator = generator
        self.device = device
        self.count = count

    def uniform(self, *shape: int) -> Tensor:
        """Draw between 0 and 1, shape (N, *shape)."""
        return torch.rand(self.count, *shape, generator=self.generator, device=self.device)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw between two values, shape (N, *shape)."""
        return low + (high - low) * self.uniform(*shape)

    def sometimes(self, share: float) -> Tensor:
        """Draw 1 for this share of crops, else 0, shape (N,)."""
        return (self.uniform() < share).float()

    def integer(self, below: int) -> Tensor:
        """Draw 0 to below - 1, shape (N,)."""
        return torch.randint(below, (self.count,), generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Draw from the standard normal distribution, shape (N, *shape)."""
        return torch.randn(self.count, *shape, generator=self.generator, device=self.device)


def vary_stain(image: Tensor, palette: Tensor, stained: Tensor, luck: Luck) -> tuple[Tensor, Tensor]:
    """Change amount and colour of the stains, in optical density, alike in an image and its palette.

    Parameters
    ----------
    image : Tensor, shape (N, 3, H, W), float32, 0 to 1
        Raw brightness; 1 is no stain.
    palette : Tensor, shape (N, 3, P), float32, 0 to 1
        Pixels that stand for the whole image.
    stained : Tensor, shape (N,), bool
        The others stay as they are, and so do images of other than three channels.
    luck : Luck

    Returns
    -------
    image, palette : Tensor
        Of the same shapes.
    """
    if image.shape[1] != 3:
        return image, palette
    stains = _stains(luck.device)
    amount = torch.diag_embed(luck.between(-0.4, 0.4, 3).exp())
    turned = stains + 0.06 * luck.normal(3, 3)
    matrix = torch.linalg.inv(stains) @ amount @ turned  # (N, 3, 3), rows of colours
    still = torch.eye(3, device=luck.device).expand_as(matrix)
    matrix = torch.where((stained & (luck.sometimes(0.8) > 0))[:, None, None], matrix, still)
    swap = torch.where(stained, luck.sometimes(0.05), 0.0)[:, None, None]  # now and then, another order of colours
    order = torch.argsort(luck.uniform(3), dim=1)
    matrix = matrix.lerp(F.one_hot(order, 3).float() @ matrix, swap)

    def apply(values: Tensor) -> Tensor:
        density = -((values.flatten(2) * 255 + 1) / 256).clamp(min=1 / 256).log()  # (N, 3, P)
        changed = (-torch.einsum("ncp,ncd->ndp", density, matrix)).exp().view(values.shape)
        return torch.where(stained.view(-1, *[1] * (values.ndim - 1)), changed, values)

    return apply(image), apply(palette)


def synthetic_section(image: Tensor, labels: Tensor, luck: Luck, strange: Tensor | None = None) -> Tensor:
    """Make up a stained section from bright nuclei: haematoxylin in them, eosin or DAB in what lies around.

    Around the nuclei there are cells (the nuclei grown into each other), their membranes and a mottled ground; how
    much of each is stained differs from crop to crop, so that nuclei can be darker or paler than their surroundings.

    Parameters
    ----------
    image : Tensor, shape (N, C, H, W), float32, normalised
        Nuclei bright on dark ground.
    labels : Tensor, shape (N, H, W), int
        Their ids, 0 for background, negative where unknown.
    luck : Luck
    strange : Tensor, shape (N, H, W), int, optional
        Ids in some other crop, whose cells are drawn now and then: membranes must not give nuclei away. Without it,
        those of the crop before.

    Returns
    -------
    Tensor, shape (N, C, H, W), float32, normalised
        Unchanged where C is not 3.
    """
    if image.shape[1] != 3:
        return image
    nuclei = image.mean(1, keepdim=True).clamp(0, 1) ** _each(luck.between(0.4, 1.2))
    inside = torch.maximum(nuclei, 0.7 * F.avg_pool2d((labels > 0).float()[:, None], 3, 1, 1))
    cells, membranes = _cells(labels, labels.roll(1, 0) if strange is None else strange, luck)
    ground = _mottle(luck, image.shape[2:])
    around = ground * _each(luck.sometimes(0.8) * luck.between(0.05, 1.2))
    around = around + cells * (0.4 + ground) * _each(luck.sometimes(0.6) * luck.between(0.1, 0.9))
    around = around + membranes * (0.3 + ground) * _each(luck.sometimes(0.4) * luck.between(0.3, 1.8))
    around = around * (1 - inside * _each(luck.between(0.5, 1.0)))
    amounts = torch.cat([nuclei * _each(luck.between(0.25, 1.6)), around], dim=1)  # (N, 2, H, W)
    haematoxylin, eosin, dab = _stains(luck.device)
    other = torch.where((luck.sometimes(0.5) > 0)[:, None], dab, eosin)
    colours = torch.stack([haematoxylin.expand_as(other), other], 1) + 0.06 * luck.normal(2, 3)
    section = (-torch.einsum("nshw,nsc->nchw", amounts, colours.clamp(min=0.02))).exp()
    some = section[:, :, ::8, ::8]
    return scale_intensity(section, some.amin((2, 3)), some.amax((2, 3)))


def _stains(device: torch.device) -> Tensor:
    """Colours of haematoxylin, eosin and DAB as unit vectors of optical density, (3, 3)."""
    return F.normalize(torch.tensor((_HAEMATOXYLIN, _EOSIN, _DAB), device=device), dim=1)


def _each(values: Tensor) -> Tensor:
    """One value for each crop, (N,) to (N, 1, 1, 1)."""
    return values[:, None, None, None]


def _cells(labels: Tensor, strange: Tensor, luck: Luck) -> tuple[Tensor, Tensor]:
    """Nuclei grown by 2 to 12 pixels, 0 or 1, and a soft line around each grown one; both (N, 1, H, W)."""
    grown = torch.where(_each(luck.sometimes(0.3))[:, 0] > 0, strange, labels).clamp(min=0).float()[:, None]
    reach = luck.integer(11) + 2
    for step in range(12):
        bigger = torch.where(grown > 0, grown, F.max_pool2d(grown, 3, 1, 1))
        grown = torch.where(_each(step < reach), bigger, grown)
    lines = (F.max_pool2d(grown, 3, 1, 1) != -F.max_pool2d(-grown, 3, 1, 1)).float()
    return (grown > 0).float(), F.avg_pool2d(lines, 3, 1, 1)


def _mottle(luck: Luck, size: torch.Size) -> Tensor:
    """Smooth random texture at several scales, streaks among them, 0 to 1, (N, 1, H, W)."""
    total = torch.zeros(luck.count, 1, *size, device=luck.device)
    for grid in ((4, 4), (16, 16), (64, 64), (128, 128), (6, 60), (60, 6)):
        coarse = luck.uniform(1, *grid)
        total = total + F.interpolate(coarse, size, mode="bilinear") * _each(luck.between(0.0, 1.0))
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    texture: Tensor = ((total - low) / (high - low).clamp(min=1e-6)) ** _each(luck.between(0.7, 2.0))
    return texture
