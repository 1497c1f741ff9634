"""From raw pixels to what the network takes, and labels back to the input's size."""

import torch
from torch import Tensor
from torch.nn import functional as F

_LOW, _HIGH = 0.001, 0.999  # percentiles 0.1 and 99.9
_CLIP_LOW, _CLIP_HIGH = -0.5, 1.5


def percentiles(image: Tensor) -> tuple[Tensor, Tensor]:
    """Percentiles 0.1 and 99.9 of each channel, as values that occur in it (nearest rank).

    Parameters
    ----------
    image : Tensor, shape (C, H, W), any real dtype, finite, H and W at least 1

    Returns
    -------
    low, high : Tensor, shape (C,), float32
        Where the two coincide (more than 99.8 % of the pixels are equal), the minimum and the maximum.
    """
    flat = image.reshape(image.shape[0], -1).to(torch.float32)
    last = flat.shape[1] - 1
    low = flat.kthvalue(1 + round(_LOW * last), dim=1).values
    high = flat.kthvalue(1 + round(_HIGH * last), dim=1).values
    alike = low >= high
    return torch.where(alike, flat.amin(1), low), torch.where(alike, flat.amax(1), high)


def scale_intensity(image: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Map `low` to 0 and `high` to 1 in each channel, clipped to [-0.5, 1.5].

    Parameters
    ----------
    image : Tensor, shape (..., C, H, W), any real dtype
    low, high : Tensor, shape (..., C)
        A channel whose `low` and `high` are equal becomes 0.

    Returns
    -------
    Tensor, shape (..., C, H, W), float32
    """
    span = (high - low)[..., None, None]
    shifted = image.to(torch.float32) - low[..., None, None]
    scaled = shifted / torch.where(span > 0, span, torch.ones_like(span))
    return torch.where(span > 0, scaled, torch.zeros_like(scaled)).clamp(_CLIP_LOW, _CLIP_HIGH)


def normalise(image: Tensor) -> Tensor:
    """Percentile normalisation of a whole image, channel by channel.

    Parameters
    ----------
    image : Tensor, shape (C, H, W), any real dtype, finite, H and W at least 1

    Returns
    -------
    Tensor, shape (C, H, W), float32, in [-0.5, 1.5]
        Percentile 0.1 is 0, percentile 99.9 is 1; a constant channel is 0.
    """
    low, high = percentiles(image)
    return scale_intensity(image, low, high)


def fit_channels(image: Tensor, channels: int) -> Tensor:
    """Give an image the number of channels that a model takes: a grey one fills them all.

    Parameters
    ----------
    image : Tensor, shape (C, H, W)
    channels : int

    Returns
    -------
    Tensor, shape (channels, H, W)

    Raises
    ------
    ValueError
        If the image has neither 1 nor `channels` channels.
    """
    present = image.shape[0]
    if present == channels:
        return image
    if present == 1:
        return image.expand(channels, -1, -1)
    wanted = "1" if channels == 1 else f"{channels} or 1"
    raise ValueError(f"the image has {present} channels, the model takes {wanted}: choose among them")


def rescale(image: Tensor, height: int, width: int) -> Tensor:
    """Resample an image, bilinear, with anti-aliasing where it shrinks.

    Parameters
    ----------
    image : Tensor, shape (C, H, W), float32
    height, width : int
        New size, at least 1 each.

    Returns
    -------
    Tensor, shape (C, height, width), float32
    """
    if image.shape[1] == height and image.shape[2] == width:
        return image
    return F.interpolate(image[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def rescale_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """Resample labels: each new pixel takes the label at its centre (nearest neighbour).

    Parameters
    ----------
    labels : Tensor, shape (T, H, W), integer
    height, width : int
        New size, at least 1 each.

    Returns
    -------
    Tensor, shape (T, height, width), same dtype
        Objects smaller than the new pixels can vanish.
    """
    if labels.shape[1] == height and labels.shape[2] == width:
        return labels
    rows = _nearest(labels.shape[1], height, labels.device)
    columns = _nearest(labels.shape[2], width, labels.device)
    return labels[:, rows][:, :, columns]


def _nearest(old: int, new: int, device: torch.device) -> Tensor:
    centres = 2 * torch.arange(new, device=device) + 1
    return (centres * old).div(2 * new, rounding_mode="floor")
