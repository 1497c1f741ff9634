"""Regions of a TIFF's planes: only the tiles and strips that a region touches are read and decoded.

An uncompressed run of rows is read where it lies; tiles and strips are decoded in the calling thread. A segment of 0
bytes stands for background: white in slides (tiles of 8-bit RGB, as in OpenSlide), otherwise the file's value, or 0.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.regions import LARGEST_PIECE_BYTES, Box, ImageFileError, cut_short, paste

_KEPT_BYTES = LARGEST_PIECE_BYTES  # most bytes of decoded segments kept while the file is open
_READ_BYTES = 1 << 26  # most bytes of an uncompressed run read at a time
_LARGE_TILE_BYTES = 1 << 25  # smaller tiles are decoded again rather than kept
_JPEGS = (6, 7, 34892, 33007)  # compressions whose tables are stored apart from the pixels
_BOUNDED, _MOST_TIMES = (5, 8, 32773, 32946), 4096  # LZW, Deflate, PackBits: times that pixels shrink at most
_COLOUR = (2, 6)  # RGB, YCbCr
_RUNS = re.compile("[^YX]*YX|YX[SC]")  # orders of the axes longer than 1 that can be read as runs of rows


def planes_of(series: Any, store: Store) -> tuple[Plane, ...]:
    """Planes of one level, a `tifffile.TiffPageSeries`, in the order of its channels; none for an unusual layout."""
    long = "".join(axis for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX")
    channels = math.prod(size for axis, size in zip(series.axes, series.shape, strict=True) if axis not in "YX")
    height, width = (series.shape[series.axes.index(axis)] for axis in "YX")
    first, keyframe = series[0], series.keyframe
    if not _RUNS.fullmatch(long) or series.transform is not None:
        return ()
    if series.dataoffset is not None and first.databytecounts[0]:
        dtype = series.dtype.newbyteorder(keyframe.parent.byteorder)
        run = _Run(store, _file_of(first), series.dataoffset, 1, height, width, dtype)
        return (run._replace(samples=channels),) if long[-1] in "SC" else run.repeated(channels)
    as_announced = (keyframe.imagedepth, keyframe.imagelength, keyframe.imagewidth) == (1, height, width)
    if not as_announced or len(series) * keyframe.samplesperpixel != channels:
        return ()
    return tuple(plane for page in series for plane in _planes_of_page(page, keyframe, store))


def _planes_of_page(page: Any, keyframe: Any, store: Store) -> Sequence[Plane]:
    path = _file_of(page)
    apart = 1 if keyframe.planarconfig == 1 else keyframe.samplesperpixel
    samples = keyframe.samplesperpixel // apart
    if keyframe.is_final and _is_one_run(page):
        dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        size = (samples, keyframe.imagelength, keyframe.imagewidth)
        return _Run(store, path, page.dataoffsets[0], *size, dtype).repeated(apart)
    keyframe.init_decode()  # tifffile requires a single thread for this
    per_plane = math.prod(keyframe.chunked) // apart
    return [_Segments(store, path, page, keyframe, index * per_plane, samples) for index in range(apart)]


def _file_of(page: Any) -> Path:
    """File that contains a page: an OME-TIFF may consist of several."""
    return Path(page.parent.filehandle.path)


def _is_one_run(page: Any) -> bool:
    """Whether a page's segments follow each other in the file; tifffile only checks this for the first page."""
    offsets, counts = page.dataoffsets, page.databytecounts
    ends_meet = (at + count == after for at, count, after in zip(offsets, counts, offsets[1:], strict=False))
    return bool(counts[0]) and (page.keyframe is page or all(ends_meet))


class Store:
    """Files of an image, opened when first read, and the decoded segments that are worth keeping."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[Path, BinaryIO] = {}
        self._kept: OrderedDict[Any, NDArray[Any]] = OrderedDict()
        self._kept_bytes = 0
        self._making: dict[Any, Lock] = {}
        self._lock = Lock()

    def close(self) -> None:
        """Close all files and forget all segments."""
        for file in self._files.values():
            file.close()
        self._kept.clear()

    def read(self, path: Path, offset: int, count: int) -> bytes:
        """Read bytes of a file; raise `ImageFileError` if they are not all there."""
        with self._lock:
            if path not in self._files:
                self._files[path] = path.open("rb")
            self._files[path].seek(offset)
            data = self._files[path].read(count)
        if len(data) < count:
            raise cut_short(path, f"the requested pixels lie beyond its {path.stat().st_size} bytes")
        return data

    def kept(self, key: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """A decoded segment, made only once as long as there is room for it."""
        with self._lock:
            making = self._making.setdefault(key, Lock())
        with making:  # a second thread that needs it waits instead of decoding it again
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            segment = make()
            with self._lock:
                self._kept[key] = segment
                self._kept_bytes += segment.nbytes
                while self._kept_bytes > _KEPT_BYTES:
                    self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
            return segment


class _Run(NamedTuple):
    """Uncompressed rows, one after the other."""

    store: Store
    path: Path
    offset: int
    samples: int
    height: int
    width: int
    dtype: np.dtype[Any]

    @property
    def _row_bytes(self) -> int:
        return self.width * self.samples * self.dtype.itemsize

    @property
    def is_whole(self) -> bool:
        return self.offset + self.height * self._row_bytes <= self.path.stat().st_size

    def repeated(self, count: int) -> tuple[_Run, ...]:
        """`count` such runs, one after the other."""
        step = self.height * self._row_bytes
        return tuple(self._replace(offset=self.offset + index * step) for index in range(count))

    def read(self, box_yxhw: Box, samples: Sequence[int]) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        result = np.empty((len(samples), height, width), self.dtype.newbyteorder("="))
        at_once = max(1, _READ_BYTES // (width * self.samples * self.dtype.itemsize))
        for row in range(0, height, at_once):
            stored = self._rows(top + row, min(at_once, height - row), left, width)
            result[:, row : row + at_once] = np.moveaxis(stored[:, :, list(samples)], 2, 0)
        return result

    def _rows(self, top: int, height: int, left: int, width: int) -> NDArray[Any]:
        """All samples of some rows, (h, w, samples)."""
        pixel_bytes = self.samples * self.dtype.itemsize
        start = self.offset + top * self._row_bytes + left * pixel_bytes
        if width == self.width:
            data = self.store.read(self.path, start, height * self._row_bytes)
        else:
            rows = range(start, start + height * self._row_bytes, self._row_bytes)
            data = b"".join(self.store.read(self.path, row, width * pixel_bytes) for row in rows)
        return np.frombuffer(data, self.dtype).reshape(height, width, self.samples)


class _Segments(NamedTuple):
    """Tiles or strips of one page; if a page stores its channels separately, those of one channel."""

    store: Store
    path: Path
    page: Any  # tifffile's page or frame with the offsets
    keyframe: Any  # tifffile's page with the decoder
    first: int  # number of the first segment
    samples: int

    @property
    def _size(self) -> tuple[int, int]:
        """Height and width of a segment."""
        key = self.keyframe
        return (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)

    @property
    def _grid(self) -> tuple[int, int]:
        """Number of segments down and across."""
        rows, columns = self._size
        return -(-self.keyframe.imagelength // rows), -(-self.keyframe.imagewidth // columns)

    @property
    def _segment_bytes(self) -> int:
        """Size of a segment when decoded."""
        return math.prod(self._size) * self.samples * int(self.keyframe.dtype.itemsize)

    @property
    def is_whole(self) -> bool:
        """Whether no segment reaches beyond the file, or claims to hold more than its bytes can be decoded to."""
        count = math.prod(self._grid)
        own = slice(self.first, self.first + count)
        offsets = np.asarray(self.page.dataoffsets[own], dtype=np.uint64)
        counts = np.asarray(self.page.databytecounts[own], dtype=np.uint64)
        end = int((offsets + counts)[counts > 0].max(initial=0)) if len(offsets) == len(counts) == count else math.inf
        least = int(counts[counts > 0].min(initial=self._segment_bytes))
        is_possible = self.keyframe.compression not in _BOUNDED or self._segment_bytes <= _MOST_TIMES * (least + 64)
        return is_possible and end <= self.path.stat().st_size

    def read(self, box_yxhw: Box, samples: Sequence[int]) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        (rows, columns), across, key = self._size, self._grid[1], self.keyframe
        whole, every = (height, width) == (key.imagelength, key.imagewidth), [*samples] == [*range(self.samples)]
        is_slide = key.is_tiled and key.photometric in _COLOUR and key.dtype == np.uint8
        result = np.full((height, width, len(samples)), 255 if is_slide else key.nodata, key.dtype)
        for row in range(top // rows, -(-(top + height) // rows)):
            for column in range(left // columns, -(-(left + width) // columns)):
                segment = self._segment(self.first + row * across + column, whole)
                if segment is not None:
                    chosen = segment if every else segment[:, :, list(samples)]
                    paste(result, chosen, row * rows - top, column * columns - left)
        return np.moveaxis(result, 2, 0)

    def _segment(self, index: int, whole: bool) -> NDArray[Any] | None:
        """Decode a segment, (rows, columns, samples); None if nothing is stored, which stands for background."""
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if not offset or not count:
            return None
        size, is_tiled, key = self._segment_bytes, self.keyframe.is_tiled, self.keyframe
        plane_bytes = key.imagelength * key.imagewidth * self.samples * key.dtype.itemsize
        if size > LARGEST_PIECE_BYTES and not (whole and size <= 2 * plane_bytes):
            raise ImageFileError(
                f"{self.store.root}: is stored in {'tiles' if is_tiled else 'compressed strips'} of "
                f"{size / (1 << 30):.1f} GiB that can only be decoded whole, so no region of it can be read; save it "
                f"as a tiled TIFF, as OME-TIFF with tiles, or as OME-Zarr"
            )
        if whole or (is_tiled and size < _LARGE_TILE_BYTES):
            return self._decoded(index, offset, count)
        return self.store.kept((self.path, offset), lambda: self._decoded(index, offset, count))

    def _decoded(self, index: int, offset: int, count: int) -> NDArray[Any]:
        data = self.store.read(self.path, offset, count)
        tables = {}
        if self.keyframe.compression in _JPEGS:
            tables = {"jpegtables": self.page.jpegtables, "jpegheader": self.keyframe.jpegheader}
        (segment,) = self.keyframe.decode(data, index, **tables)[0]  # the depth is 1
        return np.asarray(segment)


Plane = _Run | _Segments
"""Some channels of one level that are stored together; `read` returns (samples, h, w) in native byte order: only those
asked for are held in memory, besides one segment or some rows."""
