"""Preparation of raw pixels for the network: percentile normalisation and number of channels."""

import torch
from torch import Tensor


def percentiles(image: Tensor) -> tuple[Tensor, Tensor]:
    """Percentiles 0.1 and 99.9 of each channel of an image (C, H, W): values that occur in it (nearest rank).

    If the two coincide (more than 99.8 % of the pixels are equal), they are the minimum and the maximum. Pixels are
    finite, of any real type; each result is (C,) float32.
    """
    flat = image.reshape(image.shape[0], -1).to(torch.float32)
    lower, upper = percentile_ranks(flat.shape[1])
    low = flat.topk(lower, dim=1, largest=False).values[:, -1]
    high = flat.topk(flat.shape[1] + 1 - upper, dim=1).values[:, -1]  # kthvalue is no faster, and missing in ONNX
    alike = low >= high
    return torch.where(alike, flat.amin(1), low), torch.where(alike, flat.amax(1), high)


def percentiles_of_counts(counts: Tensor, lowest: int = 0) -> tuple[Tensor, Tensor]:
    """Exactly the percentiles of `percentiles`, from the histogram of an integer image.

    `counts` (C, V) are the numbers of pixels with the values `lowest`, `lowest` + 1, ... Raises `ValueError` if a
    channel has no pixels.
    """
    up_to = counts.long().cumsum(1)
    ends: list[list[float]] = []
    for channel, below in enumerate(up_to):
        total = int(below[-1]) if len(below) else 0
        if total < 1:
            raise ValueError(f"channel {channel} has no pixels; percentiles need at least one")
        ranks = [1, *percentile_ranks(total), total]
        ends.append((lowest + torch.searchsorted(below, torch.tensor(ranks, device=below.device))).tolist())
    least, low, high, most = torch.tensor(ends, dtype=torch.float32, device=counts.device).unbind(1)
    alike = low >= high
    return torch.where(alike, least, low), torch.where(alike, most, high)


def percentile_ranks(count: int) -> tuple[int, int]:
    """Ranks, from 1, of percentiles 0.1 and 99.9 among `count` sorted values; `count` is at least 1."""
    last = count - 1
    below = (last + 499 + last // 1000 % 2) // 1000  # last / 1000, halves rounded to even, in exportable operations
    return 1 + below, count - below


def scale_intensity(image: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `low` to 0 and `high` to 1 in each channel, clipped to [-0.5, 1.5]: float32.

    The image is (..., C, H, W), of any real type; `low` and `high` are (..., C). Where they are equal, the channel
    becomes 0.
    """
    span = (high - low)[..., None, None]
    scaled = image.to(torch.float32) - low[..., None, None]
    scaled.div_(torch.where(span > 0, span, torch.full_like(span, float("inf"))))  # a constant channel becomes 0
    return scaled.clamp_(-0.5, 1.5)


def normalise(image: Tensor) -> Tensor:
    """Normalise a whole image (C, H, W) by its `percentiles`, channel by channel: float32 in [-0.5, 1.5]."""
    low, high = percentiles(image)
    return scale_intensity(image, low, high)


def fit_channels(image: Tensor, channels: int) -> Tensor:
    """Image (channels, H, W): a grey one is repeated; as it is if `channels` is 0, any number.

    `ValueError` if it has neither 1 nor `channels` channels.
    """
    present = image.shape[0]
    if channels in (present, 0):
        return image
    if present == 1:
        return image.expand(channels, -1, -1)
    wanted = "1" if channels == 1 else f"{channels} or 1"
    raise ValueError(f"the image has {present} channels, the model takes {wanted}: choose among them")
