"""The label image as OME-TIFF."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import sides_um
from cytoseed.results.pyramid import Level, Tile, halved, tiles_of
from cytoseed.results.view import ResultView

_LARGEST_UINT16 = 65_535
_TILE_PX = 512
_LARGEST_FLAT_PX = 2048  # per side; larger images have lower resolutions
_LARGEST_CLASSIC_BYTES = 2**32 - 2**26  # size of all tiles; everything else in the file is additional
_TABLE_BYTES = 16  # a tile's place and size in the file, at most
_HELD_BYTES = 2**26  # compressed tiles in memory until the file is put together


def write_labels(result: ResultView, path: Path) -> None:
    """Write the labels as a deflated OME-TIFF: uint16 where the ids fit, else uint32; 0 is background.

    One target gives the axes YX, two give CYX with the targets as channel names. The pixel size, where it is known, is
    in the OME metadata and in the resolution tags: Fiji, QuPath and napari all find it. Tiles are of 512 x 512 px, only
    a few of which are held at a time. An image of more than 2048 px per side has lower resolutions as SubIFDs, each
    half as large as the one before, down to 1024 px; their pixels show the label at their centre. It is a BigTIFF where
    the compressed labels do not fit into the 4 GiB of a classic one.
    """
    if result.count <= _LARGEST_UINT16:
        with suppress(OverflowError):  # there are gaps between the ids
            _write(result, path, np.dtype(np.uint16))
            return
    _write(result, path, np.dtype(np.uint32))


def _write(result: ResultView, path: Path, dtype: np.dtype[Any]) -> None:
    import tifffile

    targets, size = len(result.targets), result.pixel_size_um
    sides = {} if size is None else dict(zip("YX", sides_um(size), strict=True))
    levels = halved(result.shape[1:])[: None if max(result.shape[1:]) > _LARGEST_FLAT_PX else 1]
    metadata: dict[str, Any] = {
        "axes": "YX" if targets == 1 else "CYX",
        "Channel": {"Name": list(result.targets)},
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, result.fingerprint)}",
    }
    for axis, side in sorted(sides.items()):
        metadata |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": "µm"}
    # tiles come in another order than they are written in
    with tempfile.SpooledTemporaryFile(_HELD_BYTES, dir=str(path.parent)) as file:
        encoded = _Encoded(file, targets, levels, dtype)
        for tile in tiles_of(result, levels, _TILE_PX):
            encoded.add(tile)
        with tifffile.TiffWriter(path, bigtiff=encoded.size_bytes > _LARGEST_CLASSIC_BYTES, ome=True) as tif:
            for number, level in enumerate(levels):
                options: dict[str, Any] = {"subifds": len(levels) - 1 or None, "metadata": metadata}
                if number:
                    options = {"subfiletype": tifffile.FILETYPE.REDUCEDIMAGE, "metadata": None}
                if sides:
                    per_cm = tuple(1e4 / sides[axis] / 2**number for axis in "XY")
                    options |= {"resolution": per_cm, "resolutionunit": "CENTIMETER"}
                tif.write(
                    encoded.tiles(number),
                    shape=level.shape if targets == 1 else (targets, *level.shape),
                    dtype=dtype,
                    tile=_tile(level),
                    photometric="minisblack",
                    compression="zlib",
                    **options,
                )


def _tile(level: Level) -> tuple[int, int]:
    """Height and width of a level's tiles, multiples of 16 as TIFF requires."""
    height, width = (min(_TILE_PX, -(-side // 16) * 16) for side in level.shape)
    return height, width


class _Encoded:
    """Compressed tiles of all levels, in an empty file of their own until all are there."""

    def __init__(self, file: IO[bytes], targets: int, levels: Sequence[Level], dtype: np.dtype[Any]) -> None:
        self._file, self._dtype = file, dtype
        self._shapes = [_tile(level) for level in levels]
        self._empty = [_compressed(np.zeros(shape, dtype)) for shape in self._shapes]
        grids = [tuple(-(-side // _TILE_PX) for side in level.shape) for level in levels]
        self._places = [np.zeros((targets, *grid, 2), np.int64) for grid in grids]  # offset and size; 0 if empty

    def add(self, tile: Tile) -> None:
        """Compress the planes of a tile, filled up with 0 at the edges; an OverflowError for ids that do not fit."""
        for plane, labels in enumerate(tile.labels):
            highest = int(labels.max())
            if highest > np.iinfo(self._dtype).max:
                raise OverflowError
            if highest:
                filled = np.zeros(self._shapes[tile.level], self._dtype)
                filled[: labels.shape[0], : labels.shape[1]] = labels
                data = _compressed(filled)
                self._places[tile.level][plane, tile.row, tile.column] = self._file.tell(), len(data)
                self._file.write(data)

    @property
    def size_bytes(self) -> int:
        """Size of all tiles in the file, with the tables of their places."""
        sizes = [places[..., 1] for places in self._places]
        empty = sum(len(data) * int((own == 0).sum()) for data, own in zip(self._empty, sizes, strict=True))
        return empty + sum(int(own.sum()) + _TABLE_BYTES * own.size for own in sizes)

    def tiles(self, level: int) -> Iterator[bytes]:
        """Tiles of one plane of a level after the other, row by row."""
        for offset, size in self._places[level].reshape(-1, 2).tolist():
            if size:
                self._file.seek(offset)
            yield self._file.read(size) if size else self._empty[level]


def _compressed(pixels: NDArray[Any]) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(pixels.tobytes()))
