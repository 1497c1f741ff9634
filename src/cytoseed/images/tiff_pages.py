"""The pages of a TIFF: decoders take a cut file for one that ends with its last complete page."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cytoseed.images.file_errors import cut_short

_FIRST_PRIVATE_TAG = 32768
_SUB_IFDS = 330
_POINTERS = {4: "I", 13: "I", 16: "Q", 18: "Q"}  # types of a tag that can hold offsets: LONG, IFD, LONG8, IFD8
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def require_all_pages(path: Path) -> None:
    """Follow a TIFF's chain of pages, and each page's pointers to lower resolutions, to the end.

    Raises
    ------
    ImageFileError
        A page, or a value of one of its public tags, lies beyond the file's end. Private tags may hold anything.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        dialect, offset = _header(path, file)
        seen: set[int] = set()
        waiting = [offset]
        while waiting:
            offset = waiting.pop()
            if offset and offset not in seen:  # some writers close the chain into a ring
                seen.add(offset)
                following, children = _page(path, file, dialect, offset, size)
                for child in children:  # of a lower resolution only itself counts
                    _page(path, file, dialect, child, size)
                waiting.append(following)


class _Dialect(NamedTuple):
    """Structs of classic TIFF or BigTIFF: number of tags, one tag, offset of the next page."""

    number: struct.Struct
    tag: struct.Struct
    offset: struct.Struct


def _header(path: Path, file: BinaryIO) -> tuple[_Dialect, int]:
    """Dialect of a file, and the offset of its first page."""
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = header[2:4] in (b"+\0", b"\0+")
    layout = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    dialect = _Dialect(*(struct.Struct(order + part) for part in layout))
    where = 8 if big else 4
    if len(header) < where + dialect.offset.size:
        raise cut_short(path, "its header is incomplete")
    return dialect, int(dialect.offset.unpack_from(header, where)[0])


def _page(path: Path, file: BinaryIO, dialect: _Dialect, offset: int, size: int) -> tuple[int, list[int]]:
    """Offset of the page after the one at `offset`, and offsets of its lower resolutions."""
    first = offset + dialect.number.size
    if first > size:
        raise cut_short(path, f"a page should begin at byte {offset} of {size}")
    file.seek(offset)
    tag_bytes = dialect.number.unpack(file.read(dialect.number.size))[0] * dialect.tag.size
    if first + tag_bytes + dialect.offset.size > size:
        raise cut_short(path, f"the page at byte {offset} reaches beyond the file's {size} bytes")
    tags, rest = file.read(tag_bytes), file.read(dialect.offset.size)
    children: list[int] = []
    for index, (code, kind, count, value) in enumerate(dialect.tag.iter_unpack(tags)):
        value_bytes = _TYPE_BYTES.get(kind, 0) * count
        inside = value_bytes <= dialect.offset.size
        if not inside and value + value_bytes > size and code < _FIRST_PRIVATE_TAG:
            raise cut_short(path, f"the value of tag {code} reaches beyond the file's {size} bytes")
        if code == _SUB_IFDS and kind in _POINTERS:
            file.seek(first + (index + 1) * dialect.tag.size - dialect.offset.size if inside else value)
            pointer = struct.Struct(dialect.offset.format[0] + _POINTERS[kind])
            children = [to for to in _unpacked(pointer, file.read(value_bytes)) if to >= 8]  # others point to nothing
    return int(dialect.offset.unpack(rest)[0]), children


def _unpacked(pointer: struct.Struct, values: bytes) -> Iterator[int]:
    return (int(value) for (value,) in pointer.iter_unpack(values))
