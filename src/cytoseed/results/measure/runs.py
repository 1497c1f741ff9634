"""A label image as runs: stretches of one row that one object covers. There are far fewer of them than of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """The R runs of K objects; of one object after the other, by row and column."""

    ids: NDArray[np.int32]
    """(K,) The objects' labels, ascending."""
    begins: NDArray[np.int64]
    """(K,) Which run is the first of each object."""
    place: NDArray[np.int64]
    """(R,) Which object each run belongs to, 0 to K - 1."""
    row: NDArray[np.int64]
    """(R,) Row."""
    first: NDArray[np.int64]
    """(R,) Column of the first pixel."""
    last: NDArray[np.int64]
    """(R,) Column of the last pixel."""

    def pixels(self, width: int) -> NDArray[np.int64]:
        """List the pixels of each object, one object after the other, by row and column.

        Parameters
        ----------
        width : int
            Of the label image.

        Returns
        -------
        ndarray, shape (N,), int64
            Where each pixel lies in the flattened label image.
        """
        length = self.last - self.first + 1
        first = self.row * width + self.first
        steps = np.ones(int(length.sum()), np.int64)  # from each pixel to the next
        if len(first):
            steps[0] = first[0]
            steps[np.cumsum(length)[:-1]] = first[1:] - (first + length - 1)[:-1]
        return np.cumsum(steps, out=steps)


def portions(sizes: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Divide objects into portions of consecutive ones, so that only one portion need be worked on at a time.

    Parameters
    ----------
    sizes : ndarray, shape (K,), int64
        How large each object is, 1 or more.
    limit : int
        How large a portion is at most; an object larger than this is one by itself.
    """
    done = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        most = done[begin] - sizes[begin] + limit
        end = max(begin + 1, int(np.searchsorted(done, most, side="right")))
        yield slice(begin, end)
        begin = end


def find_runs(labels: NDArray[np.int32]) -> Runs:
    """Find the runs of a label image.

    Parameters
    ----------
    labels : ndarray, shape (H,W), int32
        Ids of objects, with gaps or without; 0 and less is background.

    Returns
    -------
    Runs
        Two objects side by side are two runs, and so are two parts of one row with background between them.
    """
    height, width = labels.shape
    differs = np.ones((height, width + 1), np.bool_)  # a pixel from its left neighbour
    np.not_equal(labels[:, 1:], labels[:, :-1], out=differs[:, 1:width])
    inside = labels > 0
    begin = np.flatnonzero(inside & differs[:, :-1])
    end = np.flatnonzero(inside & differs[:, 1:])
    row, first = np.divmod(begin, max(1, width))
    label = labels[row, first]

    order = np.argsort(label, kind="stable")
    label, row, first, last = label[order], row[order], first[order], (end - begin + first)[order]
    is_new = np.ones(len(label), np.bool_)
    np.not_equal(label[1:], label[:-1], out=is_new[1:])
    begins = np.flatnonzero(is_new)
    return Runs(label[begins], begins, np.cumsum(is_new) - 1, row, first, last)
