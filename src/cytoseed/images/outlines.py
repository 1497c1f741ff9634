"""Outlines: polygons of QuPath's GeoJSON, the pixels inside them, and the points inside any of many."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Corners (x, y) of a closed line, shape (n, 2), in px: pixel (row, column) covers x from column to column + 1."""

_GZIP, _BOM, _JSON = b"\x1f\x8b", b"\xef\xbb\xbf", (b"{", b"[")
_FARTHEST_PX = 1 << 52  # beyond it, floating numbers have no halves of pixels
_BATCH_POINTS = 512  # points near to each other that are looked up together: few sides are near to all of them
_MOST_PAIRS = 1 << 20  # of a point and a side, at a time


class Patch(NamedTuple):
    """Pixels of one object, in a box."""

    top: int
    """Row of the box's first pixel."""
    left: int
    """Column of the box's first pixel."""
    inside: NDArray[np.bool_]
    """(h, w) Pixels of the object."""


def rasterise(polygons: Sequence[Sequence[Ring]], shape: tuple[int, int]) -> Patch:
    """Pixels of an image of `shape` (height, width) whose centre is in one of the polygons; empty without any.

    A centre is inside where a line from it crosses the polygon's rings an odd number of times, so rings within
    rings are holes. A centre on a left or upper side is inside, on a right or lower one outside: polygons that
    share a side share no pixel and leave none between them. Polygons may reach beyond the image.
    """
    corners = [ring for polygon in polygons for ring in polygon if len(ring)]
    if not corners:
        return Patch(0, 0, np.zeros((0, 0), bool))
    lowest = np.floor(np.min([ring.min(axis=0) for ring in corners], axis=0))
    highest = np.ceil(np.max([ring.max(axis=0) for ring in corners], axis=0))
    left, top = (int(value) for value in np.clip(lowest, 0, (shape[1], shape[0])))
    right, bottom = (int(value) for value in np.clip(highest, 0, (shape[1], shape[0])))
    patch = Patch(top, left, np.zeros((bottom - top, right - left), bool))
    if patch.inside.size:
        for rings in polygons:
            patch.inside[:] |= _crossed_oddly(_sides(rings), patch)
    return patch


@dataclass(frozen=True, eq=False)
class Outlines:
    """Area inside any of many polygons: the same that `rasterise` draws, for points anywhere."""

    polygons: tuple[_Sides, ...]
    """Sides of each polygon that has any which is not horizontal."""
    boxes: NDArray[np.float64]
    """(P, 4) Left, top, right, bottom of each, in px."""

    @classmethod
    def of(cls, polygons: Sequence[Sequence[Ring]]) -> Outlines:
        """Outlines of polygons, each a sequence of rings."""
        all_sides = tuple(sides for sides in map(_sides, polygons) if len(sides.upper))
        boxes = [
            (each.left.min(), each.upper[:, 1].min(), each.right.max(), each.lower[:, 1].max()) for each in all_sides
        ]
        return cls(all_sides, np.array(boxes, np.float64).reshape(-1, 4))

    def holds(self, points_yx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Mask (N,) of points (N, 2), as y and x in px, that are in one of the polygons.

        A pixel's centre is at (row + 0.5, column + 0.5). A point on a left or upper side is inside, on a right or
        lower one outside.
        """
        inside = np.zeros(len(points_yx), bool)
        for batch in _batches(points_yx):
            y, x = points_yx[batch].T
            left, top, right, bottom = self.boxes.T
            near = (left <= x.max()) & (right >= x.min()) & (top <= y[-1]) & (bottom > y[0])
            for index in np.flatnonzero(near):
                inside[batch] |= _odd(self.polygons[index], y, x)
        return inside

    def meets(self, box_yxhw: tuple[int, int, int, int]) -> bool:
        """Whether a box, without its right and lower edge, may hold a point that is in one of the polygons.

        Never False where there is such a point; True without one only where a side passes through the box or within a
        billionth of it.
        """
        top, left, height, width = box_yxhw
        if height <= 0 or width <= 0:
            return False
        lefts, tops, rights, bottoms = self.boxes.T
        near = (lefts < left + width) & (rights >= left) & (tops < top + height) & (bottoms > top)
        corner = np.array([[top, left]], np.float64)
        # where no side passes through, all points of the box lie alike
        return any(
            _passes(self.polygons[index], box_yxhw) or bool(_odd(self.polygons[index], *corner.T)[0])
            for index in np.flatnonzero(near)
        )


def is_geojson(path: Path) -> bool:
    """Whether a file begins like GeoJSON, plain or compressed by gzip."""
    with path.open("rb") as file:
        beginning = file.read(64)
    return beginning.startswith(_GZIP) or beginning.removeprefix(_BOM).lstrip().startswith(_JSON)


def read_features(path: Path) -> list[dict[str, Any]]:
    """Features of a GeoJSON file, plain or compressed by gzip; each has a `geometry` of any kind.

    Raises
    ------
    ValueError
        The file is damaged, no JSON, or holds no features.
    """
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
        found = json.loads(content.decode("utf-8-sig"))
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is not valid JSON: {error}; export it from QuPath again") from error
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list) or not all(isinstance(each, dict) and "geometry" in each for each in found):
        raise ValueError(
            f"{path} holds no GeoJSON features; it must be what QuPath writes by File > Export objects as GeoJSON"
        )
    return found


def polygons_of(geometry: Any, where: str) -> list[list[Ring]]:
    """Polygons of a feature's geometry, each a list of rings: the outer one, then holes.

    `where` names the feature in errors, such as `a.geojson: feature 3`.

    Raises
    ------
    ValueError
        It is no Polygon or MultiPolygon, or its coordinates are no finite numbers in rings.
    """
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{where} is a {kind}; it must be a Polygon or MultiPolygon: leave out points and lines")
    try:
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        rings = [[np.array([point[:2] for point in ring], np.float64) for ring in polygon] for polygon in polygons]
        ragged = any(
            ring.shape != (len(ring), 2) or not (np.abs(ring) < _FARTHEST_PX).all() for each in rings for ring in each
        )
    except (KeyError, TypeError, ValueError, IndexError):
        ragged = True
    if ragged:
        raise ValueError(f"{where} has coordinates that are no rings of pairs of numbers; export it from QuPath again")
    return rings


class _Sides(NamedTuple):
    """Sides of a polygon's rings that are not horizontal."""

    upper: NDArray[np.float64]  # (n, 2): x and y of the end of smaller y
    lower: NDArray[np.float64]  # (n, 2): of the other end
    left: NDArray[np.float64]  # (n,): the smaller x
    right: NDArray[np.float64]  # (n,): the larger x

    def crossing(self, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """X (n,) where each side crosses its y, which is between its ends: so is x, despite rounding."""
        run, fall = (self.lower - self.upper).T
        x: NDArray[np.float64] = self.upper[:, 0] + (y - self.upper[:, 1]) * run / fall
        return np.clip(x, self.left, self.right)

    def take(self, which: NDArray[Any]) -> _Sides:
        """Sides chosen by an index or a mask."""
        return _Sides(self.upper[which], self.lower[which], self.left[which], self.right[which])


def _sides(rings: Sequence[Ring]) -> _Sides:
    rings = [ring for ring in rings if len(ring)] or [np.zeros((0, 2))]
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    start, end = (ends[start[:, 1] != end[:, 1]] for ends in (start, end))
    upper, lower = np.where((start[:, 1] < end[:, 1])[:, None], [start, end], [end, start])
    return _Sides(upper, lower, np.minimum(start[:, 0], end[:, 0]), np.maximum(start[:, 0], end[:, 0]))


def _crossed_oddly(sides: _Sides, patch: Patch) -> NDArray[np.bool_]:
    """Pixels of a patch to the right of an odd number of crossings of the sides with their row's middle."""
    height, width = patch.inside.shape
    # x is in px of the image, as in `_odd`, not of the patch: so both round alike and agree on every centre
    first = np.clip(np.ceil(sides.upper[:, 1] - 0.5) - patch.top, 0, height).astype(np.int64)
    end = np.clip(np.ceil(sides.lower[:, 1] - 0.5) - patch.top, 0, height).astype(np.int64)
    side, row = _pairs(first, end)
    x = sides.take(side).crossing((row + patch.top).astype(np.float64) + 0.5)
    column = np.clip(np.ceil(x - 0.5) - patch.left, 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    odd: NDArray[np.bool_] = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return odd


def _odd(sides: _Sides, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Points, in order of y, to the right of an odd number of crossings of the sides with their y."""
    number = len(y)
    first, end = np.searchsorted(y, sides.upper[:, 1]), np.searchsorted(y, sides.lower[:, 1])
    met = (end > first) & (sides.left <= x.max())
    wholly_left = met & (sides.right <= x.min())
    begin, stop = (np.bincount(rows[wholly_left], minlength=number + 1) for rows in (first, end))
    crossings = np.cumsum(begin - stop)[:number]
    others = np.flatnonzero(met & ~wholly_left)
    at_once = max(1, _MOST_PAIRS // number)
    for some in (others[start : start + at_once] for start in range(0, len(others), at_once)):
        side, point = _pairs(first[some], end[some])
        crossed = sides.take(some[side]).crossing(y[point]) <= x[point]
        crossings += np.bincount(point[crossed], minlength=number)
    odd: NDArray[np.bool_] = crossings % 2 == 1
    return odd


def _passes(sides: _Sides, box_yxhw: tuple[int, int, int, int]) -> bool:
    """Whether a side passes through a box."""
    top, left, height, width = box_yxhw
    bottom, right = top + height, left + width
    meeting = (sides.upper[:, 1] < bottom) & (sides.lower[:, 1] > top) & (sides.left < right) & (sides.right > left)
    near = sides.take(np.flatnonzero(meeting))
    # of a long side, only where it is while it is as high as the box
    entering, leaving = (
        near.crossing(np.maximum(near.upper[:, 1], top)),
        near.crossing(np.minimum(near.lower[:, 1], bottom)),
    )
    rounding = 1e-9 * (1 + np.maximum(np.abs(near.left), np.abs(near.right)))
    first, last = np.minimum(entering, leaving) - rounding, np.maximum(entering, leaving) + rounding
    return bool(((first < right) & (last > left)).any())


def _pairs(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each index with every number of its own range: indices, numbers."""
    count = np.maximum(end - first, 0)
    index = np.repeat(np.arange(len(first)), count)
    return index, first[index] + np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)


def _batches(points_yx: NDArray[np.float64]) -> Iterator[NDArray[np.int64]]:
    """Indices of points in batches of near ones, each in order of y."""
    y, x = points_yx.T
    batches = -(-len(points_yx) // _BATCH_POINTS)
    strips = max(1, round(batches**0.5))
    for strip in np.array_split(np.argsort(y, kind="stable"), strips):
        along = strip[np.argsort(x[strip], kind="stable")]
        for batch in np.array_split(along, max(1, -(-len(along) // _BATCH_POINTS))):
            if len(batch):
                yield batch[np.argsort(y[batch], kind="stable")]
