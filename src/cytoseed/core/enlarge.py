"""Labels enlarged to the resolution of a finer image, with smooth outlines."""

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.scale import Box, rescale_labels_part

ENLARGE_REACH_PX = 4
"""An object's enlarged outline depends on the labels up to this far from it."""

_LEAST_FACTOR = 1.2
_TINY_PX = 16  # smaller objects could vanish
_TAPS = 4
_BAND = 1 << 18  # pixels computed at a time, so that they stay in the processor's cache


def has_stairs(small_yx: tuple[int, int], full_yx: tuple[int, int]) -> bool:
    """Whether labels are enlarged so much that nearest-neighbour outlines would show stairs."""
    return min(full_yx[0] / small_yx[0], full_yx[1] / small_yx[1]) >= _LEAST_FACTOR


def enlarge_labels_part(
    labels: Tensor,
    origin_yx: tuple[int, int],
    small_yx: tuple[int, int],
    full_yx: tuple[int, int],
    box_yxhw: Box,
    numbers: Tensor | None = None,
) -> Tensor:
    """Enlarge like `rescale_labels_part`, with smooth outlines in place of stairs; labels are (T, h, w) on a CPU.

    A pixel lies in an object if more than half of the weight of the 4 x 4 small pixels around it does, each of weight
    (1 - (dy / 2)²) (1 - (dx / 2)²). It takes the label at its centre, or else that of a neighbour. Objects and gaps
    less than 3 px wide, and tiny objects, stay as they are. Of two targets, a cell gets the pixels of the nucleus of
    its number. The result does not depend on the numbers of the labels; in it, label i of target t is `numbers[t, i]`,
    if these are given.
    """
    top, left, height, width = box_yxhw
    targets, *size = labels.shape
    inside = labels > 0
    label = torch.where(_in_square(~inside), _grown(labels), labels)
    label = torch.where(inside & (~_in_square(inside) | _is_tiny(labels)), -labels, label)  # below 0: always inside
    if numbers is not None and targets == 1:
        number = numbers[0][label.abs().long()]
        label, numbers = torch.where(label < 0, -number, number), None
    is_pair = torch.isin(torch.arange(int(labels.max()) + 1), labels[-1]) if targets == 2 else None
    rows, down = _taps(top, height, small_yx[0], full_yx[0], origin_yx[0], size[0])
    columns, across = _taps(left, width, small_yx[1], full_yx[1], origin_yx[1], size[1])
    sign = torch.where(inside, 1.0, -1.0).transpose(1, 2)
    sums = [F.embedding_bag(columns, plane.contiguous(), per_sample_weights=across, mode="sum") for plane in sign]
    sums = [plane.t().contiguous() for plane in sums]  # (h, width)
    full = torch.empty((targets, height, width), dtype=label.dtype)
    step = max(1, _BAND // max(1, width))
    for first in range(0, height, step):
        lines = slice(first, min(height, first + step))
        box = (top + first, left, lines.stop - first, width)
        band = rescale_labels_part(label, origin_yx, small_yx, full_yx, box)
        for plane, of_rows in zip(band, sums, strict=True):
            balance = F.embedding_bag(rows[lines], of_rows, per_sample_weights=down[lines], mode="sum")
            is_inside = (balance > 0).logical_or_(plane < 0)
            plane.abs_().mul_(is_inside)
        if is_pair is not None:
            nuclei, cells = band
            band[1] = torch.where((nuclei > 0) & is_pair[nuclei.long()], nuclei, cells)
        full[:, lines] = band if numbers is None else numbers.gather(1, band.long().flatten(1)).view_as(band)
    return full


def _is_tiny(labels: Tensor) -> Tensor:
    """Pixels of objects of less than 16 px."""
    tiny = []
    for plane in labels.long():
        sizes = plane.flatten().bincount()
        sizes[0] = _TINY_PX  # the background
        tiny.append((sizes < _TINY_PX)[plane])
    return torch.stack(tiny)


def _in_square(mask: Tensor) -> Tensor:
    """Pixels of a mask (T, H, W) that lie in a square of 3 x 3 of its pixels; edges are repeated."""
    return _any_of_nine(~_any_of_nine(~mask))


def _any_of_nine(mask: Tensor) -> Tensor:
    """Whether any of the 3 x 3 pixels around each pixel is in the mask."""
    for axis in (1, 2):
        size = mask.shape[axis]
        wider = mask.clone()
        wider.narrow(axis, 1, size - 1).logical_or_(mask.narrow(axis, 0, size - 1))
        wider.narrow(axis, 0, size - 1).logical_or_(mask.narrow(axis, 1, size - 1))
        mask = wider
    return mask


def _grown(labels: Tensor) -> Tensor:
    """Labels, and in the background the label of a neighbour: the first above, left, right, below."""
    grown = labels.clone()
    height, width = labels.shape[1:]
    for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
        own = grown[:, max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
        other = labels[:, max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
        own.add_(other * (own == 0))
    return grown


def _taps(first: int, count: int, small: int, full: int, origin: int, held: int) -> tuple[Tensor, Tensor]:
    """The four small lines around each of `count` full-size lines, counted from `origin`, and their weights, (n, 4).

    Lines beyond the `held` ones repeat the edge. Weights are whole numbers, so that their sums are exact in any order.
    """
    centre = (torch.arange(first, first + count, dtype=torch.float64)[:, None] + 0.5) * small / full
    line = (centre - 1.5).floor() + torch.arange(_TAPS)
    weight = 1 - ((line + 0.5 - centre) / 2) ** 2
    return (line.long() - origin).clamp(0, held - 1), (1024 * weight).round().float()
