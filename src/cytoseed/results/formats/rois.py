"""Outlines as a zip of ImageJ's regions of interest, for the ROI Manager of Fiji."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.results.formats.objects_zip import member
from cytoseed.results.outline import Polygon, all_outlines
from cytoseed.results.view import SINGULAR, ResultView

_LARGEST_PX = 32_767  # longest side of an image: the limit of 16-bit coordinates
_MOST_OBJECTS = 65_535  # entries of a zip before ZIP64; the ROI Manager holds and lists each one
_MOST_CORNERS = 65_535  # corners of a traced ROI: their number has 16 bits, in a composite 32
_VERSION = 227  # version of the ROI format; later ones add groups, which are not used
_COLOURS = (b"\xff\xff\xd6\x0a", b"\xff\x00\xe5\xff")  # alpha, red, green, blue: nuclei and cells, as in the overlay
_MOVE_TO, _LINE_TO, _CLOSE = 0, 1, 4  # java.awt.geom.PathIterator


def write_rois(result: ResultView, path: Path) -> None:
    """Write a ROI per object, in the order of the labels, along the edges of its pixels.

    ImageJ counts a pixel to a ROI where its centre is inside, so the ROIs give back exactly the labels. An object of
    one piece without holes is a traced ROI, as the Wand tool and Analyze Particles make them: ImageJ measures their
    perimeter as it does its own. Any other object is one composite ROI of all its pieces and holes, and so is one of
    more than 65,535 corners. `nucleus-000012` is the nucleus of label 12. Of two targets the nucleus comes first, then
    the cell, in two colours. ROIs belong to no channel or slice. More than 65,535 ROIs, as two targets may have, are a
    ZIP64, which ImageJ reads too. What is larger, `rois_limit` says.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for label, of_targets in all_outlines(result):
            for plane, (target, polygons) in enumerate(zip(result.targets, of_targets, strict=True)):
                if polygons:
                    name = f"{SINGULAR.get(target, target)}-{label:06d}"
                    colour = _COLOURS[plane % len(_COLOURS)] if len(result.targets) > 1 else None
                    archive.writestr(member(f"{name}.roi"), _roi(polygons, name, colour), zipfile.ZIP_DEFLATED)


def rois_limit(shape: tuple[int, int, int], count: int) -> str | None:
    """Reason why ImageJ could not read the ROIs, and a format that can; None if it could."""
    _, height, width = shape
    others = "take geojson, geojson.gz or geojson-split"
    if max(height, width) > _LARGEST_PX:
        return (
            f"the image has {width} x {height} px, and coordinates in an ImageJ ROI have 16 bits: "
            f"they end at {_LARGEST_PX:,} px; {others}"
        )
    if count > _MOST_OBJECTS:
        return (
            f"there are {count:,} objects, and it takes up to {_MOST_OBJECTS:,}, as a plain zip does: "
            f"ImageJ's ROI Manager lists each one; {others}, or labels for ImageJ"
        )
    return None


def _roi(polygons: list[Polygon], name: str, colour: bytes | None) -> bytes:
    """Bytes of an object's ROI."""
    from roifile import ROI_TYPE, ImagejRoi

    rings = [np.array(ring[:-1], np.int32) for polygon in polygons for ring in polygon]  # ImageJ closes them itself
    left, top = np.min([ring.min(axis=0) for ring in rings], axis=0).tolist()
    right, bottom = np.max([ring.max(axis=0) for ring in rings], axis=0).tolist()
    form: dict[str, Any]
    if len(rings) == 1 and len(rings[0]) <= _MOST_CORNERS:
        corners = rings[0] - np.array((left, top), np.int32)
        form = {"roitype": ROI_TYPE.TRACED, "n_coordinates": len(corners), "integer_coordinates": corners}
    else:
        path = np.concatenate([_path(ring) for ring in rings])
        form = {"roitype": ROI_TYPE.RECT, "shape_roi_size": len(path), "multi_coordinates": path}
    if colour is not None:
        form["stroke_color"] = colour
    return ImagejRoi(version=_VERSION, name=name, left=left, top=top, right=right, bottom=bottom, **form).tobytes()


def _path(ring: np.ndarray[Any, np.dtype[np.int32]]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A ring as a part of a composite ROI, which ImageJ fills by the even-odd rule."""
    steps = np.full((len(ring), 3), _LINE_TO, np.float32)
    steps[0, 0] = _MOVE_TO
    steps[:, 1:] = ring
    return np.append(steps.ravel(), np.float32(_CLOSE))
