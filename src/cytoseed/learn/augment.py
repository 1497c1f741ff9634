"""Random crops for training, drawn and changed on the training device (the paper's section 2.6).

All images lie in one flat tensor on the device, and a whole batch is drawn with a few gathers: there is no loader to
wait for. The order is that of a microscope: stain and brightness change on raw pixels, then the whole image's
percentiles are taken, then geometry and noise follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.prepare import percentiles, scale_intensity
from cytoseed.images import check_pixels
from cytoseed.learn.samples import Sample, median_diameter, seed_target
from cytoseed.learn.stain import Luck, synthetic_section, vary_stain
from cytoseed.settings import NOMINAL_DIAMETER_PX, TrainConfig

_PALETTE = 2048  # pixels that stand for a whole image when its percentiles are taken anew


class Batch(NamedTuple):
    """Crops ready for the network, with what they should give."""

    image: Tensor
    """(N, C, H, W) float32, normalised to [-0.5, 1.5]."""
    labels: Tensor
    """(N, 1, H, W) int64: ids of objects, 0 background, -1 not annotated or outside the image."""
    distance: Tensor
    """(N, 1, H, W) float32: relative distance to the object's boundary, 0 to 1."""


class Bank:
    """Images with masks, in memory on one device, from which batches are drawn.

    Parameters
    ----------
    samples : sequence of Sample
        At least one; each has 1 or `channels` channels.
    channels : int
        Channels of the model; a grey image fills them.
    config : TrainConfig
        Crop size, batch size, balance and augmentation.
    device : torch.device
        Where everything lies and happens.

    Raises
    ------
    ValueError
        If there is no sample, or one has another number of channels, or values that are NaN or infinite.
    """

    def __init__(self, samples: Sequence[Sample], channels: int, config: TrainConfig, device: torch.device) -> None:
        if not samples:
            raise ValueError("samples is empty; training needs at least one image with a mask")
        self._config = config
        self._device = device
        parts = [_read(sample, channels) for sample in samples]
        sizes = [part.labels.shape for part in parts]
        ends = np.cumsum([height * width for height, width in sizes])
        self._pixels = torch.cat([part.pixels.flatten(1) for part in parts], dim=1).t().contiguous().to(device)
        self._labels = torch.cat([part.labels.flatten() for part in parts]).to(device)
        self._distance = torch.cat([part.distance.flatten() for part in parts]).to(device)
        self._palette = torch.stack([part.palette for part in parts]).to(device)  # (I, C, P)
        self._start = torch.tensor([0, *ends[:-1].tolist()], device=device)
        self._size = torch.tensor(sizes, device=device)  # (I, 2)
        self._stained = torch.tensor([part.stained for part in parts], device=device)
        self._bright = torch.tensor([part.bright for part in parts], device=device)
        diameters = torch.tensor([part.diameter for part in parts])
        self._to_nominal = (NOMINAL_DIAMETER_PX / diameters).nan_to_num(1.0).clamp(0.25, 4.0).to(device)
        self._weight = _weights(samples, config.balance).to(device)

    def draw(self, generator: torch.Generator) -> Batch:
        """Draw a batch of crops.

        Parameters
        ----------
        generator : torch.Generator
            On the bank's device; all randomness comes from it.

        Returns
        -------
        Batch
        """
        luck = Luck(generator, self._device, self._config.batch_size)
        chosen = torch.multinomial(self._weight, luck.count, replacement=True, generator=generator)
        flat, inside, weights = self._place(chosen, luck)
        labels = torch.where(inside, self._labels[flat[0]], -1).long()
        distance = self._distance[flat[0]].float() * inside
        corners = [self._pixels[index].float() * weight[..., None] for index, weight in zip(flat, weights, strict=True)]
        image = sum(corners[1:], corners[0]).permute(0, 3, 1, 2)  # (N, C, H, W)
        palette = self._palette[chosen].float()
        stained = self._stained[chosen]
        if self._config.augment == "full":
            image, palette = vary_stain(image, palette, stained, luck)
        low, high = _palette_percentiles(palette)
        image = scale_intensity(image, low, high)
        if self._config.augment == "full":
            share = self._config.synthetic_stain_share
            if share > 0:
                some = self._bright[chosen] & ~stained & (luck.sometimes(share) > 0)
                image = torch.where(some[:, None, None, None], synthetic_section(image, labels, luck), image)
            image = _vary_intensity(image, stained, luck)
        return Batch(image.contiguous(), labels[:, None], distance[:, None])

    def _place(self, chosen: Tensor, luck: Luck) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Where each pixel of each crop lies in its image.

        Returns the nearest pixel and the four around it as positions in the flat tensors, (N, H, W) each, nearest
        first; whether it is inside the image; and the weights of these five, 0 for the nearest.
        """
        side = self._config.crop_px
        matrix = self._transform(chosen, luck)  # (N, 2, 2): image pixels to a crop pixel
        size = self._size[chosen]  # (N, 2)
        footprint = matrix.abs().sum(2) * side / 2
        low, high = torch.minimum(footprint, size - footprint), torch.maximum(footprint, size - footprint)
        centre = low + (high - low) * luck.uniform(2)
        if self._config.augment == "minimal":  # whole pixels: nothing is interpolated
            centre = (centre - side / 2).round() + side / 2
        steps = torch.arange(side, device=self._device) + 0.5 - side / 2
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))  # (2, H, W)
        place = torch.einsum("nij,jhw->nihw", matrix, grid) + centre[:, :, None, None] - 0.5  # (N, 2, H, W)
        limit = size[:, :, None, None] - 1
        inside = ((place >= -0.5) & (place <= limit + 0.5)).all(1)
        place = _mirror(place, limit)
        first = place.floor().clamp(min=0).minimum((limit - 1).clamp(min=0).float())
        share = (place - first).clamp(0, 1)
        nearest = place.round().long().minimum(limit)
        start, width = self._start[chosen][:, None, None], size[:, 1, None, None]

        def position(corner: Tensor) -> Tensor:
            return start + corner[:, 0] * width + corner[:, 1]

        flat, weights = [position(nearest)], [torch.zeros_like(share[:, 0])]
        for down in (0, 1):
            for right in (0, 1):
                corner = first.long() + torch.tensor([down, right], device=self._device)[:, None, None]
                flat.append(position(corner.minimum(limit)))
                weights.append((share[:, 0] if down else 1 - share[:, 0]) * (share[:, 1] if right else 1 - share[:, 1]))
        return flat, inside, weights

    def _transform(self, chosen: Tensor, luck: Luck) -> Tensor:
        """Matrices from crop to image: flips and quarter turns; if `full`, any angle, scale and stretch as well."""
        turn = luck.integer(4) * (math.pi / 2)
        flip = 1 - 2.0 * luck.integer(2)
        scale = torch.ones_like(turn)
        stretch = torch.zeros_like(turn)
        if self._config.augment == "full":
            turn = turn + luck.sometimes(0.5) * luck.between(-math.pi / 4, math.pi / 4)
            low, high = (math.log(bound) for bound in self._config.scale_range)
            base = torch.where(luck.sometimes(self._config.nominal_scale_share) > 0, self._to_nominal[chosen], 1.0)
            scale = base * luck.between(low, high).exp()
            stretch = luck.sometimes(0.5) * luck.between(-0.15, 0.15)
        cosine, sine = turn.cos().round(decimals=6), turn.sin().round(decimals=6)
        rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        sides = torch.stack([stretch.exp() / scale, flip * (-stretch).exp() / scale], 1)
        return rotation * sides[:, None, :]


class _Part(NamedTuple):
    pixels: Tensor  # (C, H, W) float16, 0 to 1
    labels: Tensor  # (H, W) int32
    distance: Tensor  # (H, W) float16
    palette: Tensor  # (C, P) float16
    stained: bool
    bright: bool  # nuclei are brighter than what surrounds them
    diameter: float


def _read(sample: Sample, channels: int) -> _Part:
    raw, mask = sample.read()
    try:
        check_pixels(raw)
    except ValueError as error:
        raise ValueError(f"{sample.image_path}: {error}") from error
    if raw.shape[0] == 1:
        raw = np.repeat(raw, channels, axis=0)
    if raw.shape[0] != channels:
        raise ValueError(f"{sample.image_path} has {raw.shape[0]} channels; the model takes {channels}, or 1")
    colourful = raw.shape[0] == 3 and bool((raw[0] != raw[1]).any() or (raw[0] != raw[2]).any())
    stained = colourful and sample.modality != "fluorescence"
    pixels = _unit_range(raw, stained)
    order = np.argsort(pixels.mean(0, dtype=np.float32), axis=None)
    spread = np.linspace(0, order.size - 1, _PALETTE).round().astype(np.int64)  # all brightnesses, evenly
    return _Part(
        torch.from_numpy(pixels),
        torch.from_numpy(mask),
        torch.from_numpy(seed_target(mask).astype(np.float16)),
        torch.from_numpy(pixels.reshape(channels, -1)[:, order[spread]]),
        stained,
        bool(
            (mask > 0).any()
            and pixels.mean(0, dtype=np.float32)[mask > 0].mean() > pixels.mean(0, dtype=np.float32).mean()
        ),
        median_diameter(mask),
    )


def _unit_range(raw: NDArray[Any], stained: bool) -> NDArray[np.float16]:
    """Scale to 0 to 1: a stained image by its type's range, where white means no stain; others by their own range."""
    values = raw.astype(np.float32)
    if stained and np.issubdtype(raw.dtype, np.integer):
        low, high = 0.0, float(255 if values.max() <= 255 else np.iinfo(raw.dtype).max)
    else:
        low, high = float(values.min()), float(values.max())
    return ((values - low) / (high - low or 1.0)).astype(np.float16)


def _weights(samples: Sequence[Sample], balance: str) -> Tensor:
    """Chance of each image; by modality: a kind of image with n of them is drawn as the square root of n."""
    kinds = [(sample.dataset, sample.modality) for sample in samples]
    size = {kind: kinds.count(kind) for kind in set(kinds)}
    if balance == "image":
        return torch.ones(len(samples))
    return torch.tensor([size[kind] ** -0.5 for kind in kinds])


def _mirror(place: Tensor, limit: Tensor) -> Tensor:
    """Fold coordinates outside 0 to `limit` back, as in a mirror at the edge."""
    period = (2 * limit).clamp(min=1)
    folded = place.abs().remainder(period)
    return torch.minimum(folded, period - folded).minimum(limit.float())


def _palette_percentiles(palette: Tensor) -> tuple[Tensor, Tensor]:
    count, channels, pixels = palette.shape
    low, high = percentiles(palette.reshape(count * channels, 1, pixels))
    return low.view(count, channels), high.view(count, channels)


def _vary_intensity(image: Tensor, stained: Tensor, luck: Luck) -> Tensor:
    """Change what detectors and stainings change: polarity, channels, gamma, gain, offset, blur and noise."""
    grey = ~stained
    flip = (grey & (luck.sometimes(0.1) > 0))[:, None, None, None]
    image = torch.where(flip, 1 - image, image)
    image = _vary_channels(image, stained, luck)
    gamma = (luck.sometimes(0.5) * luck.between(-0.6, 0.6)).exp()[:, None, None, None]
    image = image.sign() * (image.abs() + 1e-6) ** gamma
    gain = (luck.sometimes(0.7) * luck.between(-0.35, 0.35)).exp()[:, None, None, None]
    offset = (luck.sometimes(0.7) * luck.between(-0.12, 0.12))[:, None, None, None]
    image = image * gain + offset
    image = _blur(image, luck.sometimes(0.3) * luck.between(0.3, 1.5))
    sigma = (luck.sometimes(0.4) * luck.between(0.0, 0.08))[:, None, None, None]
    noise = torch.randn(image.shape, generator=luck.generator, device=luck.device)
    return (image + sigma * noise).clamp(-0.5, 1.5)


def _vary_channels(image: Tensor, stained: Tensor, luck: Luck) -> Tensor:
    """Stained images become grey now and then; grey ones keep only some channels, as a blue DAPI picture does."""
    mean = image.mean(1, keepdim=True).expand_as(image)
    image = torch.where((stained & (luck.sometimes(0.1) > 0))[:, None, None, None], mean, image)
    keep = (luck.uniform(image.shape[1]) < 0.5).float()
    keep = torch.maximum(keep, F.one_hot(luck.integer(image.shape[1]), image.shape[1]).float())
    partly = (~stained & (luck.sometimes(0.15) > 0))[:, None]
    return image * torch.where(partly, keep, 1.0)[:, :, None, None]


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a width of its own for each crop, in pixels; 0 changes nothing."""
    steps = torch.arange(-3, 4, device=image.device)
    kernel = (-0.5 * (steps / sigma.clamp(min=1e-3)[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0)  # (N * C, 7)
    stack = F.pad(image.reshape(1, -1, *image.shape[2:]), [3, 3, 3, 3], mode="reflect")
    stack = F.conv2d(stack, kernel[:, None, :, None], groups=stack.shape[1])
    stack = F.conv2d(stack, kernel[:, None, None, :], groups=stack.shape[1])
    return stack.view(image.shape)
