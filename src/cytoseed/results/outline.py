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
    import cv2

    framed = np.pad(mask.astype(np.uint8), 1)
    number, pieces = cv2.connectedComponents(framed, connectivity=4)
    offset = np.array([left - 1, top - 1])
    polygons = []
    for piece in range(1, number):
        region = pieces == piece
        gaps_number, gaps = cv2.connectedComponents((~region).astype(np.uint8), connectivity=4)
        outside = int(gaps[0, 0])
        rings = [_ring(region, offset)]
        rings += [_ring(gaps == gap, offset)[::-1] for gap in range(1, gaps_number) if gap != outside]
        polygons.append(rings)
    return polygons


def _ring(region: NDArray[np.bool_], offset: NDArray[np.int_]) -> Ring:
    """Trace the outer border of a region that is connected by edges and does not touch the mask's frame.

    Every pixel is made 2 x 2, so that a traced pixel tells by its parity on which edge it lies: 2c is on the
    left edge of pixel c, which is c, and 2c + 1 on its right edge, which is c + 1.
    """
    import cv2

    doubled = region.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    corners = (contours[0].reshape(-1, 2) + 1) // 2
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    arriving = corners - np.roll(corners, 1, axis=0)
    leaving = np.roll(corners, -1, axis=0) - corners
    corners = corners[(arriving != leaving).any(axis=1)] + offset  # every step is one pixel long
    x, y = corners[:, 0], corners[:, 1]
    if np.dot(x, np.roll(y, -1)) < np.dot(y, np.roll(x, -1)):
        corners = corners[::-1]
    ring: Ring = corners.tolist()
    return [*ring, ring[0]]
