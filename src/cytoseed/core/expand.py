"""Cells without a model of cells: nuclei grown by a distance."""

import math

import torch
from torch import Tensor


def expand_labels(labels: Tensor, reach_px: float) -> Tensor:
    """Labels (H, W) in which every object has grown by up to `reach_px` pixels, never over another object.

    A background pixel takes the label of the nearest object, by the distance between pixel centres, if that is at most
    `reach_px`. Between objects at equal distances the one in its row wins, then that of the nearest row, the upper one
    first, and in a row the left one. A pixel depends only on those within `reach_px` of it.
    """
    reach = math.floor(reach_px)
    beside, squared = _nearest_in_row(labels, reach)
    best, expanded = squared.clone(), beside.clone()
    height = labels.shape[0]
    for away in range(1, min(reach, height - 1) + 1):
        for here, there in ((slice(away, None), slice(None, -away)), (slice(None, -away), slice(away, None))):
            candidate = squared[there] + away * away
            is_nearer = candidate < best[here]
            best[here] = torch.where(is_nearer, candidate, best[here])
            expanded[here] = torch.where(is_nearer, beside[there], expanded[here])
    return torch.where(best <= reach_px * reach_px, expanded, 0)


def _nearest_in_row(labels: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Label of the nearest object pixel in the same row, the left of two, and the squared distance to it."""
    width = labels.shape[1]
    column = torch.arange(width, dtype=torch.int32, device=labels.device).expand_as(labels)
    far = 2 * (width + reach)  # its square is too large for every reach
    is_object = labels > 0
    left = torch.where(is_object, column, -far).cummax(1).values
    right = torch.where(is_object, column, width + far).flip(1).cummin(1).values.flip(1)
    is_left = column - left <= right - column
    distance = torch.where(is_left, column - left, right - column)
    nearest = torch.where(is_left, left, right).clamp(0, width - 1)
    return labels.gather(1, nearest.long()), distance.clamp(max=reach + 1).square()
