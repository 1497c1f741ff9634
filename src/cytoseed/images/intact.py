"""Whether a file has all its bytes: decoders that meet a cut file may return half an image and no error."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cytoseed.images.image import ImageFileError

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, FF 00 is data, D0 to D7 restart it
_FIRST_PRIVATE_TAG = 32768
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def require_whole_tiff(path: Path) -> None:
    """Follow a TIFF's chain of pages to its end.

    A cut file often lacks its last pages or its description, and would then be read as a smaller image.

    Raises
    ------
    ImageFileError
        If a page or a value of a public tag lies beyond the file's end. Private tags may hold anything.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        dialect, offset = _tiff_header(path, file)
        seen: set[int] = set()
        while offset and offset not in seen:  # some writers close the chain into a ring
            seen.add(offset)
            offset = _next_page(path, file, dialect, offset, size)


def require_whole_jpeg(path: Path, data: bytes) -> None:
    """Find the marker that ends a JPEG's pixels.

    Raises
    ------
    ImageFileError
        If the data end before it.
    """
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
    if data[position : position + 2] == bytes((0xFF, _END_OF_IMAGE)):
        return
    raise _cut(path, "its end of image is missing")


class _Dialect(NamedTuple):
    """How classic TIFF and BigTIFF write a page: number of tags, one tag, offset of the next page."""

    number: struct.Struct
    tag: struct.Struct
    offset: struct.Struct


def _tiff_header(path: Path, file: BinaryIO) -> tuple[_Dialect, int]:
    """Read the byte order, the dialect, and the offset of the first page."""
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = header[2:4] in (b"+\0", b"\0+")
    where = 8 if big else 4
    layout = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    dialect = _Dialect(*(struct.Struct(order + part) for part in layout))
    if len(header) < where + dialect.offset.size:
        raise _cut(path, "its header is incomplete")
    return dialect, int(dialect.offset.unpack_from(header, where)[0])


def _next_page(path: Path, file: BinaryIO, dialect: _Dialect, offset: int, size: int) -> int:
    """Check the page at `offset` against the file's `size`; give the offset of the page after it."""
    file.seek(offset)
    head = file.read(dialect.number.size)
    if len(head) < dialect.number.size:
        raise _cut(path, f"a page should begin at byte {offset} of {size}")
    tag_bytes = dialect.number.unpack(head)[0] * dialect.tag.size
    if offset + len(head) + tag_bytes + dialect.offset.size > size:
        raise _cut(path, f"the page at byte {offset} reaches beyond the file's {size} bytes")
    for code, kind, count, value in dialect.tag.iter_unpack(file.read(tag_bytes)):
        value_bytes = _TYPE_BYTES.get(kind, 0) * count
        outside = value_bytes > dialect.offset.size and value + value_bytes > size
        if outside and code < _FIRST_PRIVATE_TAG:
            raise _cut(path, f"the value of tag {code} reaches beyond the file's {size} bytes")
    return int(dialect.offset.unpack(file.read(dialect.offset.size))[0])


def _cut(path: Path, what: str) -> ImageFileError:
    return ImageFileError(f"{path}: is cut short or damaged ({what}); copy or export it again")
