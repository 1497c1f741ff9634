"""Outlines of objects to masks: which pixels an outline holds, which of two that overlap has them, QuPath's GeoJSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""Corners (x, y) of a closed line, shape (n, 2), in px: pixel (row, column) covers x from column to column + 1."""


class Patch(NamedTuple):
    """The pixels of one object, in the smallest box that was looked at."""

    top: int
    """Row of the box's first pixel."""
    left: int
    """Column of the box's first pixel."""
    inside: NDArray[np.bool_]
    """(h, w): whether a pixel belongs to the object."""


_NOTHING = Patch(0, 0, np.zeros((0, 0), bool))
_IGNORED, _ANNOTATED = "Ignore", "Region"  # QuPath's own classes are Ignore* and Region*


def rasterise(polygons: Sequence[Sequence[Ring]], shape: tuple[int, int]) -> Patch:
    """Find the pixels whose centre lies in one of the polygons.

    A centre is inside where a line from it crosses the polygon's rings an odd number of times, so rings within
    rings are holes. A centre on a left or upper side is inside, on a right or lower one outside: polygons that
    share a side share no pixel and leave none between them.

    Parameters
    ----------
    polygons : sequence of polygons
        Each a sequence of rings: `Ring`. They may reach beyond the image.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    Patch
        Empty where no centre is inside.
    """
    corners = [ring for polygon in polygons for ring in polygon if len(ring)]
    if not corners:
        return _NOTHING
    lowest = np.floor(np.min([ring.min(axis=0) for ring in corners], axis=0))
    highest = np.ceil(np.max([ring.max(axis=0) for ring in corners], axis=0))
    left, top = (int(value) for value in np.clip(lowest, 0, (shape[1], shape[0])))
    right, bottom = (int(value) for value in np.clip(highest, 0, (shape[1], shape[0])))
    inside = np.zeros((bottom - top, right - left), bool)
    for rings in polygons:
        inside |= _crossed_oddly([ring - (left, top) for ring in rings if len(ring)], inside.shape)
    return Patch(top, left, inside)


def _crossed_oddly(rings: Sequence[Ring], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mark the pixels to the right of an odd number of crossings of the rings with their row's middle."""
    height, width = shape
    if not rings or not height or not width:
        return np.zeros(shape, bool)
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upper, lower = np.where((start[:, 1] <= end[:, 1])[:, None], [start, end], [end, start])
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64) - first
    side = np.repeat(np.arange(len(start)), count)
    row = first[side] + np.arange(len(side)) - np.repeat(np.cumsum(count) - count, count)
    (x, y), (run, fall) = upper[side].T, (lower - upper)[side].T
    column = np.clip(np.ceil(x + (row + 0.5 - y) * run / fall - 0.5), 0, width).astype(np.int64)
    crossings = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    odd: NDArray[np.bool_] = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2 == 1
    return odd


def stack(patches: Sequence[Patch], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Paint objects into one mask, each with its number; where they overlap, the smaller lies on top.

    An object that would take the last pixels of one below it is left out: it is the same one, marked twice. So
    none is erased by another.

    Parameters
    ----------
    patches : sequence of Patch
        Inside the image; those without a pixel are left out.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 where there is no object, else 1 + the object's place in the sequence, with gaps where one was left
        out. Of equal sizes the later lies on top.
    """
    labels = np.zeros(shape, np.int32)
    visible = np.array([0, *(np.count_nonzero(patch.inside) for patch in patches)])
    for number in sorted(range(1, len(visible)), key=lambda number: (-visible[number], number)):
        top, left, inside = patches[number - 1]
        below = labels[top : top + inside.shape[0], left : left + inside.shape[1]]
        covered, lost = np.unique(below[inside], return_counts=True)
        covered, lost = covered[covered > 0], lost[covered > 0]
        if not visible[number] or (visible[covered] == lost).any():
            continue
        visible[covered] -= lost
        below[inside] = number
    return labels


def read_annotations(path: Path, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """Read objects that were outlined in QuPath, from GeoJSON, as a mask.

    Takes a FeatureCollection, a list of features or one feature, of Polygon and MultiPolygon in pixels of the
    full image, holes included; of a cell with a nucleus, the nucleus (`nucleusGeometry`). Of classified
    features, `Ignore*` marks what nobody annotated, and `Region*` what somebody did: where there are such,
    nothing outside of them is annotated. An object within ignored ground is still an object.

    Parameters
    ----------
    path : Path
        The file.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 is background, 1 + the feature's place an object, with gaps; -1 marks pixels that nobody annotated.
        Which pixels an outline holds, `rasterise` says; which of two that overlap has them, `stack`.

    Raises
    ------
    ValueError
        If the file is not such GeoJSON, or all of its objects lie outside the image.
    """
    size = (shape[0], shape[1])
    features = _features(path)
    patches = [rasterise(_polygons(each, f"{path}: feature {n}"), size) for n, each in enumerate(features)]
    if patches and not any(patch.inside.any() for patch in patches):
        raise ValueError(
            f"{path}: no feature holds a pixel of the image of {shape[0]} x {shape[1]} px; coordinates must be pixels "
            f"of the full image, from its upper left corner, as QuPath exports them"
        )
    named = list(zip(patches, map(_class_name, features), strict=True))
    mask = stack([_NOTHING if name.startswith((_IGNORED, _ANNOTATED)) else patch for patch, name in named], size)
    unknown = _union([patch for patch, name in named if name.startswith(_IGNORED)], size)
    regions = [patch for patch, name in named if name.startswith(_ANNOTATED)]
    if regions:
        unknown |= ~_union(regions, size)
    mask[unknown & (mask == 0)] = -1
    return mask


def _union(patches: Iterable[Patch], shape: tuple[int, int]) -> NDArray[np.bool_]:
    ground = np.zeros(shape, bool)
    for top, left, inside in patches:
        ground[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    return ground


def _features(path: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}; export it from QuPath again") from error
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list) or not all(isinstance(each, dict) and "geometry" in each for each in found):
        raise ValueError(
            f"{path} holds no GeoJSON features; it must be what QuPath writes by File > Export objects as GeoJSON"
        )
    return found


def _class_name(feature: dict[str, Any]) -> str:
    """Name the feature's class: QuPath writes a string, or an object with a name or a list of names."""
    named = (feature.get("properties") or {}).get("classification") or ""
    if isinstance(named, dict):
        named = named.get("name") or next(iter(named.get("names") or ()), "")
    return str(named)


def _polygons(feature: dict[str, Any], where: str) -> list[list[Ring]]:
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(f"{where} is a {kind}; it must be a Polygon or MultiPolygon: leave out points and lines")
    try:
        polygons = [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]
        rings = [[np.array([point[:2] for point in ring], np.float64) for ring in polygon] for polygon in polygons]
        ragged = any(ring.shape != (len(ring), 2) or not np.isfinite(ring).all() for rings_ in rings for ring in rings_)
    except (KeyError, TypeError, ValueError, IndexError):
        ragged = True
    if ragged:
        raise ValueError(f"{where} has coordinates that are no rings of pairs of numbers; export it from QuPath again")
    return rings
