"""Outlines: polygons of QuPath's GeoJSON, the pixels inside them, and points inside any of many polygons."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from cytoseed.packed import unpack_text
from cytoseed.paths import InputWarning, read_bytes, require_file
from cytoseed.text_files import parse_json

Ring = NDArray[np.float64]
"""Corners (x, y) of a closed line, shape (n, 2), in px: pixel (row, column) covers x from column to column + 1."""

_GZIP = b"\x1f\x8b"
_JSON = re.compile(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\s\0]*[{\[]")  # after a mark of UTF-8 or UTF-16, if any
_EXPORT = "export it from QuPath again"
_FARTHEST_PX = 1 << 52  # beyond it, floats cannot represent half pixels
_GRID_PX = 2.0**-18  # points are rounded down to it, so that no nudge moves them out of their pixel
_MOST_CROSSINGS, _MOST_SELF_CROSSINGS = 1 << 24, 1000  # of a line with rows of pixels, to be drawn; with itself
_MOST_NEAR, _SAMPLED = 1 << 22, 64  # pairs of sides whose boxes overlap, by some of them
_ALWAYS_PX, _MOST_LAYERS = 1 << 26, 8  # that outlines may cover in any image; times that they may cover an image
_ENDLESS = "has a line that crosses itself almost everywhere"
_NUDGE_YX_PX = [[1e-9], [1e-6]]  # moves points off the sides of polygons, also off diagonal ones


class Patch(NamedTuple):
    """Pixels of one object: `inside` (h, w) of a box, and row and column of the box's first pixel."""

    top: int
    left: int
    inside: NDArray[np.bool_]


def rasterise(polygons: Sequence[Sequence[Ring]], shape: tuple[int, int]) -> Patch:
    """Pixels of an image of `shape` (height, width) whose centre is in one of the polygons; empty without any.

    A centre is inside where a line from it crosses the polygon's rings an odd number of times, so rings within
    rings are holes. A centre on a left or upper side is inside, on a right or lower one outside: polygons that
    share a side share no pixel and leave none between them. Polygons may reach beyond the image.
    """
    corners = np.concatenate([np.zeros((0, 2)), *(ring for polygon in polygons for ring in polygon)])
    if not len(corners):
        return Patch(0, 0, np.zeros((0, 0), bool))
    ends = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0))
    (left, top), (right, bottom) = (np.clip(end, 0, (shape[1], shape[0])).astype(int).tolist() for end in ends)
    patch = Patch(top, left, np.zeros((bottom - top, right - left), bool))
    if patch.inside.size:
        for rings in polygons:
            patch.inside[:] |= _crossed_oddly(rings, patch)
    return patch


def draw(outlines: Iterable[Sequence[Sequence[Ring]]], shape: tuple[int, int], path: Path) -> list[Patch]:
    """Pixels of many outlines, each as `rasterise` draws it.

    Raises `ValueError`, with the name of the file that they come from, for absurd ones: thousands of outlines over the
    whole image, or a line that crosses itself everywhere.
    """
    patches, room = [], _ALWAYS_PX + _MOST_LAYERS * shape[0] * shape[1]
    for polygons in outlines:
        try:
            patches.append(rasterise(polygons, shape))
        except ValueError as error:
            raise ValueError(f"{path}: outline {len(patches)} {error}; {_EXPORT}") from error
        room -= patches[-1].inside.size
        if room < 0:
            raise ValueError(
                f"{path}: its first {len(patches)} outlines cover more than {_MOST_LAYERS} times the image; {_EXPORT}"
            )
    return patches


class Outlines:
    """Area in any of many polygons, for points anywhere: the same area that `rasterise` draws."""

    def __init__(self, polygons: Sequence[Sequence[Ring]]) -> None:
        import shapely

        shapes = [_even_odd(rings) for rings in polygons]
        self._shapes = np.array([shape for shape in shapes if shape.area > 0], object)
        self.boxes: NDArray[np.float64] = shapely.bounds(self._shapes).reshape(-1, 4)
        """(P, 4): left, top, right and bottom of each polygon, in px."""

    def holds(self, points_yx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (N, 2) lie in one of the polygons; points on a left or upper side do."""
        import shapely

        y, x = np.floor(points_yx.T / _GRID_PX) * _GRID_PX + _NUDGE_YX_PX
        inside = np.zeros(len(points_yx), bool)
        for index in self._near((x.min(initial=np.inf), y.min(initial=np.inf), x.max(initial=0), y.max(initial=0))):
            shapely.prepare(self._shapes[index])
            inside |= shapely.contains_xy(self._shapes[index], x, y)
        return inside

    def meets(self, box_yxhw: tuple[int, int, int, int]) -> bool:
        """Whether a box may hold a point that lies in one of the polygons; rarely True where it does not."""
        import shapely

        top, left, height, width = box_yxhw
        (dy,), (dx,) = _NUDGE_YX_PX
        bounds = (left + dx, top + dy, left + width - dx, top + height - dy)  # sides that only touch do not count
        near = self._shapes[self._near(bounds)]
        return height > 0 and width > 0 and bool(shapely.intersects(near, shapely.box(*bounds)).any())

    def _near(self, bounds: tuple[float, float, float, float]) -> NDArray[np.int64]:
        left, top, right, bottom = self.boxes.T
        return np.flatnonzero((left <= bounds[2]) & (right >= bounds[0]) & (top <= bounds[3]) & (bottom >= bounds[1]))


def _even_odd(rings: Sequence[Ring]) -> Any:
    """Shapely geometry of the points that a line crosses an odd number of rings to reach."""
    import shapely

    areas = [_area(ring) for ring in rings if len(ring) > 2]
    return functools.reduce(shapely.symmetric_difference, areas, shapely.Polygon())


def _area(ring: Ring) -> Any:
    """Shapely geometry of a ring, which may cross itself some times: the time grows with the square of their number."""
    import shapely

    after = np.roll(ring, -1, axis=0)
    lowest, highest = np.minimum(ring, after), np.maximum(ring, after)
    some = np.linspace(0, len(ring) - 1, min(len(ring), _SAMPLED)).astype(int)
    near = sum(((lowest <= highest[each]) & (highest >= lowest[each])).all(axis=1).sum() for each in some) / len(some)
    area = shapely.Polygon(ring)
    if len(ring) * near < _MOST_NEAR and shapely.is_valid(area):
        return area
    sides = shapely.linestrings(np.stack([ring, after], axis=1))
    is_tangled = len(ring) * near >= _MOST_NEAR
    if is_tangled or shapely.STRtree(sides).query(sides, predicate="crosses").shape[1] > 2 * _MOST_SELF_CROSSINGS:
        raise ValueError(_ENDLESS)
    return shapely.make_valid(area)


def is_geojson(path: Path) -> bool:
    """Whether a file begins like GeoJSON, plain or compressed by gzip."""
    require_file(path)
    with path.open("rb") as file:
        beginning = file.read(64)
    return beginning.startswith(_GZIP) or _JSON.match(beginning) is not None


def read_features(path: Path) -> list[dict[str, Any]]:
    """Features of a GeoJSON file, plain or compressed by gzip; each has a `geometry` of any kind.

    Features without geometry are left out, with an `InputWarning`. Raises `ValueError` for a file that is damaged, not
    JSON, or without features.
    """
    content = read_bytes(path)
    if content.startswith(_GZIP):
        content = unpack_text(content, path, _EXPORT)
    found = parse_json(content, path, _EXPORT)
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list) or not all(isinstance(each, dict) and "geometry" in each for each in found):
        raise ValueError(f"{path} holds no GeoJSON features; in QuPath, use File > Export objects as GeoJSON")
    outlined = [each for each in found if each["geometry"] is not None]
    if len(outlined) < len(found):
        left_out = f"{len(found) - len(outlined)} of {len(found)} features have no geometry and are left out"
        warn(InputWarning(path, left_out), stacklevel=2)
    return outlined


def polygons_of(geometry: Any, where: str) -> list[list[Ring]]:
    """Polygons of a feature's geometry, each a list of rings: the outer one, then holes.

    Raises `ValueError`, with `where` as the feature's name, if it is not a Polygon or MultiPolygon of finite numbers.
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
        raise ValueError(f"{where} has coordinates that are not rings of pairs of numbers; {_EXPORT}")
    return rings


def _crossed_oddly(rings: Sequence[Ring], patch: Patch) -> NDArray[np.bool_]:
    """Pixels of a patch to the right of an odd number of crossings of the rings with their row's middle."""
    height, width = patch.inside.shape
    start = np.concatenate([np.zeros((0, 2)), *rings])
    end = np.concatenate([np.zeros((0, 2)), *(np.roll(ring, -1, axis=0) for ring in rings)])
    start, end = (ends[start[:, 1] != end[:, 1]] for ends in (start, end))
    upper, lower = np.where((start[:, 1] < end[:, 1])[:, None], [start, end], [end, start])
    # x is in px of the image, not of the patch, so that rounding does not depend on the patch
    first, last = (
        np.clip(np.ceil(ends[:, 1] - 0.5) - patch.top, 0, height).astype(np.int64) for ends in (upper, lower)
    )
    if np.maximum(last - first, 0).sum() > _MOST_CROSSINGS:
        raise ValueError(_ENDLESS)
    side, row = _pairs(first, last)
    (x0, y0), (x1, y1) = upper[side].T, lower[side].T
    x = x0 + ((row + patch.top).astype(np.float64) + 0.5 - y0) * (x1 - x0) / (y1 - y0)
    x = np.clip(x, np.minimum(x0, x1), np.maximum(x0, x1))  # despite rounding
    column = np.clip(np.ceil(x - 0.5) - patch.left, 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    odd: NDArray[np.bool_] = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return odd


def _pairs(first: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each index with every number of its own range: indices, numbers."""
    count = np.maximum(end - first, 0)
    index = np.repeat(np.arange(len(first)), count)
    return index, first[index] + np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
