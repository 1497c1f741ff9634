"""Pairing of nuclei and cells: which belong together, which pixels they have, and their common id."""

import torch
from torch import Tensor

from cytoseed.core.merge import count_pairs
from cytoseed.core.pieces import keep_largest_fill_holes, relabel_sequential


def pair_nuclei(labels: Tensor, count: int) -> Tensor:
    """Labels in which each nucleus has the id of its cell and lies inside it: (2, H, W) int32, nuclei, then cells.

    In the given `labels`, each plane is numbered separately, with or without gaps, up to `count`, and each object is
    one piece without holes (`whole_objects`).

    A nucleus belongs to the cell that covers most of it, if that is at least half of its pixels. A cell has at most one
    nucleus: of several, the one with the most pixels in it. The others stay unpaired, as do nuclei that no cell covers
    and cells without a nucleus. If numbers of pixels are equal, the nucleus or cell with the lower number wins.

    Ids are 1 to K without gaps over both planes: first the cells in their order, then the nuclei without a cell in
    theirs. In a pair, the cell takes over pixels of the nucleus that belong to no cell, and the nucleus loses those
    that belong to another cell; both stay one piece (the largest) without holes, but the nucleus may become smaller
    than `min_size_px`. It lies inside its cell, except where it encloses another cell. All other objects keep their
    pixels.
    """
    nuclei, cells = labels[0].to(torch.int64), labels[1].to(torch.int64)
    cell_of = _cells_of(nuclei.flatten(), cells.flatten(), count)
    wanted = cell_of[nuclei]  # the cell of each pixel's nucleus
    cells = keep_largest_fill_holes(torch.where(cells == 0, wanted, cells)[None], count, 0)
    nuclei = keep_largest_fill_holes(torch.where((wanted == 0) | (wanted == cells[0]), nuclei, 0)[None], count, 0)
    shared = cell_of[nuclei]
    alone = torch.where(nuclei > 0, nuclei + count, 0)
    return relabel_sequential(torch.cat([torch.where(shared > 0, shared, alone), cells]), 2 * count)


def _cells_of(nuclei: Tensor, cells: Tensor, count: int) -> Tensor:
    """Cell of each nucleus, (count + 1,) int64, 0 for none, from the labels (P,) of all pixels."""
    none = torch.zeros(count + 1, dtype=torch.int64, device=nuclei.device)
    area = none.scatter_add(0, nuclei, torch.ones_like(nuclei))
    both = ((nuclei > 0) & (cells > 0)).nonzero()[:, 0]
    nucleus, cell, common = count_pairs(nuclei[both], cells[both], count + 1)
    is_inside = 2 * common >= area[nucleus]
    nucleus, cell, common = nucleus[is_inside], cell[is_inside], common[is_inside]
    best = _best(nucleus, cell, common, count)
    nucleus, cell, common = nucleus[best], cell[best], common[best]
    best = _best(cell, nucleus, common, count)
    return none.scatter(0, nucleus[best], cell[best])


def _best(whose: Tensor, other: Tensor, common: Tensor, count: int) -> Tensor:
    """Whether a pair shares the most pixels of all pairs with the same `whose`; ties go to the lower `other`."""
    most = torch.zeros(count + 1, dtype=torch.int64, device=whose.device)
    fits = common == most.scatter_reduce(0, whose, common, "amax")[whose]
    lowest = torch.full_like(most, count + 1)
    lowest = lowest.scatter_reduce(0, whose, torch.where(fits, other, count + 1), "amin")
    return fits & (other == lowest[whose])
