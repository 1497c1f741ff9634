"""A label image as runs: stretches of one row that one object covers, far fewer than pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """The R runs of K objects, object by object, each by row and column."""

    ids: NDArray[np.int32]  # (K,) Labels of the objects, ascending
    begins: NDArray[np.int64]  # (K,) First run of each object
    place: NDArray[np.int64]  # (R,) Object of each run, 0 to K - 1
    row: NDArray[np.int64]  # (R,) Row
    first: NDArray[np.int64]  # (R,) Column of the first pixel
    last: NDArray[np.int64]  # (R,) Column of the last pixel

    def pixels(self, width: int) -> NDArray[np.int64]:
        """Places (N,) of the pixels in the flattened label image of this width, object by object, in order."""
        length = self.last - self.first + 1
        first = self.row * width + self.first
        steps = np.ones(int(length.sum()), np.int64)  # from each pixel to the next
        if len(first):
            steps[0] = first[0]
            steps[np.cumsum(length)[:-1]] = first[1:] - (first + length - 1)[:-1]
        return np.cumsum(steps, out=steps)


def portions(sizes: NDArray[np.int64], limit: int) -> Iterator[slice]:
    """Divide objects of sizes (K,), 1 or more, into portions of at most `limit`; a larger object is alone in one."""
    done = np.cumsum(sizes)
    begin = 0
    while begin < len(sizes):
        most = done[begin] - sizes[begin] + limit
        end = max(begin + 1, int(np.searchsorted(done, most, side="right")))
        yield slice(begin, end)
        begin = end


def find_runs(labels: NDArray[np.int32]) -> Runs:
    """Find the runs of a label image (H,W), whose background is 0 or less.

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
