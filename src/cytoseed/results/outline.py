"""The outline of an object along the edges of its pixels: rasterising it gives back exactly those pixels."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Ring: TypeAlias = list[list[int]]
"""A closed line of [x, y] corners, the last one the first again."""


def outline(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[list[Ring]]:
    """Outline an object.

    Pixel (row, column) covers x from column to column + 1 and y from row to row + 1. Pieces that meet only at
    a corner are pieces of their own, and holes that meet only at a corner are holes of their own, so that no
    ring touches itself and the polygons are valid in the sense of the OGC's simple features.

    Parameters
    ----------
    mask : ndarray, shape (H,W), bool
        The object.
    left, top : int
        Where the mask's first pixel lies: added to x and y.

    Returns
    -------
    list of polygons
        One for each piece: its outer ring, then its holes. With y pointing down, outer rings have a positive
        area by the shoelace formula and holes a negative one. Rings have corners only, no point along a side.
    """
    if not mask.any():
        return []
    rings = _traced(mask)
    if len(rings) == 1 and not _meets_itself(rings[0]) and _area(rings[0]) == np.count_nonzero(mask):
        return [[_placed(rings[0], left, top)]]
    return _pieces(mask, left, top)


def _pieces(mask: NDArray[np.bool_], left: int, top: int) -> list[list[Ring]]:
    """Outline an object that may have several pieces and holes."""
    import cv2

    framed = np.pad(mask.astype(np.uint8), 1)
    number, pieces = cv2.connectedComponents(framed, connectivity=4)
    polygons = []
    for piece in range(1, number):
        region = pieces == piece
        gaps_number, gaps = cv2.connectedComponents((~region).astype(np.uint8), connectivity=4)
        outside = int(gaps[0, 0])
        holes = [gaps == gap for gap in range(1, gaps_number) if gap != outside]
        rings = [_traced(each)[0] for each in (region, *holes)]
        turned = [np.roll(ring[::-1], 1, axis=0) for ring in rings[1:]]  # holes run the other way, from the same corner
        polygons.append([_placed(ring, left - 1, top - 1) for ring in (rings[0], *turned)])
    return polygons


def _traced(region: NDArray[np.bool_]) -> list[NDArray[np.int32]]:
    """Trace the outer borders of a region: the corners (N,2) of each part that is connected by edges or corners.

    Every pixel is made 2 x 2, so that a traced pixel tells by its parity on which edge it lies: 2c is on the left
    edge of pixel c, which is c, and 2c + 1 on its right edge, which is c + 1. A border that turns inwards is traced
    over the diagonal between two pixels; both are on the same corner.
    """
    import cv2

    doubled = region.view(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rings = []
    for contour in contours:
        corners = np.right_shift(contour[:, 0] + 1, 1)
        codes = _codes(corners)
        is_new = np.empty(len(codes), bool)
        is_new[0] = codes[0] != codes[-1]
        np.not_equal(codes[1:], codes[:-1], out=is_new[1:])
        corners = corners[is_new]
        rings.append(corners if _area(corners) > 0 else corners[::-1])
    return rings


def _codes(corners: NDArray[np.int32]) -> NDArray[np.int64]:
    """Give one number for each corner (N,2), the same for the same corner."""
    return corners.view(np.int64)[:, 0]


def _meets_itself(ring: NDArray[np.int32]) -> bool:
    """Tell whether a ring is at one corner twice, as it is where two pieces meet at a corner."""
    codes = np.sort(_codes(ring))
    return bool((codes[1:] == codes[:-1]).any())


def _area(ring: NDArray[np.int32]) -> int:
    """Give the area of a ring, by the shoelace formula; its sides are upright and level in turn."""
    x, y = ring.T
    if x[0] == x[1]:
        return int(np.dot(x[::2], y[1::2] - y[::2]))
    return -int(np.dot(y[::2], x[1::2] - x[::2]))


def _placed(ring: NDArray[np.int32], left: int, top: int) -> Ring:
    placed: Ring = np.add(ring, (left, top)).tolist()
    return [*placed, placed[0]]
