"""Seeds: the local maxima of the seed map (the paper's section 2.3.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def find_seeds(seed_map: Tensor, radius: int, threshold: float) -> Tensor:
    """Find the pixels that are the maximum of the seed map in the square of `radius` pixels around them.

    Parameters
    ----------
    seed_map : Tensor, shape (N, H, W), float
        S of each of N images; 1 at an object's centre, 0 outside objects.
    radius : int
        Half the side of the square, in pixels; 1 or more. Two seeds lie further apart than this, in rows or in
        columns.
    threshold : float
        Only pixels of at least this value are seeds.

    Returns
    -------
    Tensor, shape (S, 3), int64
        Image, row and column of each seed, in raster order. Of equal maxima within reach of each other, the
        topmost, then the leftmost is the seed: a convex plateau gives one, not each of its pixels.
    """
    height, width = seed_map.shape[1], seed_map.shape[2]
    lowest = -float("inf")
    best = _running_maximum(F.pad(seed_map, [radius, radius], value=lowest), radius, 2)
    left, right = best[:, :, :width], best[:, :, radius + 1 : radius + 1 + width]
    row = torch.maximum(torch.maximum(left, right), seed_map)
    best = _running_maximum(F.pad(row, [0, 0, radius, radius], value=lowest), radius, 1)
    above, below = best[:, :height], best[:, radius + 1 : radius + 1 + height]
    first = (seed_map > left) & (seed_map > above)  # strictly above what comes before it in raster order
    peak = first & (seed_map >= right) & (seed_map >= below) & (seed_map >= threshold)
    return peak.nonzero()


def _running_maximum(values: Tensor, size: int, dim: int) -> Tensor:
    """Maximum of every `size` neighbours along a dimension, which loses `size` - 1; faster than pooling."""
    reach = 1
    while reach < size:
        step = min(reach, size - reach)
        rest = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, rest), values.narrow(dim, step, rest))
        reach += step
    return values
