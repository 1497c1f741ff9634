"""Outlines of objects to masks: which of two objects that overlap has a pixel, and what QuPath's classes mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.outlines import Patch, Ring, polygons_of, rasterise, read_features

__all__ = ["Patch", "Ring", "rasterise", "read_annotations", "stack"]

_NOTHING = Patch(0, 0, np.zeros((0, 0), bool))
_IGNORED, _ANNOTATED = "Ignore", "Region"  # QuPath's own classes are Ignore* and Region*


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
    features = read_features(path)
    outlined = [each.get("nucleusGeometry") or each["geometry"] for each in features]
    patches = [rasterise(polygons_of(each, f"{path}: feature {n}"), size) for n, each in enumerate(outlined)]
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


def _class_name(feature: dict[str, Any]) -> str:
    """Name the feature's class: QuPath writes a string, or an object with a name or a list of names."""
    named = (feature.get("properties") or {}).get("classification") or ""
    if isinstance(named, dict):
        named = named.get("name") or next(iter(named.get("names") or ()), "")
    return str(named)
