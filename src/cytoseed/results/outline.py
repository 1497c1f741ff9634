"""Outlines of objects along the edges of their pixels: rasterising them gives back exactly those pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Block, find_boxes
from cytoseed.results.view import ResultView

Ring: TypeAlias = list[list[int]]
"""A closed line of [x, y] corners, the last one the first again."""

Polygon: TypeAlias = list[Ring]
"""One piece of an object: its outer ring, then its holes."""

Outlined: TypeAlias = tuple[int, tuple[list[Polygon], ...]]
"""Id of an object, and its polygons of each target, in px of the image; empty for a target without it."""


def outline(mask: NDArray[np.bool_], left: int = 0, top: int = 0) -> list[Polygon]:
    """Outline an object, given as mask (H,W) whose first pixel is at `left` and `top` in the image.

    Pixel (row, column) covers x from column to column + 1 and y from row to row + 1. Pieces that meet only at a corner
    are pieces of their own, and so are such holes: no ring touches itself, and the polygons are valid in the sense of
    the OGC's simple features. Each piece is one polygon. With y pointing down, outer rings have a positive area by the
    shoelace formula and holes a negative one. Rings have corners only, no point along a side.
    """
    if not mask.any():
        return []
    rings = _traced(mask)
    meets_itself = len(set(_codes(rings[0]).tolist())) < len(rings[0])  # where two pieces meet at a corner
    if len(rings) == 1 and not meets_itself and _area(rings[0]) == np.count_nonzero(mask):
        return [[_placed(rings[0], left, top)]]
    return _pieces(mask, left, top)


def outlines(block: Block) -> Iterator[Outlined]:
    """Outlines of the objects of a block, in the order of their ids."""
    if not len(block.table):
        return
    first = int(block.table["id"].min())
    for number, boxes in find_boxes(block.labels, first):
        polygons = tuple(
            outline(plane[box] == number, left=block.left + box[1].start, top=block.top + box[0].start) if box else []
            for plane, box in zip(block.labels, boxes, strict=True)
        )
        if any(polygons):  # ids may have gaps
            yield number, polygons


def all_outlines(result: ResultView) -> Iterator[Outlined]:
    """Outlines of all objects of a result, block by block."""
    for block in result.blocks():
        yield from outlines(block)


def _pieces(mask: NDArray[np.bool_], left: int, top: int) -> list[Polygon]:
    """Outline an object that may have several pieces and holes."""
    polygons = []
    for y, x, piece in _connected(mask):
        polygon = [_placed(_traced(piece)[0], left + x, top + y)]
        for row, column, gap in _connected(np.pad(~piece, 1, constant_values=True)):
            if (row, column) != (0, 0):  # there the piece's outside begins
                ring = _traced(gap)[0]
                turned = np.roll(ring[::-1], 1, axis=0)  # holes run the other way, from the same corner
                polygon.append(_placed(turned, left + x + column - 1, top + y + row - 1))
        polygons.append(polygon)
    return polygons


def _connected(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Each part that is connected by edges: row and column of its box in the mask, and the part alone in it."""
    import cv2
    from scipy.ndimage import find_objects

    _, parts = cv2.connectedComponents(mask.view(np.uint8), connectivity=4)
    for part, (rows, columns) in enumerate(find_objects(parts), start=1):
        yield rows.start, columns.start, parts[rows, columns] == part


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
        rings.append(corners if _area(corners) > 0 else np.ascontiguousarray(corners[::-1]))
    return rings


def _codes(corners: NDArray[np.int32]) -> NDArray[np.int64]:
    """One number per corner (N,2), the same for the same corner."""
    return corners.view(np.int64)[:, 0]


def _area(ring: NDArray[np.int32]) -> float:
    """Area of a ring: positive where it runs clockwise as seen, with y pointing down."""
    import cv2

    return cv2.contourArea(ring, oriented=True)


def _placed(ring: NDArray[np.int32], left: int, top: int) -> Ring:
    placed: Ring = np.add(ring, (left, top)).tolist()
    return [*placed, placed[0]]
