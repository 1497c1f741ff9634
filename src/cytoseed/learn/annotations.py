"""Instance masks: read from QuPath's outlines, and measured for training."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.label_image import NO_OBJECTS, stack_objects
from cytoseed.images.outlines import Patch, draw, polygons_of, read_features
from cytoseed.paths import InputWarning

_EMPTY_PATCH = Patch(0, 0, np.zeros((0, 0), bool))
_IGNORED, _ANNOTATED = "Ignore", "Region"  # QuPath's own classes are Ignore* and Region*


def has_cells(path: Path) -> bool:
    """Whether a GeoJSON file of QuPath holds cells with nuclei."""
    return any(each.get("nucleusGeometry") for each in read_features(path))


def read_annotations(path: Path, shape: tuple[int, ...], target: str = "nuclei") -> NDArray[np.int32]:
    """Read objects outlined in QuPath (GeoJSON, in pixels of the full image) as a mask, (H, W).

    Ids are 1 + the feature's index, with gaps. For a cell with a nucleus, the nucleus is used (`nucleusGeometry`), or
    the cell where `target` is `cells`.
    Pixels in features of the class `Ignore*` become -1, not annotated; if there are features of the class `Region*`, so
    does everything outside them. An object inside an ignored area is still an object.
    """
    size = (shape[0], shape[1])
    features = read_features(path)
    inner = "nucleusGeometry" if target == "nuclei" else "geometry"
    outlined = [each.get(inner) or each["geometry"] for each in features]
    patches = draw((polygons_of(each, f"{path}: feature {n}") for n, each in enumerate(outlined)), size, path)
    if patches and not any(patch.inside.any() for patch in patches):
        size_text = f"{shape[0]} x {shape[1]} px"
        raise ValueError(
            f"{path}: no feature contains a pixel of the image ({size_text}); export it from QuPath in pixels"
        )
    named = list(zip(patches, map(_class_name, features), strict=True))
    objects = [_EMPTY_PATCH if name.startswith((_IGNORED, _ANNOTATED)) else patch for patch, name in named]
    mask = stack_objects(objects, size)
    unknown = _union([patch for patch, name in named if name.startswith(_IGNORED)], size)
    regions = [patch for patch, name in named if name.startswith(_ANNOTATED)]
    if regions:
        unknown |= ~_union(regions, size)
    mask[unknown & (mask == 0)] = -1
    if not (mask > 0).any():
        warn(InputWarning(path, NO_OBJECTS), stacklevel=2)
    return mask


def seed_target(mask: NDArray[Any]) -> NDArray[np.float32]:
    """Relative distance of each pixel to its object's boundary, the target of the seed map (section 2.3.1).

    The Euclidean distance from the pixel's centre to the nearest pixel of another value, divided by its maximum in the
    object: in (0, 1] on objects, with at least one 1 in each; 0 elsewhere. The image's edge is not a boundary.
    """
    from scipy import ndimage
    from skimage.segmentation import relabel_sequential

    target = np.zeros(mask.shape, np.float32)
    compact = relabel_sequential(np.maximum(mask, 0))[0]
    for index, box in enumerate(ndimage.find_objects(compact), start=1):
        # One more pixel on each side, where there is one, holds the nearest pixel of another value.
        crop = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        own = compact[crop] == index
        distance = np.ones(own.shape) if own.all() else ndimage.distance_transform_edt(own)
        target[crop][own] = (distance / distance.max())[own]
    return target


def median_diameter(mask: NDArray[Any]) -> float:
    """Median over objects of the diameter, in px, of a disc of equal area; nan if there are no objects."""
    _, areas = np.unique(mask[mask > 0], return_counts=True)
    return float(np.median(np.sqrt(areas * (4 / np.pi)))) if areas.size else float("nan")


def _union(patches: Iterable[Patch], shape: tuple[int, int]) -> NDArray[np.bool_]:
    area = np.zeros(shape, bool)
    for top, left, inside in patches:
        area[top : top + inside.shape[0], left : left + inside.shape[1]] |= inside
    return area


def _class_name(feature: dict[str, Any]) -> str:
    """Class of a feature: QuPath writes a string, or an object with a name or a list of names."""
    properties = feature.get("properties")
    named = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(named, dict):
        names = named.get("names")
        named = named.get("name") or (names[0] if names and isinstance(names, list) else None)
    return str(named or "")
