"""Whole objects: one connected piece each, no small ones, no holes, numbered without gaps.

Everything works on the horizontal runs of equal labels, of which an image has far fewer than pixels. Neighbours are
the four nearest pixels, for objects and for holes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def connect(first: Tensor, second: Tensor, count: int) -> Tensor:
    """Find the connected groups of a graph, by a fixed number of hooking and pointer-jumping rounds.

    Parameters
    ----------
    first, second : Tensor, shape (E,), int64
        The two ends of each edge, from 0 to `count` - 1; E may be 0. Chains of 100,000 nodes in any order are followed
        to their end; of longer ones, parts may stay apart.
    count : int
        Number of nodes.

    Returns
    -------
    Tensor, shape (count,), int64
        For each node the smallest node of its group.
    """
    root = torch.arange(count, device=first.device)
    for _ in range(12):  # a chain of 100 000 nodes needs 6 rounds in order and 11 shuffled
        here, there = root[first], root[second]
        root = root.scatter_reduce(0, torch.maximum(here, there), torch.minimum(here, there), "amin")
        root = root[root]
        root = root[root]
        root = root[root]
    return root


class Runs(NamedTuple):
    """Horizontal runs of equal labels in a stack of images."""

    run: Tensor
    """(N, H, W) int64: the run of each pixel, counted in raster order."""
    label: Tensor
    """(R,), of the labels' type: the label of each run."""
    length: Tensor
    """(R,) int64: pixels of each run."""
    upper: Tensor
    """(V,) int64: runs that touch one in the row below; a pair can occur twice."""
    lower: Tensor
    """(V,) int64: the runs they touch."""


def find_runs(labels: Tensor) -> Runs:
    """Find the runs of a stack of label images.

    Parameters
    ----------
    labels : Tensor, shape (N, H, W), bool or integer

    Returns
    -------
    Runs
    """
    starts = torch.ones_like(labels, dtype=torch.bool)
    starts[:, :, 1:] = labels[:, :, 1:] != labels[:, :, :-1]
    flat = starts.flatten()
    run = (flat.cumsum(0) - 1).view(labels.shape)
    place = flat.nonzero()[:, 0]
    ends = torch.cat([place[1:], torch.full([1], flat.shape[0], device=place.device)])[: place.shape[0]]
    meets = starts[:, :-1] | starts[:, 1:]  # two runs first meet where one of them starts
    return Runs(run, labels.flatten()[place], ends - place, run[:, :-1][meets], run[:, 1:][meets])


def seed_piece(mask: Tensor) -> Tensor:
    """Keep, of each window's mask, the connected piece that its seed lies in.

    Parameters
    ----------
    mask : Tensor, shape (S, w, w), bool
        w is odd, the seed in the middle.

    Returns
    -------
    Tensor, shape (S, w, w), bool
        Empty where the mask does not hold its own seed.
    """
    runs = find_runs(mask)
    inside = runs.label[runs.upper] & runs.label[runs.lower]
    piece = connect(runs.upper[inside], runs.lower[inside], runs.label.shape[0])
    middle = mask.shape[2] // 2
    of_seed = piece[runs.run[:, middle, middle]]  # (S,)
    return mask & (piece[runs.run] == of_seed[:, None, None])


def whole_objects(labels: Tensor, count: int, min_size: int) -> Tensor:
    """Make every object one piece without holes and number the objects of each image from 1.

    Parameters
    ----------
    labels : Tensor, shape (N, H, W), int64
        0 is background; an object's number is from 1 to `count`, and those of a later image are higher than those of
        an earlier one.
    count : int
        Highest number an object can have.
    min_size : int
        Objects whose largest piece has fewer pixels are left out.

    Returns
    -------
    Tensor, shape (N, H, W), int32
        What `whole_pieces` makes of them. Ids are 1 to K in each image, in the order of the numbers given.
    """
    run, label = _whole(labels, count, min_size)
    by_pixel = without_gaps(label, count)[run]  # 1..K over all images
    if labels.shape[0] == 1:
        return by_pixel
    highest = by_pixel.flatten(1).amax(1)
    before = torch.cummax(highest, 0).values.roll(1)  # ids rise from image to image
    before[0] = 0
    return torch.where(by_pixel > 0, by_pixel - before[:, None, None], 0).to(torch.int32)


def whole_pieces(labels: Tensor, count: int, min_size: int) -> Tensor:
    """Make every object one piece without holes.

    Parameters
    ----------
    labels : Tensor, shape (N, H, W), int64
    count : int
    min_size : int
        All as for `whole_objects`.

    Returns
    -------
    Tensor, shape (N, H, W), int64
        Of each object the largest piece is kept (of equal ones, the topmost) and background that it encloses is
        filled. Numbers stay as they are.
    """
    run, label = _whole(labels, count, min_size)
    return label[run]


def without_gaps(labels: Tensor, count: int) -> Tensor:
    """Give objects numbers from 1 without gaps, in the order of those they have.

    Parameters
    ----------
    labels : Tensor, of any shape, int64
        0 is background; numbers are from 1 to `count`, each of one object, or of objects that belong together.
    count : int
        Highest number there can be.

    Returns
    -------
    Tensor, of the same shape, int32
        Ids are 1 to K; what had the same number has the same id.
    """
    present = torch.zeros(count + 1, dtype=torch.int64, device=labels.device)
    present = present.scatter(0, labels.flatten(), 1)
    present[0] = 0
    return (present.cumsum(0) * present)[labels].to(torch.int32)


def _whole(labels: Tensor, count: int, min_size: int) -> tuple[Tensor, Tensor]:
    """Run of each pixel, and the label of each run once objects are whole."""
    runs = find_runs(labels)
    one, other = _touching(runs)
    label = _largest_pieces(runs, _pieces(one, other, runs.label), count, min_size)
    return runs.run, _fill_holes(runs.run, one, other, label)


def _touching(runs: Runs) -> tuple[Tensor, Tensor]:
    """All pairs of runs that touch, below or beside each other."""
    count = runs.label.shape[0]
    first = torch.zeros(count, dtype=torch.bool, device=runs.label.device)
    first = first.scatter(0, runs.run[:, :, 0].flatten(), True)  # of its row
    right = torch.arange(count, device=runs.label.device)[~first]
    return torch.cat([runs.upper, right - 1]), torch.cat([runs.lower, right])


def _pieces(one: Tensor, other: Tensor, label: Tensor) -> Tensor:
    """First run of the connected piece of each run: of the pairs that touch, those of equal label belong together."""
    same = label[one] == label[other]
    return connect(one[same], other[same], label.shape[0])


def _largest_pieces(runs: Runs, piece: Tensor, count: int, min_size: int) -> Tensor:
    """Labels of the runs, 0 where they are not in the largest piece of their object or that one is too small."""
    area = torch.zeros_like(runs.length).scatter_add(0, piece, runs.length)[piece]
    zeros = torch.zeros(count + 1, dtype=torch.int64, device=piece.device)
    largest = zeros.scatter_reduce(0, runs.label, area, "amax")
    fits = (area == largest[runs.label]) & (area >= min_size) & (runs.label > 0)
    none = piece.shape[0]
    topmost = torch.full_like(zeros, none).scatter_reduce(0, runs.label, torch.where(fits, piece, none), "amin")
    return torch.where(fits & (piece == topmost[runs.label]), runs.label, 0)


def _fill_holes(run: Tensor, one: Tensor, other: Tensor, label: Tensor) -> Tensor:
    """Give background pieces that touch one object, and neither another nor the image's edge, to that object."""
    piece = _pieces(one, other, label)
    here, across = torch.cat([one, other]), torch.cat([other, one])
    apart = piece[here] != piece[across]
    here, beyond = piece[here[apart]], label[across[apart]]
    most = torch.zeros_like(piece).scatter_reduce(0, here, beyond, "amax")
    least = most.scatter_reduce(0, here, beyond, "amin")
    edge = torch.cat([run[:, 0], run[:, -1], run[:, :, 0], run[:, :, -1]], dim=1).flatten()
    least = least.scatter(0, piece[edge], 0)
    enclosed = (label == 0) & (most > 0)[piece] & (least == most)[piece]
    return torch.where(enclosed, most[piece], label)
