"""Area of an image to segment: a region, a mask of outlines or pixels, both, or everything."""

from __future__ import annotations

import hashlib
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageFileError
from cytoseed.images.label_image import open_labels
from cytoseed.images.outlines import Outlines, is_geojson, polygons_of, read_features
from cytoseed.run.tiles import Box

_STRIP_BYTES = 1 << 26  # bytes of a mask's pixels read at a time


@dataclass(frozen=True, eq=False)
class Area:
    """Area to segment, in px of the image at full resolution; one point of an object decides whether it is inside."""

    region_yxhw: Box  # nothing outside of it is segmented; by default the whole image
    mask: Outlines | _Pixels | None  # part of the region to segment; None for all of it
    description: Mapping[str, Any]  # for the record: `region_xywh`, name of the `mask`, `mask_sha256`

    def holds(self, points_yx: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which points (N, 2) lie in the area, in px; the centre of pixel (row, column) is (row + 0.5, column + 0.5).

        A point on a left or upper edge is inside, on a right or lower one outside: of two areas that share an edge,
        one holds it.
        """
        top, left, height, width = self.region_yxhw
        y, x = points_yx.T
        inside: NDArray[np.bool_] = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        if self.mask is not None:
            inside[inside] = self.mask.holds(points_yx[inside])
        return inside

    def meets(self, box_yxhw: Box) -> bool:
        """Whether a box may hold a point of the area: never False where it does, rarely True where it does not."""
        shared = _shared(self.region_yxhw, box_yxhw)
        return shared[2] > 0 and shared[3] > 0 and (self.mask is None or self.mask.meets(shared))


def read_area(
    shape_yx: tuple[int, int], region: Sequence[int] | None = None, mask: str | os.PathLike[str] | None = None
) -> Area:
    """Area from a region (x, y, width, height), in px at full resolution, and a mask file: the part that both hold.

    Outlines: GeoJSON as QuPath exports it, in px of the image at full resolution, also gzipped; the inside of any
    Polygon or MultiPolygon without its holes. Pixels: a PNG or TIFF of the image's size, or smaller by one factor in
    both axes; everything that is not 0 in some channel, so label images work.
    """
    box = (0, 0, *shape_yx) if region is None else _region_box(region, shape_yx)
    description = {} if region is None else {"region_xywh": [box[1], box[0], box[3], box[2]]}
    if mask is None:
        return Area(box, None, description)
    path = Path(mask)
    if not path.exists():
        raise FileNotFoundError(f"mask {path}: there is no such file; check the name and the folder")
    if path.is_dir():
        raise ValueError(f"mask {path} is a folder; give a GeoJSON file, or a picture: PNG or TIFF")
    wanted = _read_outlines(path, shape_yx) if is_geojson(path) else _read_picture(path, shape_yx)
    if not wanted.meets(box):
        raise ValueError(
            f"region {_typed(box)} (x, y, width, height) holds nothing of the mask {path}, so there is nothing to "
            f"segment: give a region where the mask is, or one of the two"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Area(box, wanted, {**description, "mask": path.name, "mask_sha256": digest})


def _region_box(region: Sequence[int], shape_yx: tuple[int, int]) -> Box:
    """Box of a region (x, y, width, height), which must lie in the image."""
    try:
        left, top, width, height = (operator.index(value) for value in region)
    except (TypeError, ValueError) as error:
        raise TypeError(f"region is {region!r}; it must be four whole numbers in px: x, y, width, height") from error
    box = (top, left, height, width)
    part = _shared(box, (0, 0, *shape_yx))
    if part != box or width < 1 or height < 1:
        inside = f"; the part inside is {_typed(part)}" if part[2] > 0 and part[3] > 0 else ""
        raise ValueError(
            f"region {_typed(box)} (x, y, width, height) must have an area and lie in the image, which is "
            f"{_size(shape_yx)} at full resolution{inside}"
        )
    return box


def _read_outlines(path: Path, shape_yx: tuple[int, int]) -> Outlines:
    found = [polygons_of(each["geometry"], f"mask {path}: feature {n}") for n, each in enumerate(read_features(path))]
    try:
        outlines = Outlines([polygon for polygons in found for polygon in polygons])
    except ValueError as error:
        raise ValueError(f"mask {path}: {error}; draw the area again") from error
    lowest, highest = outlines.boxes[:, :2], outlines.boxes[:, 2:]  # (P, 2): x, y
    areas = (highest - lowest).prod(axis=1)
    if not areas.any():
        raise ValueError(f"mask {path} is empty: it has no outline of any area; draw the area and export it again")
    size_xy = shape_yx[::-1]
    within = (np.clip(highest, 0, size_xy) - np.clip(lowest, 0, size_xy)).prod(axis=1)
    if 2 * within.sum() < areas.sum():
        (left, top), (right, bottom) = lowest.min(axis=0), highest.max(axis=0)
        raise ValueError(
            f"mask {path} is in other coordinates than the image: most of it lies outside. Its outlines reach in x "
            f"from {left:.10g} to {right:.10g} and in y from {top:.10g} to {bottom:.10g}; the image is "
            f"{_size(shape_yx)}. GeoJSON must be in px of the image at full resolution, from its upper left corner, "
            f"not in µm and not of a lower level: export it from this image by QuPath"
        )
    return outlines


@dataclass(frozen=True, eq=False)
class _Pixels:
    """A mask of pixels, packed to bits. Points outside it count as the nearest pixel inside."""

    bits: NDArray[np.uint8]  # (h, ceil(w / 8)), the first pixel in the highest bit
    size_yx: tuple[int, int]
    full_yx: tuple[int, int]  # size of the image

    def holds(self, points_yx: NDArray[np.float64]) -> NDArray[np.bool_]:
        row, column = self._at(points_yx).T
        inside: NDArray[np.bool_] = (self.bits[row, column >> 3] >> (7 - (column & 7)) & 1) > 0
        return inside

    def meets(self, box_yxhw: Box) -> bool:
        top, left, height, width = box_yxhw
        ends = np.nextafter([top + height, left + width], -np.inf)  # just before its neighbours begin
        (top, left), (bottom, right) = self._at(np.array([[top, left], ends])).tolist()
        bits = np.bitwise_or.reduce(self.bits[top : bottom + 1, left >> 3 : (right >> 3) + 1], axis=0)
        return bool(np.unpackbits(bits)[left & 7 :][: right - left + 1].any())

    def _at(self, points_yx: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows and columns (N, 2) of the mask at points of the image."""
        places = np.floor(points_yx * np.divide(self.size_yx, self.full_yx))
        return np.clip(places, 0, np.subtract(self.size_yx, 1)).astype(np.int64)


def _read_picture(path: Path, shape_yx: tuple[int, int]) -> _Pixels:
    try:
        picture = open_labels(path)
    except ImageFileError as error:
        raise ValueError(f"mask {path} is neither GeoJSON nor a picture that can be read as a mask: {error}") from error
    _, height, width = picture.shape
    if not _is_reduced((height, width), shape_yx):
        raise ValueError(
            f"mask {path} is {_size((height, width))} and the image {_size(shape_yx)}: a mask must have the image's "
            f"size, or be smaller by the same factor in both axes; save it at one of these sizes"
        )
    bits = _packed(picture)
    if not bits.any():
        raise ValueError(f"mask {path} is empty: all of its pixels are 0; give the area to segment another value")
    return _Pixels(bits, (height, width), shape_yx)


def _packed(picture: Image) -> NDArray[np.uint8]:
    """Bits of the pixels that are not 0, read in strips."""
    channels, height, width = picture.shape
    rows = max(1, _STRIP_BYTES // (channels * width * picture.dtype.itemsize))
    bits = np.zeros((height, -(-width // 8)), np.uint8)
    with picture.regions() as regions:
        for top in range(0, height, rows):
            strip = regions.read((top, 0, min(rows, height - top), width))
            if strip.dtype.kind == "f" and np.isnan(strip).any():
                raise ValueError(f"mask {picture.path} has NaN pixels; make them 0 or 1, as is meant")
            bits[top : top + rows] = np.packbits((strip != 0).any(axis=0), axis=1)
    return bits


def _is_reduced(size_yx: tuple[int, int], full_yx: tuple[int, int]) -> bool:
    """Whether a size is the full one divided by one factor, 1 or more, rounded up or down."""
    pairs = list(zip(size_yx, full_yx, strict=True))
    smallest = max(full / (side + 1) for side, full in pairs)
    largest = min(full / (side - 1) if side > 1 else math.inf for side, full in pairs)
    return max(smallest, 1) <= largest


def _shared(one_yxhw: Box, other_yxhw: Box) -> Box:
    """Box that two boxes share; its height or width is 0 or less where they share nothing."""
    top, left = max(one_yxhw[0], other_yxhw[0]), max(one_yxhw[1], other_yxhw[1])
    bottom, right = (min(box[axis] + box[axis + 2] for box in (one_yxhw, other_yxhw)) for axis in (0, 1))
    return top, left, bottom - top, right - left


def _size(shape_yx: tuple[int, int]) -> str:
    return f"{shape_yx[1]} x {shape_yx[0]} px (width x height)"


def _typed(box_yxhw: Box) -> str:
    """Box as it is typed: x,y,width,height."""
    top, left, height, width = box_yxhw
    return f"{left},{top},{width},{height}"
