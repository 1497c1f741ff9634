"""Whole objects: each one connected piece without holes, none too small, numbered without gaps.

Everything works on horizontal runs of equal labels, which are far fewer than pixels. Neighbours are the four nearest
pixels, for objects and for holes.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def connected_components(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Smallest node of each node's component, (count,) int64, by a fixed number of rounds of pointer jumping.

    `first` and `second` (E,) are the ends of each edge, from 0 to `count` - 1. Chains of up to 100,000 nodes in any
    order are followed to their end; longer ones may remain in several parts.
    """
    root = torch.arange(count, device=first.device)
    for _ in range(12):  # a chain of 100 000 nodes needs 6 rounds in order and 11 shuffled
        before = root
        here, there = root.index_select(0, first), root.index_select(0, second)
        root = root.scatter_reduce(0, torch.maximum(here, there), torch.minimum(here, there), "amin")
        root = root.index_select(0, root)
        root = root.index_select(0, root)
        root = root.index_select(0, root)
        if _may_stop(root) and torch.equal(root, before):
            break
    return root


def _may_stop(values: Tensor) -> bool:
    """Whether a loop may end early: not on a GPU, which would have to wait for the value, nor in a traced graph."""
    return values.device.type == "cpu" and not is_traced()


def is_traced() -> bool:
    """Whether an exporter is tracing the code."""
    return False if torch.jit.is_scripting() else torch.compiler.is_compiling()  # type: ignore[attr-defined]


class Runs(NamedTuple):
    """Horizontal runs of equal labels in a stack of images."""

    run: Tensor
    """(N, H, W) int32: the run of each pixel, counted in raster order."""
    label: Tensor
    """(R,), of the labels' type: the label of each run."""
    length: Tensor
    """(R,) int64: pixels of each run."""
    upper: Tensor
    """(V,) int64: runs that touch a run in the row below; a pair can occur twice."""
    lower: Tensor
    """(V,) int64: the runs below that they touch."""


def find_runs(labels: Tensor) -> Runs:
    """Runs of a stack of label images (N, H, W), bool or integer."""
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    meets = torch.zeros_like(starts)
    meets[:, :-1] = starts[:, :-1] | starts[:, 1:]  # two runs first meet where one of them starts
    run = _number(starts) - 1
    place = starts.flatten().nonzero()[:, 0]
    ends = torch.cat([place[1:], torch.full([1], starts.numel(), device=place.device)])[: place.shape[0]]
    upper, lower = _meeting(run, meets)
    return Runs(run, labels.flatten().index_select(0, place), ends - place, upper, lower)


def _number(starts: Tensor) -> Tensor:
    """Number of the run that began last at each pixel, int32, from 1 in raster order; 0 before the first."""
    return starts.flatten().cumsum(0, dtype=torch.int32).view(starts.shape)


def _meeting(run: Tensor, meets: Tensor) -> tuple[Tensor, Tensor]:
    """Runs (V,) of the pixels where `meets` is True, and of the pixels below them."""
    upper, by_place = meets.flatten().nonzero()[:, 0], run.flatten()
    lower = by_place.index_select(0, upper + run.shape[2])
    return by_place.index_select(0, upper).to(torch.int64), lower.to(torch.int64)


def seed_piece(mask: Tensor) -> Tensor:
    """Connected piece of each mask (S, w, w), w odd, that holds its middle, the seed; empty if the mask does not."""
    side = mask.shape[2]
    starts = mask.clone()  # starts of runs inside the mask only
    starts[:, :, 1:] = mask[:, :, 1:] & ~mask[:, :, :-1]
    meets = torch.zeros_like(mask)
    meets[:, :-1] = mask[:, :-1] & mask[:, 1:] & (starts[:, :-1] | starts[:, 1:])
    run = _number(starts)
    begin = F.pad(starts.flatten().nonzero()[:, 0], [1, 0])  # position at which each run begins; there is no run 0
    upper, lower = _meeting(run, meets)
    piece = connected_components(upper, lower, begin.shape[0])
    middle = side // 2
    of_seed = piece.index_select(0, torch.where(mask[:, middle, middle], run[:, middle, middle], 0))  # (S,)
    of_seed = F.pad(of_seed, [0, 1])  # there may be no windows
    kept = piece == of_seed.index_select(0, begin.div(side * side, rounding_mode="floor"))
    return mask & _by_pixel(kept, run)


def whole_objects(labels: Tensor, count: int, min_size: int, clean: bool = True) -> Tensor:
    """Labels (N, H, W) int32 of `keep_largest_fill_holes`, numbered from 1 in each image, in their old order.

    In the given `labels`, numbers of an image are higher than those of the images before it. If not `clean`, objects
    keep their pieces and holes, and only those with fewer than `min_size` pixels are removed.
    """
    if clean:
        run, label = _whole(labels, count, min_size)
        by_pixel = _by_pixel(relabel_sequential(label, count), run)  # 1..K over all images
    else:
        flat = labels.flatten()
        area = torch.zeros(count + 1, dtype=torch.int64, device=labels.device)
        area = area.scatter_add(0, flat, torch.ones_like(flat))
        by_pixel = relabel_sequential(torch.where(_by_pixel(area >= min_size, labels), labels, 0), count)
    if labels.shape[0] == 1:
        return by_pixel
    highest = by_pixel.flatten(1).amax(1)
    before = torch.cummax(highest, 0).values.roll(1)  # ids rise from image to image
    before[0] = 0
    return torch.where(by_pixel > 0, by_pixel - before[:, None, None], 0).to(torch.int32)


def keep_largest_fill_holes(labels: Tensor, count: int, min_size: int) -> Tensor:
    """Labels (N, H, W) int64 of the largest piece of every object with the background that it encloses.

    In the given `labels`, 0 is background and numbers are 1 to `count`; they stay as they are. Of equal pieces the
    topmost is kept. Objects whose largest piece has fewer than `min_size` pixels are removed.
    """
    run, label = _whole(labels, count, min_size)
    return _by_pixel(label, run)


def relabel_sequential(labels: Tensor, count: int) -> Tensor:
    """Renumber objects from 1 without gaps, in the order of their numbers: int32, of the same shape.

    In the given `labels`, int64, 0 is background and numbers are 1 to `count`; equal numbers become equal ids.
    """
    present = torch.zeros(count + 1, dtype=torch.int64, device=labels.device)
    present = present.scatter(0, labels.flatten(), 1)
    present[0] = 0
    return _by_pixel((present.cumsum(0) * present).to(torch.int32), labels)


def _by_pixel(values: Tensor, number: Tensor) -> Tensor:
    """`values[number]` for each pixel, several times faster."""
    return values.index_select(0, number.flatten()).view(number.shape)


def _whole(labels: Tensor, count: int, min_size: int) -> tuple[Tensor, Tensor]:
    """Run of each pixel, and label of each run after cleaning."""
    runs = find_runs(labels)
    one, other = _touching(runs)
    label = _largest_pieces(runs, _pieces(one, other, runs.label), count, min_size)
    return runs.run, _fill_holes(runs.run, one, other, label)


def _touching(runs: Runs) -> tuple[Tensor, Tensor]:
    """All pairs of runs that touch, below or beside each other."""
    count = runs.label.shape[0]
    first = torch.zeros(count, dtype=torch.bool, device=runs.label.device)
    first = first.scatter(0, runs.run[:, :, 0].flatten().to(torch.int64), True)  # the first run of its row
    right = torch.arange(count, device=runs.label.device)[~first]
    return torch.cat([runs.upper, right - 1]), torch.cat([runs.lower, right])


def _pieces(one: Tensor, other: Tensor, label: Tensor) -> Tensor:
    """First run of each run's connected piece, from the pairs of touching runs with equal labels."""
    same = (label.index_select(0, one) == label.index_select(0, other)).nonzero()[:, 0]
    return connected_components(one.index_select(0, same), other.index_select(0, same), label.shape[0])


def _largest_pieces(runs: Runs, piece: Tensor, count: int, min_size: int) -> Tensor:
    """Labels of the runs, 0 outside the largest piece of their object or if that is too small."""
    area = torch.zeros_like(runs.length).scatter_add(0, piece, runs.length).index_select(0, piece)
    zeros = torch.zeros(count + 1, dtype=torch.int64, device=piece.device)
    largest = zeros.scatter_reduce(0, runs.label, area, "amax")
    fits = (area == largest.index_select(0, runs.label)) & (area >= min_size) & (runs.label > 0)
    none = piece.shape[0]
    topmost = torch.full_like(zeros, none).scatter_reduce(0, runs.label, torch.where(fits, piece, none), "amin")
    return torch.where(fits & (piece == topmost.index_select(0, runs.label)), runs.label, 0)


def _fill_holes(run: Tensor, one: Tensor, other: Tensor, label: Tensor) -> Tensor:
    """Fill background pieces that touch exactly one object and not the edge of the image."""
    piece = _pieces(one, other, label)
    here, across = torch.cat([one, other]), torch.cat([other, one])
    within, beyond = piece.index_select(0, here), label.index_select(0, across)
    apart = (within != piece.index_select(0, across)).nonzero()[:, 0]
    within, beyond = within.index_select(0, apart), beyond.index_select(0, apart)
    most = torch.zeros_like(piece).scatter_reduce(0, within, beyond, "amax")
    least = most.scatter_reduce(0, within, beyond, "amin")
    edge = torch.cat([run[:, 0], run[:, -1], run[:, :, 0], run[:, :, -1]], dim=1).flatten()
    least = least.scatter(0, piece.index_select(0, edge), 0)
    around = torch.where(least == most, most, 0).index_select(0, piece)
    return torch.where(label == 0, around, label)
