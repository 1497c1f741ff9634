"""Contours drawn in Aperio ImageScope, as MoNuSeg and Kumar have them: XML to a mask."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.annotations import Ring, rasterise, stack


def read_contours(path: Path, shape: tuple[int, int]) -> NDArray[np.int32]:
    """Read the regions of all of the file's annotations.

    Which pixels a contour holds, `annotations.rasterise` says: those whose centre is inside, where pixel
    (row, column) covers x from column to column + 1. Where contours overlap, the smaller lies on top, and one
    that would erase the rest of another is left out (`annotations.stack`).

    Parameters
    ----------
    path : Path
        An XML file: Annotations / Annotation / Regions / Region / Vertices / Vertex with X and Y in px.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    ndarray of int32, shape (H, W)
        0 is background, ids have gaps where a contour holds no pixel of its own.

    Raises
    ------
    ValueError
        If the file is no such XML.
    """
    try:
        root = ElementTree.parse(path).getroot()
        rings = [_ring(region) for region in root.iter("Region")]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as annotations of ImageScope ({error}); download it again") from error
    if root.tag != "Annotations":
        raise ValueError(f"{path} begins with <{root.tag}>; annotations of ImageScope begin with <Annotations>")
    return stack([rasterise([[ring]], shape) for ring in rings], shape)


def _ring(region: ElementTree.Element) -> Ring:
    corners = [(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")]
    ring = np.array(corners, np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a vertex is not finite")
    return ring
