"""Channels of training crops for models of any number of channels: which are drawn, and how they differ."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cytoseed.learn.stain_augment import BatchRandom

_COUNTS = (1, 2, 2, 3, 3, 4, 6)
"""Numbers of channels of a batch, each as likely as it is frequent here; all crops of a batch have the same."""

_KEEP_NUCLEI = 0.95
"""Share of crops that keep the nuclear stain."""


class ChannelChoice(NamedTuple):
    """Channels of the crops of a batch, (N, K) each."""

    number: Tensor  # int64: number of the channel in its image
    is_copy: Tensor  # whether the channel is a noisy copy of one that is there already
    is_empty: Tensor  # whether the channel holds noise or nothing


def nuclear_first(pixels: NDArray[Any], mask: NDArray[np.int32]) -> NDArray[Any]:
    """Channels (C, H, W) in an order that begins with the one of most contrast between nuclei and the rest."""
    inside = mask > 0
    if pixels.shape[0] == 1 or not inside.any() or inside.all():
        return pixels
    values = pixels.astype(np.float32)
    contrast = [(each[inside].mean() - each[~inside].mean()) / (each.std() + 1e-6) for each in values]
    first = int(np.argmax(contrast))
    return pixels[[first, *(index for index in range(pixels.shape[0]) if index != first)]]


def choose_channels(counts: Tensor, random: BatchRandom) -> ChannelChoice:
    """Random channels of images with `counts` (N,) channels, the first of them the nuclear stain.

    Where an image has too few, half of the missing ones are copies and half are empty.
    """
    pick = int(torch.randint(len(_COUNTS), (1,), generator=random.generator, device=random.device))
    columns = max(int(counts.max()), *_COUNTS)
    order = random.uniform(columns)
    order[:, 0] -= random.sometimes(_KEEP_NUCLEI)
    order[torch.arange(columns, device=random.device) >= counts[:, None]] = 2.0
    index = order.argsort(1)[:, : _COUNTS[pick]]
    is_missing = index >= counts[:, None]
    is_copy = is_missing & (random.uniform(index.shape[1]) < 0.5)
    return ChannelChoice(torch.where(is_missing, 0, index), is_copy, is_missing & ~is_copy)


def fill_channels(image: Tensor, choice: ChannelChoice, random: BatchRandom) -> Tensor:
    """Crops (N, K, H, W) with noise added to their copies, and empty channels of noise or zeros."""
    noise = torch.randn(image.shape, generator=random.generator, device=random.device)
    sigma, gain, level = (random.uniform(image.shape[1])[:, :, None, None] for _ in range(3))
    copied = gain * image + 0.3 * sigma * noise
    nothing = torch.where(level < 0.5, 0.0, 0.3 * sigma * noise + 0.2 * level)
    image = torch.where(choice.is_copy[:, :, None, None], copied, image)
    return torch.where(choice.is_empty[:, :, None, None], nothing, image).clamp(-0.5, 1.5)
