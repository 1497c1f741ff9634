"""The eight flips and quarter turns of an image: the views of test-time augmentation (section 2.8)."""

import torch
from torch import Tensor

VIEWS = 8
"""Number of distinct combinations of flips and quarter turns; the paper's 16 contain each of them twice."""


def turn(values: Tensor, view: int) -> Tensor:
    """Flip and turn values (..., H, W) into a view, 0 to 7; view 0 changes nothing.

    That is `view % 4` quarter turns, after a left-right flip for views 4 and above.
    """
    if view >= 4:
        values = values.flip(-1)
    return torch.rot90(values, view % 4, [-2, -1]) if view % 4 > 0 else values


def turn_back(values: Tensor, view: int) -> Tensor:
    """Undo `turn`: `turn_back(turn(values, view), view)` equals `values`."""
    if view % 4 > 0:
        values = torch.rot90(values, -(view % 4), [-2, -1])
    return values.flip(-1) if view >= 4 else values


def median(views: Tensor) -> Tensor:
    """Median over views (V, ...); for an even number of views, the mean of the middle two."""
    count = views.shape[0]
    ordered = torch.sort(views, dim=0).values
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
