"""The label image as TIFF."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoseed.results.writer import Writer

if TYPE_CHECKING:
    from cytoseed.results.result import Result

_LARGEST_UINT16 = 65_535
_TILE_PX = 512
_READ_PX = 16 * _TILE_PX  # so much of a row of tiles is read at a time
_LARGEST_CLASSIC_BYTES = 2**32 - 2**26  # of tiles before compression: what else the file holds comes on top


def write_labels(result: Result, path: Path) -> None:
    """Write the labels as a deflated OME-TIFF: uint16 where the ids fit, else uint32; 0 is background.

    One target gives the axes YX, two give CYX with the targets as channel names. The pixel size, where it is
    known, stands in the OME metadata and in the resolution tags, so that Fiji, QuPath and napari all find it.

    The image is cut into tiles of 512 x 512 px, or one of its own size where it is smaller, and only a few tiles are
    held at a time. It is a BigTIFF where the labels, before compression, may not fit into the 4 GiB of a classic one.
    """
    if result.count <= _LARGEST_UINT16:
        try:
            _write(result, path, np.dtype(np.uint16))
            return
        except _IdTooLargeError:  # there are gaps between the ids
            pass
    _write(result, path, np.dtype(np.uint32))


class _IdTooLargeError(Exception):
    """An id that the type of the file's pixels cannot hold."""


def _write(result: Result, path: Path, dtype: np.dtype[Any]) -> None:
    import tifffile

    _, *sides = result.shape
    shape = (len(result.targets), *sides)
    tile = (_tile_side(sides[0]), _tile_side(sides[1]))
    tiles = shape[0] * -(-sides[0] // tile[0]) * -(-sides[1] // tile[1])
    metadata: dict[str, Any] = {
        "axes": "YX" if shape[0] == 1 else "CYX",
        "Channel": {"Name": list(result.targets)},
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, result.fingerprint)}",
    }
    options: dict[str, Any] = {}
    if (side := result.pixel_size_um) is not None:
        options = {"resolution": (1e4 / side, 1e4 / side), "resolutionunit": "CENTIMETER"}
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": "µm"}
    tifffile.imwrite(
        path,
        _encoded_tiles(result, tile, dtype),
        shape=shape[1:] if shape[0] == 1 else shape,
        dtype=dtype,
        tile=tile,
        bigtiff=tiles * tile[0] * tile[1] * dtype.itemsize > _LARGEST_CLASSIC_BYTES,
        ome=True,
        photometric="minisblack",
        compression="zlib",
        metadata=metadata,
        **options,
    )


def _tile_side(side: int) -> int:
    """Give the side of the tiles that an image's side is cut into; TIFF wants multiples of 16."""
    return min(_TILE_PX, -(-side // 16) * 16)


def _encoded_tiles(result: Result, tile: tuple[int, int], dtype: np.dtype[Any]) -> Iterator[bytes]:
    """Give the compressed tiles of one plane after the other, row by row; those at the edges are filled up with 0.

    Raises
    ------
    _IdTooLargeError
        If `dtype` cannot hold an id.
    """
    import imagecodecs

    _, height, width = result.shape
    largest = np.iinfo(dtype).max
    empty = bytes(imagecodecs.deflate_encode(np.zeros(tile, dtype).tobytes()))
    for plane in range(len(result.targets)):
        for top in range(0, height, tile[0]):
            for left in range(0, width, _READ_PX):
                box = (top, left, min(tile[0], height - top), min(_READ_PX, width - left))
                labels = result.labels_in(box)[plane]
                for column in range(0, box[3], tile[1]):
                    part = labels[:, column : column + tile[1]]
                    highest = int(part.max())
                    if highest > largest:
                        raise _IdTooLargeError
                    if not highest:
                        yield empty
                        continue
                    filled = np.zeros(tile, dtype)
                    filled[: part.shape[0], : part.shape[1]] = part
                    yield bytes(imagecodecs.deflate_encode(filled.tobytes()))


WRITERS = (Writer("labels", ".labels.tif", write_labels, "label image as OME-TIFF: Fiji, napari, QuPath"),)
