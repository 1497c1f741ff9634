"""Number of pixels of the convex hulls of many objects at once: exact, in whole numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.runs import Runs, portions

_ROWS_AT_ONCE = 1 << 17  # bounds the memory for any number and height of objects


def count_hull_pixels(runs: Runs) -> NDArray[np.int64]:
    """Number (K,) of pixels whose centre lies in the convex hull of each object, or on its border.

    The hull is that of the midpoints of the sides of the object's pixels, as in scikit-image's `convex_hull_image`; so
    the hull of a line or of a rectangle has exactly its pixels. The pieces of an object share a hull.
    """
    top = runs.row[runs.begins]
    stops = np.append(runs.begins, len(runs.row))[1:]
    height = runs.row[stops - 1] - top + 1
    counts = np.empty(len(runs.ids), np.int64)
    for portion in portions(height, _ROWS_AT_ONCE):
        part = slice(int(runs.begins[portion.start]), int(stops[portion.stop - 1]))
        place = runs.place[part] - portion.start
        row = runs.row[part] - top[portion][place]
        counts[portion] = _count(place, row, runs.first[part], runs.last[part], height[portion])
    return counts


def _count(
    place: NDArray[np.int64],
    row: NDArray[np.int64],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    height: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Count row by row: from the first pixel in the hull to the last."""
    offset = np.cumsum(height) - height
    at = offset[place] + row
    is_new = np.append(True, at[1:] != at[:-1])  # several runs of a row count from the first to the last
    left, right, place, at = first[is_new], last[np.append(is_new[1:], True)], place[is_new], at[is_new]
    number, rows = len(height), int(height.sum())
    # the right side, mirrored, is a left side as well
    edge = _left_edge(np.append(at, at + rows), np.append(left, -right), np.append(place, place + number), 2 * rows)
    counts: NDArray[np.int64] = np.add.reduceat(1 - edge[:rows] - edge[rows:], offset)
    return counts


def _left_edge(at: NDArray[np.int64], x: NDArray[np.int64], side: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """First column whose pixel centre is in the hull, for each row of each side.

    The hull of the pixels' centres has the left border x(y), convex, with corners on rows. That of the midpoints
    of their sides is this hull widened by the square with corners at half a pixel up, down, left and right; its
    border on row y is the smallest of x(y) - 1/2, x(y - 1/2) and x(y + 1/2), as far as the object reaches.

    `at` (rows of all sides numbered through), `x` (column) and `side`, each (N,), are the leftmost pixels; each side
    has one on its first and one on its last of `rows` rows.
    """
    is_corner = _corners(at, x, side)
    at, x, side = at[is_corner], x[is_corner], side[is_corner]
    goes_on = np.append(side[1:] == side[:-1], False)
    across = np.where(goes_on, np.append(x[1:], 0) - x, 0)
    length = np.diff(at, append=rows)  # from a side's last corner to the next side: 1
    down = np.arange(rows) - np.repeat(at, length)
    last_rows = at[~goes_on]
    x, across, length = np.repeat(x, length), np.repeat(across, length), np.repeat(length, length)

    # floor division rounds down: the columns here are rounded up
    edge: NDArray[np.int64] = x - (length - 2 * across * down) // (2 * length)
    below = x - (-across * (2 * down + 1)) // (2 * length)  # half a row further down; x where the side ends
    np.minimum(edge, below, out=edge)
    below[last_rows] = np.iinfo(np.int64).max  # the next row is another side's
    np.minimum(edge[1:], below[:-1], out=edge[1:])
    return edge


def _corners(at: NDArray[np.int64], x: NDArray[np.int64], side: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points (N,) that are corners of the convex line to the left of each side's points.

    A point that is not left of the line between its neighbours is not a corner; all such points are removed at once,
    until none is left.
    """
    is_corner = np.ones(len(at), np.bool_)
    live = np.arange(len(at))
    while len(live) > 2:
        y, column, whose = at[live], x[live], side[live]
        drops = np.zeros(len(live), np.bool_)
        drops[1:-1] = (whose[:-2] == whose[2:]) & (
            (column[1:-1] - column[:-2]) * (y[2:] - y[:-2]) >= (column[2:] - column[:-2]) * (y[1:-1] - y[:-2])
        )
        is_corner[live[drops]] = False
        loses = np.zeros(int(side[-1]) + 1, np.bool_)
        loses[whose[drops]] = True
        live = live[~drops & loses[whose]]
    return is_corner
