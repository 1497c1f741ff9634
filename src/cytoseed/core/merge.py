"""Seeds that agree become one object; each pixel goes to its most probable one (the paper's section 2.3.4)."""

import torch
from torch import Tensor

from cytoseed.core.pieces import connect
from cytoseed.core.pixels import Maps


def agreeing_seeds(maps: Maps, count: int, threshold: float) -> Tensor:
    """Group the seeds whose maps agree: one object each. Only maps that share pixels are ever compared.

    Parameters
    ----------
    maps : Maps
        The pixels of every seed's map.
    count : int
        Number of seeds S.
    threshold : float
        Maps with at least this intersection over union agree, 0 to 1; agreement is passed on.

    Returns
    -------
    Tensor, shape (S,), int64
        For each seed the first seed of its group.
    """
    area = torch.zeros(count, dtype=torch.int64, device=maps.seed.device)
    area = area.scatter_add(0, maps.seed, torch.ones_like(maps.seed))
    order = torch.sort(maps.pixel, stable=True).indices
    pixel, seed = maps.pixel[order], maps.seed[order]
    pairs: list[Tensor] = []
    for step in range(1, 16):  # of more maps on one pixel, each is compared with the next 15
        behind = max(pixel.shape[0] - step, 0)
        shared = (pixel[:behind] == pixel[step:]).nonzero()[:, 0]
        here, there = seed[shared], seed[shared + step]
        pairs.append(torch.minimum(here, there) * count + torch.maximum(here, there))
    pair, common = _count_equal(torch.cat(pairs))
    one, other = pair.div(max(count, 1), rounding_mode="floor"), pair.remainder(max(count, 1))
    agree = common >= threshold * (area[one] + area[other] - common)
    return connect(one[agree], other[agree], count)


def _count_equal(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values in rising order, and how often each occurs."""
    values = torch.sort(values).values
    new = torch.ones_like(values, dtype=torch.bool)
    new[1:] = values[1:] != values[:-1]
    distinct = values[new]
    place = new.to(torch.int64).cumsum(0) - 1
    return distinct, torch.zeros_like(distinct).scatter_add(0, place, torch.ones_like(values))


def paint(maps: Maps, owner: Tensor, pixels: int) -> Tensor:
    """Give each pixel to the object whose logit is the highest there.

    The union of agreeing maps has, at each pixel, the highest of their logits, so that union and argmax are one.

    Parameters
    ----------
    maps : Maps
        The pixels of every seed's map.
    owner : Tensor, shape (S,), int64
        The object of each seed, from 1.
    pixels : int
        Number of pixels of all images.

    Returns
    -------
    Tensor, shape (pixels,), int64
        The object of each pixel, 0 for none. Of equal logits, the object with the smaller number has the pixel.
    """
    lowest = torch.full([pixels], -float("inf"), dtype=maps.logit.dtype, device=maps.logit.device)
    best = lowest.scatter_reduce(0, maps.pixel, maps.logit, "amax")
    wins = maps.logit >= best[maps.pixel]
    labels = torch.zeros([pixels], dtype=torch.int64, device=owner.device)
    return labels.scatter_reduce(0, maps.pixel[wins], owner[maps.seed[wins]], "amin", include_self=False)
