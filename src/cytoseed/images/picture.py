"""Readers of PNG and JPEG by imagecodecs; opening reads the headers only.

Such a file can only be decoded as a whole, so its size has a limit; the decoded whole is kept while the file is open.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.file_errors import ImageFileError, cut_short
from cytoseed.images.image import RGB_NAMES, Image, numbered_names
from cytoseed.images.pixel_size import NOT_STATED
from cytoseed.images.regions import Box, InMemory, Layout, Regions

# the signature's 8 bytes and the first chunk's length are skipped
_PNG_HEADER = struct.Struct(">12x4sIIBB")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # colour type -> channels without alpha
_MOST_PX = 1 << 28
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, FF 00 is data, D0 to D7 restart it
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8 and CC are tables and reserved


def open_png(path: Path) -> Image:
    """Open a PNG: grey, RGB or palette of 1 to 16 bits; alpha is dropped."""
    with path.open("rb") as file:
        header = file.read(_PNG_HEADER.size)
    if len(header) < _PNG_HEADER.size:
        raise cut_short(path, "its header is incomplete")
    chunk, width, height, bits, colour = _PNG_HEADER.unpack(header)
    if chunk != b"IHDR" or colour not in _PNG_CHANNELS:
        raise cut_short(path, "it does not begin with a PNG header")
    return _image(path, _Header(_PNG_CHANNELS[colour], height, width, bits), _decode_png)


def open_jpeg(path: Path) -> Image:
    """Open a JPEG: grey or RGB. A rotation in its EXIF data is not applied."""
    data = path.read_bytes()
    _require_whole_jpeg(path, data)
    header = _jpeg_header(path, data)
    if header.channels not in (1, 3):
        raise ImageFileError(
            f"{path}: is a JPEG of {header.channels} components (CMYK?); cytoseed reads grey and RGB: convert it to RGB"
        )
    return _image(path, header, _decode_jpeg)


class _Header(NamedTuple):
    channels: int
    height: int
    width: int
    bits: int


def _image(path: Path, header: _Header, decode: Callable[[Path, _Header], NDArray[Any]]) -> Image:
    """`Image` of a picture. A resolution in it is a printer's: not a pixel size."""
    if header.height * header.width > _MOST_PX:
        raise ImageFileError(
            f"{path}: announces {header.height} x {header.width} px (height x width); of PNG and JPEG, which are only "
            f"read as a whole, at most {_MOST_PX} px are taken: save it as a tiled TIFF or as OME-Zarr"
        )
    layout = Layout(
        (header.channels, header.height, header.width),
        np.dtype(np.uint16 if header.bits > 8 else np.uint8),
        ((header.height, header.width),),
    )
    return Image(
        path=path,
        shape=layout.shape,
        dtype=layout.dtype,
        channel_names=RGB_NAMES if header.channels == 3 else numbered_names(header.channels),
        pixel_size_yx_um=None,
        pixel_size_source=NOT_STATED,
        level_shapes=layout.level_shapes,
        connect=partial(_connect, path, layout, partial(decode, path, header)),
    )


def _connect(path: Path, layout: Layout, decode: Callable[[], NDArray[Any]]) -> AbstractContextManager[Regions]:
    return nullcontext(_Decoded(path, layout, decode))


class _Decoded:
    """Regions of a picture, decoded when the first is read."""

    def __init__(self, path: Path, layout: Layout, decode: Callable[[], NDArray[Any]]) -> None:
        self._path, self._layout, self._decode = path, layout, decode
        self._lock = Lock()

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        with self._lock:  # two threads must not decode twice
            whole = self._whole
        return whole.read(box_yxhw, level, channels)

    @cached_property
    def _whole(self) -> InMemory:
        pixels = self._decode()
        self._layout.require_same(self._path, Layout(pixels.shape, pixels.dtype, (pixels.shape[1:],)))
        return InMemory(pixels)


def _jpeg_header(path: Path, data: bytes) -> _Header:
    """Frame header of a JPEG."""
    position = 2
    while position + 10 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker == 0xFF:
            position += 1
        elif marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            return _Header(channels, height, width, bits)
        else:
            position += 2 + length
    raise cut_short(path, "it has no frame header")


def _require_whole_jpeg(path: Path, data: bytes) -> None:
    """Refuse a JPEG that ends before the marker that ends its pixels."""
    position = 2
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF:
            break
        if marker == _END_OF_IMAGE:
            return
        if marker == 0xFF:  # a marker may be preceded by fill bytes
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            found = _MARKER_AFTER_SCAN.search(data, position)
            position = found.start() if found else len(data)
    if data[position : position + 2] != bytes((0xFF, _END_OF_IMAGE)):
        raise cut_short(path, "its end of image is missing")


def _decode_png(path: Path, header: _Header) -> NDArray[Any]:
    import imagecodecs

    return _channels_first(imagecodecs.png_decode(path.read_bytes()), header)


def _decode_jpeg(path: Path, header: _Header) -> NDArray[Any]:
    import imagecodecs

    data = path.read_bytes()
    _require_whole_jpeg(path, data)  # it may have changed since it was opened
    return _channels_first(imagecodecs.jpeg_decode(data), header)


def _channels_first(decoded: NDArray[Any], header: _Header) -> NDArray[Any]:
    """Bring (H,W) or (H,W,S) to (C,H,W) without alpha."""
    planes = decoded[:, :, None] if decoded.ndim == 2 else decoded
    return np.moveaxis(planes[:, :, : header.channels], 2, 0)
