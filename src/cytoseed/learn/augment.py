"""Random crops for training, drawn and changed on the training device (the paper's section 2.6).

All images lie in one flat array, on the device while they fit, and a whole batch is drawn with a few gathers: there is
no loader to wait for. The order is that of a microscope: stain and brightness change on raw pixels, then the whole
image's percentiles are taken, then geometry and noise follow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.prepare import percentiles, scale_intensity
from cytoseed.core.scale import rescale, rescale_labels
from cytoseed.images import check_pixels
from cytoseed.learn.samples import Sample, median_diameter, seed_target
from cytoseed.learn.stain import Luck, synthetic_section, vary_stain
from cytoseed.learn.store import Store
from cytoseed.settings import ModelConfig, TrainConfig

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
    """Images with masks from which batches are drawn.

    Parameters
    ----------
    samples : sequence of Sample
        At least one; each has one channel or as many as the model.
    model : ModelConfig
        Its channels, which a grey image fills, and its pixel size: images of known pixel size are first scaled to it.
    config : TrainConfig
        Crop size, batch size, balance and augmentation.
    device : torch.device
        Where everything happens, and where the images lie while they fit.
    scratch : Path, optional
        Folder on a disk for images that do not fit; the system's folder for temporary files if none is given.

    Raises
    ------
    ValueError
        If there is no sample, or one has another number of channels, or values that are NaN or infinite.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        model: ModelConfig,
        config: TrainConfig,
        device: torch.device,
        scratch: Path | None = None,
    ) -> None:
        if not samples:
            raise ValueError("samples is empty; training needs at least one image with a mask")
        self._config = config
        self._device = device
        self._pixels = Store(scratch, model.channels, "float16")
        self._labels, self._distance = Store(scratch, 1, "int32"), Store(scratch, 1, "float16")
        self._stores = (self._pixels, self._labels, self._distance)
        with ExitStack() as undo:
            undo.callback(self.close)
            parts = [self._add(sample, model) for sample in samples]
            fits = sum(store.size_bytes for store in self._stores) <= _room_bytes(device, config.memory_gb)
            for store in self._stores:
                store.seal(device if fits else None)
            undo.pop_all()
        sizes = [part.size for part in parts]
        ends = np.cumsum([height * width for height, width in sizes])
        self._palette = torch.stack([part.palette for part in parts]).to(device)  # (I, C, P)
        self._start = torch.tensor([0, *ends[:-1].tolist()], device=device)
        self._size = torch.tensor(sizes, device=device)  # (I, 2)
        self._stained = torch.tensor([part.stained for part in parts], device=device)
        self._bright = torch.tensor([part.bright for part in parts], device=device)
        nominal = (model.diameter_px / torch.tensor([part.diameter for part in parts])).nan_to_num(1.0).clamp(0.25, 4.0)
        self._to_nominal = torch.where(torch.tensor([part.scaled for part in parts]), 1.0, nominal).to(device)
        self._weight = _weights(samples, [part.objects for part in parts], config.balance).to(device)

    def close(self) -> None:
        """Delete what lies on a disk; nothing can be drawn any more."""
        for store in self._stores:
            store.close()

    def _add(self, sample: Sample, model: ModelConfig) -> _Facts:
        """Take an image into the stores; one of known pixel size at the model's, scaled as `segment` does."""
        pixels, mask, stained = _read(sample, model.channels)
        brightness = pixels.mean(0, dtype=np.float32)
        spread = np.linspace(0, brightness.size - 1, _PALETTE).round().astype(np.int64)  # all brightnesses, evenly
        palette = pixels.reshape(model.channels, -1)[:, np.argsort(brightness, axis=None)[spread]]
        bright = bool((mask > 0).any() and brightness[mask > 0].mean() > brightness.mean())
        pixel_size_um = sample.find_pixel_size_um()
        if pixel_size_um is not None:
            pixels, mask = _rescale(pixels, mask, pixel_size_um / model.pixel_size_um)
        self._pixels.append(pixels.reshape(model.channels, -1).T)
        self._labels.append(mask)
        self._distance.append(seed_target(mask))
        return _Facts(
            size=(mask.shape[0], mask.shape[1]),
            palette=torch.from_numpy(palette),
            stained=stained,
            bright=bright,
            diameter=median_diameter(mask),
            objects=np.unique(mask[mask > 0]).size,
            scaled=pixel_size_um is not None,
        )

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
        labels = torch.where(inside, self._labels.take(flat[0])[..., 0], -1).long()
        distance = self._distance.take(flat[0])[..., 0].float() * inside
        pairs = zip(flat, weights, strict=True)
        corners = [self._pixels.take(index).float() * weight[..., None] for index, weight in pairs]
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
                image = self._make_sections(image, labels, some, luck)
            image = _vary_intensity(image, stained, luck)
        return Batch(image.contiguous(), labels[:, None], distance[:, None])

    def _make_sections(self, image: Tensor, labels: Tensor, some: Tensor, luck: Luck) -> Tensor:
        """Colour some crops like stained sections; on a CPU the others are not even computed."""
        if self._device.type != "cpu":  # there, finding out which ones they are would cost more
            return torch.where(some[:, None, None, None], synthetic_section(image, labels, luck), image)
        rows = some.nonzero()[:, 0]
        if rows.shape[0] == 0:
            return image
        few = Luck(luck.generator, luck.device, rows.shape[0])
        made = synthetic_section(image[rows], labels[rows], few, labels.roll(1, 0)[rows])
        return image.index_copy(0, rows, made)

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
            nominal = luck.sometimes(self._config.nominal_scale_share) > 0
            base = torch.where(nominal, self._to_nominal[chosen], 1.0)
            scale = base * luck.between(low, high).exp()
            stretch = luck.sometimes(0.5) * luck.between(-0.15, 0.15)
        cosine, sine = turn.cos().round(decimals=6), turn.sin().round(decimals=6)
        rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        sides = torch.stack([stretch.exp() / scale, flip * (-stretch).exp() / scale], 1)
        return rotation * sides[:, None, :]


class _Facts(NamedTuple):
    """What is kept of an image beside its pixels."""

    size: tuple[int, int]
    palette: Tensor  # (C, P) float16
    stained: bool
    bright: bool  # nuclei are brighter than what surrounds them
    diameter: float
    objects: int
    scaled: bool  # to the model's pixel size


def _read(sample: Sample, channels: int) -> tuple[NDArray[np.float16], NDArray[np.int32], bool]:
    """Pixels (C, H, W) on one scale, mask (H, W), and whether the image is stained."""
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
    return _unit_range(raw, stained), mask, stained


def _rescale(
    pixels: NDArray[np.float16], mask: NDArray[np.int32], factor: float
) -> tuple[NDArray[np.float16], NDArray[np.int32]]:
    """Resample an image (C, H, W), with anti-aliasing where it shrinks, and its mask (H, W)."""
    height, width = (max(1, round(side * factor)) for side in mask.shape)
    image = rescale(torch.from_numpy(pixels).float(), height, width)
    return image.numpy().astype(np.float16), rescale_labels(torch.from_numpy(mask)[None], height, width)[0].numpy()


def _unit_range(raw: NDArray[Any], stained: bool) -> NDArray[np.float16]:
    """Scale to about 0 to 1: a stained image by its type's range, where white means no stain; others by their own.

    A grey image's own range leaves out the brightest and darkest thousandth: one hot pixel among 65,536 grey levels
    would leave the nuclei a few steps of float16.
    """
    values = raw.astype(np.float32)
    if stained and np.issubdtype(raw.dtype, np.integer):
        return (values / (255 if values.max() <= 255 else np.iinfo(raw.dtype).max)).astype(np.float16)
    if stained:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    return ((values - low) / (high - low or 1.0)).clip(-1, 2).astype(np.float16)


def _room_bytes(device: torch.device, memory_gb: float) -> float:
    """How much a device may hold of the training images."""
    room = memory_gb * 1e9
    return max(room, torch.cuda.get_device_properties(device).total_memory / 2) if device.type == "cuda" else room


def _weights(samples: Sequence[Sample], objects: Sequence[int], balance: str) -> Tensor:
    """Chance of each image; by modality: a kind of image is drawn as the square root of its number of objects."""
    if balance == "image":
        return torch.ones(len(samples))
    kinds = [(sample.dataset, sample.modality) for sample in samples]
    images, total = Counter(kinds), Counter[tuple[str, str]]()
    for kind, count in zip(kinds, objects, strict=True):
        total[kind] += max(1, count)
    return torch.tensor([total[kind] ** 0.5 / images[kind] for kind in kinds])


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
