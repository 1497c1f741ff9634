"""A label image as runs: stretches of one row that one object covers. There are far fewer of them than of pixels."""

from __future__ import annotations

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
    order: NDArray[np.int64]
    """(R,) Which run, counted over the image row by row, each one is."""

    def place_of_pixels(self) -> NDArray[np.int64]:
        """Tell which object each pixel of an object belongs to, in the image's order of pixels."""
        place, length = np.empty_like(self.place), np.empty_like(self.place)
        place[self.order], length[self.order] = self.place, self.last - self.first + 1
        return np.repeat(place, length)


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
    return Runs(label[begins], begins, np.cumsum(is_new) - 1, row, first, last, order)
