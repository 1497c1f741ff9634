"""Size and shape of many objects at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.hull import count_hull_pixels
from cytoseed.results.measure.runs import Runs

_STRIP_PX = 1 << 20  # pixels of the image per pass for the borders


class Shapes(NamedTuple):
    """Measurements of K objects, in the order of `Runs.ids`; equal to scikit-image's `regionprops`."""

    box_yxhw: NDArray[np.int64]  # (4,K) Row and column of the first pixel, height, width; the first row is 0
    centroid_yx_px: NDArray[np.float64]  # (2,K) Mean of the pixels' centres, where pixel 0 covers 0 to 1
    area_px: NDArray[np.int64]  # (K,) Number of pixels
    perimeter_px: NDArray[np.float64]  # (K,) Length of the line through the border pixels' centres; 0 for one pixel
    axes_px: NDArray[np.float64]
    """(2,K) Lengths, longer first, of the axes of the ellipse of equal second moments: four times the root of the
    variance of the pixels' centres along each. 0 for a single pixel, and across a line."""
    eccentricity: NDArray[np.float64]  # (K,) Of that ellipse, 0 (circle, single pixel) to 1 (line)
    solidity: NDArray[np.float64]  # (K,) Share of its convex hull that the object fills, 0 to 1
    moments: NDArray[np.float64]  # (3,K) Second central moments, yy, xx and xy, for `ellipse_of`
    steps: NDArray[np.int64]  # (K,3,4) Border pixels by direction and kind, for `perimeter_of`


def measure_shapes(labels: NDArray[np.int32], runs: Runs, top: int = 0, left: int = 0) -> Shapes:
    """Measure the shape of every object of a label image (H,W); touching neighbours make no difference.

    `top` and `left`, the place of the labels in the image in px, are added to boxes and centroids.
    """
    begins, place = runs.begins, runs.place
    box_top, box_left = runs.row[begins], np.minimum.reduceat(runs.first, begins)
    # all sums are of whole numbers, and so the same wherever the object lies and however the image is cut
    row, first, last = runs.row - box_top[place], runs.first - box_left[place], runs.last - box_left[place]
    size = np.maximum.reduceat(row, begins) + 1, np.maximum.reduceat(last, begins) + 1
    length = last - first + 1
    area = np.add.reduceat(length, begins)
    columns = (first + last) * length // 2  # the sum over a run's pixels
    sum_y, sum_x = np.add.reduceat(row * length, begins), np.add.reduceat(columns, begins)
    centroid = np.stack([sum_y + area * (box_top + top), sum_x + area * (box_left + left)]) / area + 0.5
    moments = np.stack(
        [
            np.add.reduceat(row * row * length, begins) - _product(sum_y, sum_y, area),
            np.add.reduceat(_squares(last + 1) - _squares(first), begins) - _product(sum_x, sum_x, area),
            np.add.reduceat(row * columns, begins) - _product(sum_y, sum_x, area),
        ]
    )
    steps = _count_steps(labels, runs.ids)
    return Shapes(
        np.stack([box_top + top, box_left + left, *size]),
        centroid,
        area,
        perimeter_of(steps),
        *ellipse_of(moments, area),
        area / count_hull_pixels(runs),
        moments,
        steps,
    )


def _squares(number: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sum of the squares of 0 to `number` - 1."""
    return (number - 1) * number * (2 * number - 1) // 6


def _product(one: NDArray[np.int64], other: NDArray[np.int64], area: NDArray[np.int64]) -> NDArray[np.float64]:
    """Part of a second moment about the box's corner that comes from the place of the object's centre."""
    return one.astype(np.float64) * other / area


def ellipse_of(
    moments: NDArray[np.float64], area: NDArray[np.int64], height: float = 1, width: float = 1
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Axes (2,K), 4 sqrt(eigenvalue / area), and eccentricity (K,), 0 if both are 0, by the sides of a pixel."""
    yy, xx, xy = moments * np.array([[height * height], [width * width], [height * width]])
    difference = np.hypot(yy - xx, 2 * xy)  # difference of the eigenvalues, exactly 0 for a circle
    larger, smaller = (yy + xx + difference) / 2, np.maximum(yy + xx - difference, 0) / 2
    axes = 4 * np.sqrt(np.stack([larger, smaller]) / area)
    return axes, np.sqrt(np.minimum(difference / np.where(larger > 0, larger, 1.0), 1.0))


# A border pixel's part of the perimeter, by its neighbours: 1 for itself, 2 for each border pixel of the same object
# beside, above or below it, 10 for each at a corner (Benkrid and Crookes)
_STEPS = np.zeros(50, np.int64)
_STEPS[[5, 7, 15, 17, 25, 27]] = 1  # straight on
_STEPS[[21, 33]] = 2  # diagonally
_STEPS[[13, 23]] = 3  # half of each


def perimeter_of(steps: NDArray[np.int64], height: float = 1, width: float = 1) -> NDArray[np.float64]:
    """Length of each object's border, holes' included, by the sides of a pixel."""
    _, straight, diagonal, half = steps.sum(1).T
    perimeter: NDArray[np.float64] = straight + math.sqrt(2) * diagonal + (1 + math.sqrt(2)) / 2 * half
    if (height, width) == (1, 1):
        return perimeter
    upright, corner, across = steps[..., 1].T
    perimeter = np.asarray(height * upright + (height + width) / 2 * corner + width * across)
    perimeter += height / 2 * steps[:, 0, 3] + width / 2 * (half - steps[:, 0, 3])
    perimeter += math.hypot(height, width) * (diagonal + half / 2)
    return perimeter


def _count_steps(labels: NDArray[np.int32], ids: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number (K,3,4) of border pixels with 0, 1 and 2 border pixels to their sides, by kind, strip by strip."""
    height, width = labels.shape
    steps = np.zeros(12 * len(ids), np.int64)
    rows = max(1, _STRIP_PX // max(1, width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        begin, end = max(0, top - 2), min(bottom + 2, height)
        strip = np.zeros((bottom - top + 4, width + 2), np.int32)
        strip[begin - top + 2 : end - top + 2, 1:-1] = labels[begin:end]
        owner, kind = _border_steps(strip)
        np.add.at(steps, 12 * np.searchsorted(ids, owner) + kind, 1)
    return steps.reshape(-1, 3, 4)


def _border_steps(strip: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Owner of each border pixel of a strip, which has a margin of two rows and one column, and kind of its step.

    The kind is raised by 4 for each border pixel of the object beside it.
    """
    inner = strip[1:-1, 1:-1]
    enclosed = (inner == strip[:-2, 1:-1]) & (inner == strip[2:, 1:-1])
    enclosed &= (inner == strip[1:-1, :-2]) & (inner == strip[1:-1, 2:])
    border = strip[1:-1].copy()
    border[:, 1:-1][enclosed] = 0
    stride = border.shape[1]
    at = np.flatnonzero(border[1:-1] > 0) + stride
    flat = border.ravel()
    owner = flat[at]
    beside = sum((flat[at + offset] == owner).astype(np.uint8) for offset in (-1, 1))
    code = np.ones(len(at), np.uint8) + 2 * beside
    for offset in (-stride, stride):
        code += (flat[at + offset] == owner) * np.uint8(2)
    for offset in (-stride - 1, -stride + 1, stride - 1, stride + 1):
        code += (flat[at + offset] == owner) * np.uint8(10)
    return owner, _STEPS[code] + 4 * beside
