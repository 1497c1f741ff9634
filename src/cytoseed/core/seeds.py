"""Seeds: the local maxima of the seed map (the paper's section 2.3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def find_seeds(seed_map: Tensor, radius: int, threshold: float) -> Tensor:
    """Local maxima of the seed map (N, H, W), each in the square of `radius` px around it: (S, 3) int64.

    Image, row and column of each seed, in raster order, with a value of `threshold` or more. Two seeds are further
    apart than `radius` in rows or columns. Of equal maxima within the radius, the topmost, then the leftmost is the
    seed: a convex plateau has one seed.
    """
    height, width = seed_map.shape[1], seed_map.shape[2]
    lowest = -float("inf")
    best = _running_maximum(F.pad(seed_map, [radius, radius], value=lowest), radius, 2)
    left, right = best[:, :, :width], best[:, :, radius + 1 : radius + 1 + width]
    row = torch.maximum(torch.maximum(left, right), seed_map)
    best = _running_maximum(F.pad(row, [0, 0, radius, radius], value=lowest), radius, 1)
    above, below = best[:, :height], best[:, radius + 1 : radius + 1 + height]
    first = (seed_map > left) & (seed_map > above)  # strictly above the pixels before it in raster order
    peak = first & (seed_map >= right) & (seed_map >= below) & (seed_map >= threshold)
    return peak.nonzero()


def highest_points(labels: Tensor, seed_map: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (K, 2) of the seed map's maximum in each object 1..K, and its value (K,).

    It decides which tile owns the object. Of equal maxima the topmost, then the leftmost.
    """
    place = labels.flatten().nonzero()[:, 0]
    label = labels.flatten()[place].to(torch.int64) - 1
    height = seed_map.flatten()[place]
    count = int(labels.max()) if labels.numel() > 0 else 0
    heights = torch.full([count], -float("inf"), dtype=height.dtype, device=height.device)
    heights = heights.scatter_reduce(0, label, height, "amax")
    highest = height >= heights[label]
    none = labels.numel()
    first = torch.full([count], none, device=place.device)
    first = first.scatter_reduce(0, label[highest], place[highest], "amin")
    width = labels.shape[1]
    return torch.stack([first.div(width, rounding_mode="floor"), first.remainder(width)], 1), heights


def _running_maximum(values: Tensor, size: int, dim: int) -> Tensor:
    """Maximum of every `size` neighbours along a dimension, which becomes `size` - 1 shorter; faster than pooling."""
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        rest = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, rest), values.narrow(dim, step, rest))
        reach += step
    return values
