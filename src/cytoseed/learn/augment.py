"""Random augmented crops, made on the training device (the paper's section 2.6).

All images lie in one flat array, and a batch is a few gathers. Stain and brightness change on raw pixels, then the
percentiles of the whole image normalise the crop, then intensity, blur and noise change.
"""

from __future__ import annotations

import math
import mmap
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from cytoseed.core.prepare import percentiles, scale_intensity
from cytoseed.core.scale import rescale, rescale_labels
from cytoseed.images import check_pixels
from cytoseed.learn.annotations import median_diameter, seed_target
from cytoseed.learn.channel_draw import ChannelChoice, choose_channels, fill_channels, nuclear_first
from cytoseed.learn.samples import Sample
from cytoseed.learn.settings import TrainConfig
from cytoseed.learn.stain_augment import BatchRandom, per_crop, synthetic_section, vary_stain
from cytoseed.settings import ModelConfig

_PALETTE_PX = 2048  # pixels that represent a whole image when its percentiles are recomputed


class Batch(NamedTuple):
    """Crops and their targets."""

    image: Tensor  # (N, C, H, W) float32, normalised to [-0.5, 1.5]
    labels: Tensor  # (N, T, H, W) int64: ids of objects, 0 background, -1 not annotated or outside the image
    distance: Tensor  # (N, T, H, W) float32: relative distance to the object's boundary, 0 to 1


class CropSampler:
    """Draws batches of random crops; images that do not fit on the device stay in a temporary file in `scratch`."""

    def __init__(
        self,
        samples: Sequence[Sample],
        model: ModelConfig,
        config: TrainConfig,
        device: torch.device,
        scratch: Path | None = None,
    ) -> None:
        self._config = config
        self._device = device
        self._channels, targets = model.fixed_channels, len(model.targets)
        self._pixels = PixelStore(scratch, max(1, self._channels), "float16")  # of any number: plane after plane
        self._labels, self._distance = PixelStore(scratch, targets, "int32"), PixelStore(scratch, targets, "float16")
        self._stores = (self._pixels, self._labels, self._distance)
        try:
            facts = [self._add(sample, model) for sample in samples]
            room = config.memory_gb * 1e9
            if device.type == "cuda":
                room = max(room, torch.cuda.get_device_properties(device).total_memory / 2)
            fits = sum(store.file.tell() for store in self._stores) <= room
            for store in self._stores:
                store.seal(device if fits else None)
        except BaseException:
            self.close()
            raise
        sizes, palettes, stained, bright_nuclei, diameters, objects, scaled = zip(*facts, strict=True)
        counts = [len(palette) for palette in palettes]
        self.objects = sum(objects)
        ends = np.cumsum([height * width for height, width in sizes])
        self._palette = pad_sequence(list(palettes), batch_first=True).to(device)  # (I, C, P)
        planes = np.cumsum([count * height * width for count, (height, width) in zip(counts, sizes, strict=True)])
        self._first_plane = torch.tensor([0, *planes[:-1].tolist()], device=device)
        self._count = torch.tensor(counts, device=device)
        self._start = torch.tensor([0, *ends[:-1].tolist()], device=device)
        self._size = torch.tensor(sizes, device=device)  # (I, 2)
        self._stained = torch.tensor(stained, device=device)
        self._bright_nuclei = torch.tensor(bright_nuclei, device=device)  # brighter than the background
        nominal = (model.diameter_px / torch.tensor(diameters)).nan_to_num(1.0).clamp(0.25, 4.0)
        self._to_nominal = torch.where(torch.tensor(scaled), 1.0, nominal).to(device)
        self._weight = _weights(samples, objects, config.balance).to(device)

    def close(self) -> None:
        """Delete the temporary files."""
        for store in self._stores:
            store.file.close()

    def _add(self, sample: Sample, model: ModelConfig) -> tuple[Any, ...]:
        """Append an image to the stores, scaled to the model's pixel size as `segment` does.

        Returns size, palette (C, P), whether stained, whether nuclei are bright, median diameter, objects, whether
        scaled.
        """
        pixels, masks, stained = _read(sample, model)
        mask = masks[0]
        brightness = pixels.mean(0, dtype=np.float32)
        spread = np.linspace(0, brightness.size - 1, _PALETTE_PX).round().astype(np.int64)  # even in rank of brightness
        palette = pixels.reshape(len(pixels), -1)[:, np.argsort(brightness, axis=None)[spread]]
        bright_nuclei = bool((mask > 0).any() and brightness[mask > 0].mean() > brightness.mean())
        pixel_size_um = sample.find_pixel_size_um()
        if pixel_size_um is not None:
            factor = pixel_size_um / model.pixel_size_um
            height, width = (max(1, round(side * factor)) for side in mask.shape)
            pixels = rescale(torch.from_numpy(pixels).float(), height, width).numpy().astype(np.float16)
            masks = rescale_labels(torch.from_numpy(masks), height, width).numpy()
        self._pixels.append(pixels.reshape(-1, 1) if self._channels == 0 else pixels.reshape(len(pixels), -1).T)
        self._labels.append(np.moveaxis(masks, 0, -1))
        self._distance.append(np.stack([seed_target(each) for each in masks], -1))
        objects = sum(np.unique(each[each > 0]).size for each in masks)
        known = pixel_size_um is not None
        shape = masks.shape[1:]
        return shape, torch.from_numpy(palette), stained, bright_nuclei, median_diameter(masks[0]), objects, known

    def draw(self, generator: torch.Generator) -> Batch:
        """Batch of random crops; all randomness comes from the generator, which is on the sampler's device."""
        random = BatchRandom(generator, self._device, self._config.batch_size)
        chosen = torch.multinomial(self._weight, random.count, replacement=True, generator=generator)
        flat, inside, weights = self._positions(chosen, random)
        labels = torch.where(inside[..., None], self._labels.take(flat[0]), -1).long().permute(0, 3, 1, 2)
        distance = (self._distance.take(flat[0]).float() * inside[..., None]).permute(0, 3, 1, 2)
        if self._channels == 0:
            choice = choose_channels(self._count[chosen], random)
            image = self._any_channels(chosen, flat, weights, choice, random)
            if choice.number.shape[1] == 1 and labels.shape[1] > 1:  # no one can see whole cells in a nuclear stain
                labels[:, 1] = -1
        else:
            image = self._fixed_channels(chosen, flat, weights, labels[:, 0], random)
        return Batch(image.contiguous(), labels, distance)

    def _fixed_channels(
        self, chosen: Tensor, flat: list[Tensor], weights: list[Tensor], labels: Tensor, random: BatchRandom
    ) -> Tensor:
        """Crops (N, C, H, W) of images that all have the model's channels."""
        pairs = zip(flat, weights, strict=True)
        corners = [self._pixels.take(index).float() * weight[..., None] for index, weight in pairs]
        image = sum(corners[1:], corners[0]).permute(0, 3, 1, 2)  # (N, C, H, W)
        palette = self._palette[chosen].float()
        stained = self._stained[chosen]
        if self._config.augment == "full":
            image, palette = vary_stain(image, palette, stained, random)
        image = _normalise(image, palette)
        if self._config.augment == "full":
            share = self._config.synthetic_stain_share
            if share > 0:
                selected = self._bright_nuclei[chosen] & ~stained & (random.sometimes(share) > 0)
                image = self._make_sections(image, labels, selected, random)
            image = _vary_intensity(image, stained, random)
        return image

    def _any_channels(
        self, chosen: Tensor, flat: list[Tensor], weights: list[Tensor], choice: ChannelChoice, random: BatchRandom
    ) -> Tensor:
        """Crops (N, K, H, W) of the chosen channels, each varied on its own."""
        start = (self._first_plane[chosen][:, None] + choice.number * self._size[chosen].prod(1)[:, None])[
            :, :, None, None
        ]
        image = torch.zeros((), device=self._device)
        for index, weight in zip(flat, weights, strict=True):
            place = start + (index - self._start[chosen][:, None, None])[:, None]
            image = image + self._pixels.take(place)[..., 0].float() * weight[:, None]
        image = _normalise(image, self._palette[chosen[:, None], choice.number].float())
        if self._config.augment == "full":
            every = BatchRandom(random.generator, random.device, choice.number.numel())
            as_planes = image.flatten(0, 1)[:, None]
            keep = torch.ones(every.count, dtype=torch.bool, device=self._device)  # neither inverted nor left out
            image = _vary_intensity(as_planes, keep, every).view(image.shape)
        return fill_channels(image, choice, random)

    def _make_sections(self, image: Tensor, labels: Tensor, selected: Tensor, random: BatchRandom) -> Tensor:
        """Turn the crops in `selected` into synthetic stained sections; on a CPU only these are computed."""
        if self._device.type != "cpu":  # finding the crops would need a synchronisation
            return torch.where(per_crop(selected), synthetic_section(image, labels, random), image)
        rows = selected.nonzero()[:, 0]
        if rows.shape[0] == 0:
            return image
        few = BatchRandom(random.generator, random.device, rows.shape[0])
        sections = synthetic_section(image[rows], labels[rows], few, labels.roll(1, 0)[rows])
        return image.index_copy(0, rows, sections)

    def _positions(self, chosen: Tensor, random: BatchRandom) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Positions in the flat stores for each pixel of each crop, whether it is inside the image, and weights.

        Five positions and bilinear weights of shape (N, H, W): the nearest pixel with weight 0, then the four around.
        """
        side = self._config.crop_px
        matrix = self._transform(chosen, random)  # (N, 2, 2): image pixels to a crop pixel
        size = self._size[chosen]  # (N, 2)
        footprint = matrix.abs().sum(2) * side / 2
        low, high = torch.minimum(footprint, size - footprint), torch.maximum(footprint, size - footprint)
        centre = low + (high - low) * random.uniform(2)
        if self._config.augment == "minimal":  # whole pixels: nothing is interpolated
            centre = (centre - side / 2).round() + side / 2
        steps = torch.arange(side, device=self._device) + 0.5 - side / 2
        grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"))  # (2, H, W)
        source = torch.einsum("nij,jhw->nihw", matrix, grid) + centre[:, :, None, None] - 0.5  # (N, 2, H, W)
        limit = size[:, :, None, None] - 1
        inside = ((source >= -0.5) & (source <= limit + 0.5)).all(1)
        source = _mirror(source, limit)
        first = source.floor().clamp(min=0).minimum((limit - 1).clamp(min=0).float())
        share = (source - first).clamp(0, 1)
        nearest = source.round().long().minimum(limit)
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

    def _transform(self, chosen: Tensor, random: BatchRandom) -> Tensor:
        """Matrices (N, 2, 2) from crop to image: flips and quarter turns; in `full` any angle, scale and stretch."""
        turn = random.integer(4) * (math.pi / 2)
        flip = 1 - 2.0 * random.integer(2)
        scale = torch.ones_like(turn)
        stretch = torch.zeros_like(turn)
        if self._config.augment == "full":
            turn = turn + random.sometimes(0.5) * random.between(-math.pi / 4, math.pi / 4)
            low, high = (math.log(bound) for bound in self._config.scale_range)
            nominal = random.sometimes(self._config.nominal_scale_share) > 0
            base = torch.where(nominal, self._to_nominal[chosen], 1.0)
            scale = base * random.between(low, high).exp()
            stretch = random.sometimes(0.5) * random.between(-0.15, 0.15)
        cosine, sine = turn.cos().round(decimals=6), turn.sin().round(decimals=6)
        rotation = torch.stack([cosine, -sine, sine, cosine], 1).view(-1, 2, 2)
        sides = torch.stack([stretch.exp() / scale, flip * (-stretch).exp() / scale], 1)
        return rotation * sides[:, None, :]


class PixelStore:
    """One array (positions, columns) of float16 or int32, filled in an unnamed file: append, seal, then take values."""

    def __init__(self, folder: Path | None, columns: int, dtype: str) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - lives as long as the store
        self._columns, self._dtype = columns, dtype
        self._map: mmap.mmap | None = None  # map of values that stay in the file

    def append(self, values: NDArray[Any]) -> None:
        """Append values, (P, columns)."""
        self.file.write(np.ascontiguousarray(values, dtype=self._dtype).data)

    def seal(self, device: torch.device | None) -> None:
        """End appending: move everything to a device, or leave it in the file if device is None."""
        self.file.flush()
        mapped = mmap.mmap(self.file.fileno(), 0)
        self._values = torch.frombuffer(mapped, dtype=getattr(torch, self._dtype)).view(-1, self._columns)
        if device is None:
            self._map = mapped
        else:
            self._values = self._values.to(device, copy=True)
            self.file.close()

    def take(self, index: Tensor) -> Tensor:
        """Values at positions, (*index.shape, columns), on the index's device."""
        taken = self._values[index.to(self._values.device)].to(index.device)
        if self._map is not None and hasattr(self._map, "madvise"):
            # pages that were read count as memory of the process until they are released
            self._map.madvise(mmap.MADV_DONTNEED)
        return taken


def _normalise(image: Tensor, palette: Tensor) -> Tensor:
    """Crops (N, C, H, W) normalised by the percentiles of pixels (N, C, P) of their images."""
    low, high = (each.view(palette.shape[:2]) for each in percentiles(palette.flatten(0, 1)[:, None]))
    return scale_intensity(image, low, high)


def _read(sample: Sample, model: ModelConfig) -> tuple[NDArray[np.float16], NDArray[np.int32], bool]:
    """Pixels (C, H, W) scaled to about 0..1, masks (T, H, W), and whether the image is stained."""
    raw, masks = sample.read_targets(model.targets)
    try:
        check_pixels(raw)
    except ValueError as error:
        raise ValueError(f"{sample.image_path}: {error}") from error
    channels = model.fixed_channels
    if channels == 0:
        is_grey = raw.shape[0] == 3 and bool((raw[0] == raw[1]).all() and (raw[0] == raw[2]).all())
        planes = nuclear_first(raw[:1] if is_grey else raw, masks[0])
        return np.stack([_unit_range(each, stained=False) for each in planes]), masks, False
    if raw.shape[0] == 1:
        raw = np.repeat(raw, channels, axis=0)
    if raw.shape[0] != channels:
        raise ValueError(f"{sample.image_path} has {raw.shape[0]} channels; the model takes {channels}, or 1")
    colourful = raw.shape[0] == 3 and bool((raw[0] != raw[1]).any() or (raw[0] != raw[2]).any())
    stained = colourful and sample.modality != "fluorescence"
    return _unit_range(raw, stained), masks, stained


def _unit_range(raw: NDArray[Any], stained: bool) -> NDArray[np.float16]:
    """Scale to about 0..1: stained images by the range of their type, since white means no stain; others by their own.

    Of a grey image the extreme thousandths are left out: a hot pixel would leave the nuclei few steps of float16.
    """
    values = raw.astype(np.float32)
    if stained and np.issubdtype(raw.dtype, np.integer):
        return (values / (255 if values.max() <= 255 else np.iinfo(raw.dtype).max)).astype(np.float16)
    if stained:
        low, high = float(values.min()), float(values.max())
    else:
        low, high = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    return ((values - low) / (high - low or 1.0)).clip(-1, 2).astype(np.float16)


def _weights(samples: Sequence[Sample], objects: Sequence[int], balance: str) -> Tensor:
    """Relative probability of each image; `modality`: a kind's share is the square root of its number of objects."""
    if balance == "image":
        return torch.ones(len(samples))
    kinds = [(sample.dataset, sample.modality) for sample in samples]
    images, total = Counter(kinds), Counter[tuple[str, str]]()
    for kind, count in zip(kinds, objects, strict=True):
        total[kind] += max(1, count)
    return torch.tensor([total[kind] ** 0.5 / images[kind] for kind in kinds])


def _mirror(place: Tensor, limit: Tensor) -> Tensor:
    """Reflect coordinates outside of 0..limit at the edge."""
    period = (2 * limit).clamp(min=1)
    folded = place.abs().remainder(period)
    return torch.minimum(folded, period - folded).minimum(limit.float())


def _vary_intensity(image: Tensor, stained: Tensor, random: BatchRandom) -> Tensor:
    """Vary polarity, channels, gamma, gain, offset, blur and noise."""
    image = torch.where(per_crop(~stained & (random.sometimes(0.1) > 0)), 1 - image, image)
    image = _vary_channels(image, stained, random)
    gamma = per_crop((random.sometimes(0.5) * random.between(-0.6, 0.6)).exp())
    image = image.sign() * (image.abs() + 1e-6) ** gamma
    gain = per_crop((random.sometimes(0.7) * random.between(-0.35, 0.35)).exp())
    offset = per_crop(random.sometimes(0.7) * random.between(-0.12, 0.12))
    image = _blur(image * gain + offset, random.sometimes(0.3) * random.between(0.3, 1.5))
    sigma = per_crop(random.sometimes(0.4) * random.between(0.0, 0.08))
    noise = torch.randn(image.shape, generator=random.generator, device=random.device)
    return (image + sigma * noise).clamp(-0.5, 1.5)


def _vary_channels(image: Tensor, stained: Tensor, random: BatchRandom) -> Tensor:
    """Some stained crops become grey; some grey ones keep only some channels, like a blue DAPI picture."""
    mean = image.mean(1, keepdim=True).expand_as(image)
    image = torch.where(per_crop(stained & (random.sometimes(0.1) > 0)), mean, image)
    keep = (random.uniform(image.shape[1]) < 0.5).float()
    keep = torch.maximum(keep, F.one_hot(random.integer(image.shape[1]), image.shape[1]).float())
    partly = (~stained & (random.sometimes(0.15) > 0))[:, None]
    return image * torch.where(partly, keep, 1.0)[:, :, None, None]


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma in px per crop; 0 changes nothing."""
    steps = torch.arange(-3, 4, device=image.device)
    kernel = (-0.5 * (steps / sigma.clamp(min=1e-3)[:, None]) ** 2).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0)  # (N * C, 7)
    stack = F.pad(image.reshape(1, -1, *image.shape[2:]), [3, 3, 3, 3], mode="reflect")
    stack = F.conv2d(stack, kernel[:, None, :, None], groups=stack.shape[1])
    stack = F.conv2d(stack, kernel[:, None, None, :], groups=stack.shape[1])
    return stack.view(image.shape)
