"""Readers of PNG and JPEG by imagecodecs; opening reads the headers only.

Such a file can only be decoded as a whole, so its size has a limit; the decoded whole is kept while the file is open.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.regions import Box, ImageFileError, Layout, Slices, cut_short

# the signature's 8 bytes and the first chunk's length are skipped
_PNG_HEADER = struct.Struct(">12x4sIIBB")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 3}  # colour type -> channels without alpha
_GREY, _PALETTE = 0, 3  # colour types
_MOST_PX = 1 << 28
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, FF 00 is data, D0 to D7 restart it
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # C4, C8 and CC are tables and reserved


def open_png(path: Path, as_labels: bool = False) -> Image:
    """Open a PNG: grey, RGB or palette of 1 to 16 bits; alpha is dropped. Labels are indices of a palette."""
    with path.open("rb") as file:
        header = file.read(_PNG_HEADER.size)
    if len(header) < _PNG_HEADER.size:
        raise cut_short(path, "its header is incomplete")
    chunk, width, height, bits, colour = _PNG_HEADER.unpack(header)
    if chunk != b"IHDR" or colour not in _PNG_CHANNELS:
        raise cut_short(path, "it does not begin with a PNG header")
    as_labels = as_labels and colour in (_GREY, _PALETTE)
    return _image(path, (1 if as_labels else _PNG_CHANNELS[colour], height, width), bits, as_labels)


def open_jpeg(path: Path) -> Image:
    """Open a JPEG: grey or RGB. A rotation in its EXIF data is not applied."""
    bits, height, width, channels = _jpeg_header(path, path.read_bytes())
    if channels not in (1, 3):
        raise ImageFileError(f"{path}: is a JPEG of {channels} components (CMYK?), not grey or RGB: convert it to RGB")
    return _image(path, (channels, height, width), bits)


def require_modest(path: Path, size_yx: tuple[int, int]) -> None:
    """Refuse a picture of more pixels than are decoded as a whole."""
    if size_yx[0] * size_yx[1] > _MOST_PX:
        raise ImageFileError(
            f"{path}: announces {size_yx[0]} x {size_yx[1]} px (height x width); of pictures that are only read as a "
            f"whole, at most {_MOST_PX} px are taken: save it as a tiled TIFF or as OME-Zarr"
        )


def _image(path: Path, shape: tuple[int, int, int], bits: int, as_labels: bool = False) -> Image:
    """`Image` of a picture. A resolution in it is for printing: not a pixel size."""
    require_modest(path, shape[1:])
    layout = Layout(shape, np.dtype(np.uint16 if bits > 8 else np.uint8), (shape[1:],))
    decode = _decode_labels if as_labels else _decode
    return make_image(path, layout, partial(_Picture, path, layout, decode), RGB_NAMES if shape[0] == 3 else None)


class _Picture(AbstractContextManager["_Picture"]):
    """Regions of a picture, decoded when the first is read."""

    def __init__(self, path: Path, layout: Layout, decode: Callable[[bytes, Path], NDArray[Any]]) -> None:
        self.layout = layout
        self._path, self._decode, self._lock = path, decode, Lock()
        self._whole: Slices | None = None

    def __exit__(self, *_: object) -> None:
        self._whole = None

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        with self._lock:  # two threads must not decode twice
            if self._whole is None:
                decoded = self._decode(self._path.read_bytes(), self._path)
                planes = decoded[:, :, None] if decoded.ndim == 2 else decoded
                whole = Slices((planes[:, :, : self.layout.shape[0]],), "yxc")  # without alpha
                self.layout.require_same(self._path, whole.layout)
                self._whole = whole
        return self._whole.read(box_yxhw, level, channels)


def _decode(data: bytes, path: Path) -> NDArray[Any]:
    import imagecodecs

    if data.startswith(b"\x89PNG"):
        return imagecodecs.png_decode(data)
    _jpeg_header(path, data)  # it may have changed since it was opened
    return imagecodecs.jpeg_decode(data)


def _decode_labels(data: bytes, _: Path) -> NDArray[Any]:
    """Values of a grey PNG or indices of a palette: decoded as if they were grey, and not stretched to 8 bits."""
    import imagecodecs

    header = data[12:25] + bytes([_GREY]) + data[26:29]
    parts, position = [data[:12], header, zlib.crc32(header).to_bytes(4, "big")], 33
    while position < len(data):  # other chunks belong to the palette, or do not matter
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in (b"IDAT", b"IEND"):
            parts.append(data[position:end])
        position = end
    stored: NDArray[Any] = imagecodecs.png_decode(b"".join(parts))
    return stored // (255 // (2 ** data[24] - 1)) if data[24] < 8 else stored


def _jpeg_header(path: Path, data: bytes) -> tuple[int, int, int, int]:
    """Bits, height, width and channels of a JPEG; refuse one that is cut before the marker at the end of its pixels."""
    frame: tuple[int, int, int, int] | None = None
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF and data[position + 1] != _END_OF_IMAGE:
        marker = data[position + 1]
        if marker == 0xFF:  # a marker may be preceded by fill bytes
            position += 1
            continue
        if marker in _JPEG_FRAMES and position + 10 <= len(data):
            frame = frame or struct.unpack_from(">BHHB", data, position + 4)
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            found = _MARKER_AFTER_SCAN.search(data, position)
            position = found.start() if found else len(data)
    if data[position : position + 2] != bytes((0xFF, _END_OF_IMAGE)):
        raise cut_short(path, "its end of image is missing")
    if frame is None:
        raise cut_short(path, "it has no frame header")
    return frame
