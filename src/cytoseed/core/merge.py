"""Merging of seeds whose maps agree, and assignment of pixels to objects (the paper's section 2.3.4)."""

import torch
from torch import Tensor

from cytoseed.core.pieces import connected_components
from cytoseed.core.pixels import Maps


def agreeing_seeds(maps: Maps, count: int, threshold: float, pixels: int) -> Tensor:
    """For each of `count` seeds the first seed of its group, (S,) int64: the seeds of a group are one object.

    Two maps agree if their intersection over union is `threshold` or more; agreement is transitive. Only
    maps that share pixels are compared. Where more than 16 maps lie on one pixel, each is compared there with the next
    15. `pixels` is the number of pixels of all images.
    """
    each = torch.ones_like(maps.seed)
    area = torch.zeros(count, dtype=torch.int64, device=each.device).scatter_add(0, maps.seed, each)
    times = torch.zeros(pixels, dtype=torch.int64, device=each.device).scatter_add(0, maps.pixel, each)
    several = (times.index_select(0, maps.pixel) > 1).nonzero()[:, 0]  # most pixels belong to one map
    pixel, order = torch.sort(maps.pixel.index_select(0, several))
    seed = maps.seed.index_select(0, several).index_select(0, order)
    ones: list[Tensor] = []
    others: list[Tensor] = []
    for step in range(1, 16):  # each map on a pixel is compared with the next 15
        behind = max(pixel.shape[0] - step, 0)
        shared = (pixel[:behind] == pixel[step:]).nonzero()[:, 0]
        here, there = seed.index_select(0, shared), seed.index_select(0, shared + step)
        ones.append(torch.minimum(here, there))
        others.append(torch.maximum(here, there))
    one, other, common = count_pairs(torch.cat(ones), torch.cat(others), count)
    agree = common >= threshold * (area[one] + area[other] - common)
    return connected_components(one[agree], other[agree], count)


def count_pairs(one: Tensor, other: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct pairs of numbers from 0 to `count` - 1, in ascending order, and how often each occurs: (P,) int64."""
    key, order = torch.sort(one * count + other)
    new = torch.ones_like(key, dtype=torch.bool)
    new[1:] = key[1:] != key[:-1]
    first = order[new]
    times = torch.zeros_like(first).scatter_add(0, new.to(torch.int64).cumsum(0) - 1, torch.ones_like(key))
    return one[first], other[first], times


def paint(maps: Maps, owner: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Object of each of `pixels` pixels, int64: the highest logit wins, among equal ones the lower id; 0 for none.

    `owner` (S,) is the object of each seed, from 1. The union of agreeing maps has the highest of their logits at each
    pixel, so one argmax does both. Also returns that logit, -inf for none.
    """
    lowest = torch.full([pixels], -float("inf"), dtype=maps.logit.dtype, device=maps.logit.device)
    best = lowest.scatter_reduce(0, maps.pixel, maps.logit, "amax")
    wins = (maps.logit >= best.index_select(0, maps.pixel)).nonzero()[:, 0]
    object_of_pixel = owner.index_select(0, maps.seed.index_select(0, wins))
    labels = torch.zeros([pixels], dtype=torch.int64, device=owner.device)
    labels = labels.scatter_reduce(0, maps.pixel.index_select(0, wins), object_of_pixel, "amin", include_self=False)
    return labels, best


def confident_objects(labels: Tensor, seed_map: Tensor, count: int, threshold: float) -> Tensor:
    """Labels (N, H, W), ids up to `count`, without objects whose mean on the seed map is below `threshold`."""
    flat = labels.flatten()
    none = torch.zeros(count + 1, dtype=seed_map.dtype, device=labels.device)
    total = none.scatter_add(0, flat, seed_map.flatten())
    area = none.scatter_add(0, flat, torch.ones_like(seed_map).flatten())
    confident = (total >= threshold * area).index_select(0, flat).view(labels.shape)
    return torch.where(confident, labels, 0)
