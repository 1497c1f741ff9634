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
        Half the side of the square, in pixels, 1 or more. Two seeds lie further apart than this, in rows or in
        columns.
    threshold : float
        Only pixels of at least this value are seeds.

    Returns
    -------
    Tensor, shape (S, 3), int64
        Image, row and column of each seed, in raster order. Of equal maxima within reach of each other, the
        topmost, then the leftmost is the seed, so a plateau gives one.
    """
    lowest = -float("inf")
    sideways = F.pad(seed_map, [radius, radius], value=lowest)
    best = F.max_pool2d(sideways, [1, radius], stride=1)  # (N, H, W + radius + 1)
    width = seed_map.shape[2]
    left, right = best[:, :, :width], best[:, :, radius + 1 : radius + 1 + width]
    row = torch.maximum(torch.maximum(left, right), seed_map)
    upright = F.pad(row, [0, 0, radius, radius], value=lowest)
    best = F.max_pool2d(upright, [radius, 1], stride=1)  # (N, H + radius + 1, W)
    height = seed_map.shape[1]
    above, below = best[:, :height], best[:, radius + 1 : radius + 1 + height]
    first = (seed_map > left) & (seed_map > above)  # strictly above what comes before it in raster order
    peak = first & (seed_map >= right) & (seed_map >= below) & (seed_map >= threshold)
    return peak.nonzero()
