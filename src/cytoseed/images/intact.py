"""Whether a file has all its bytes: decoders that meet a cut file may return half an image and no error."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from cytoseed.images.errors import cut_short
from cytoseed.images.remote import Place

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in a scan, FF 00 is data, D0 to D7 restart it
_FIRST_PRIVATE_TAG = 32768
_SUB_IFDS = 330
_POINTERS = (4, 13, 16, 18)  # types of a tag that can hold offsets: LONG, IFD, LONG8, IFD8
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Survey(NamedTuple):
    """What following a TIFF's chain of pages has shown."""

    lost: tuple[str, ...]
    """In words, which pages after the first are lost; empty where all are there."""
    blanks: tuple[tuple[int, int], ...]
    """Position and length of each pointer to a lost page: with zeros there the file is whole, but for pixels."""
    chain_is_cut: bool
    """Whether pages are lost that may be anything; those of `SubIFDs` are lower resolutions of their page."""


def survey_tiff(path: Place) -> Survey:
    """Follow a TIFF's chain of pages, and each page's pointers to lower resolutions, to the end.

    A cut file often lacks its last pages or its description, and would then be read as a smaller image.

    Raises
    ------
    ImageFileError
        If the first page, or a value of one of its public tags, lies beyond the file's end. Private tags may hold
        anything.
    """
    size = path.stat().st_size
    lost: list[str] = []
    blanks: list[tuple[int, int]] = []
    children: list[_Child] = []
    chain_is_cut = False
    with path.open("rb") as file:
        dialect, pointer, offset = _tiff_header(path, file)
        seen: set[int] = set()
        while offset and offset not in seen:  # some writers close the chain into a ring
            page = _page(file, dialect, offset, size)
            if isinstance(page, str):
                if not seen:
                    raise cut_short(path, page)
                lost.append(page)
                blanks.append((pointer, dialect.offset.size))
                chain_is_cut = True
                break
            seen.add(offset)
            children += page.children
            pointer, offset = page.pointer, page.following
        broken = {child: found for child in children if isinstance(found := _page(file, dialect, child.to, size), str)}
    numbers = {child.number for child in broken}  # a level that one channel lacks is none
    blanks += [(child.pointer, child.length) for child in children if child.number in numbers]
    return Survey((*lost, *broken.values()), tuple(blanks), chain_is_cut)


class Blanked(io.RawIOBase):
    """A file of which some bytes are seen as zeros."""

    def __init__(self, path: Place, blanks: Sequence[tuple[int, int]]) -> None:
        """Open a file to read; `blanks` are positions and lengths."""
        super().__init__()
        self.name = str(path)
        self._file: BinaryIO = path.open("rb")
        self._blanks = blanks

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def fileno(self) -> int:
        """Give the file's number; one far away has none, and raises."""
        return self._file.fileno()

    def tell(self) -> int:
        """Give the place of the next byte."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, counted from the beginning, from here or from the end."""
        return self._file.seek(offset, whence)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes into a buffer; give their number."""
        start = self.tell()
        view = memoryview(buffer).cast("B")
        data = self._file.read(len(view))
        view[: len(data)] = data
        for position, length in self._blanks:
            first, last = max(position - start, 0), min(position + length - start, len(data))
            if first < last:
                view[first:last] = bytes(last - first)
        return len(data)


def require_whole_jpeg(path: Place, data: bytes) -> None:
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
    raise cut_short(path, "its end of image is missing")


class _Dialect(NamedTuple):
    """How classic TIFF and BigTIFF write a page: number of tags, one tag, offset of the next page."""

    number: struct.Struct
    tag: struct.Struct
    offset: struct.Struct

    def pointer(self, kind: int) -> struct.Struct:
        """Give how a pointer in the value of a tag is written."""
        order = self.offset.format[0]
        return struct.Struct(order + ("Q" if _TYPE_BYTES[kind] == 8 else "I"))


class _Child(NamedTuple):
    """A pointer from a page to one of its lower resolutions."""

    number: int
    pointer: int  # its position
    length: int  # in bytes
    to: int


class _Page(NamedTuple):
    """Where a page points to."""

    pointer: int  # position of what points to the following page
    following: int  # its offset; 0 where there is none
    children: tuple[_Child, ...]


def _tiff_header(path: Place, file: BinaryIO) -> tuple[_Dialect, int, int]:
    """Read the byte order and dialect, and the pointer to the first page: where it is and what it says."""
    header = file.read(16)
    order = "<" if header[:2] == b"II" else ">"
    big = header[2:4] in (b"+\0", b"\0+")
    where = 8 if big else 4
    layout = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    dialect = _Dialect(*(struct.Struct(order + part) for part in layout))
    if len(header) < where + dialect.offset.size:
        raise cut_short(path, "its header is incomplete")
    return dialect, where, int(dialect.offset.unpack_from(header, where)[0])


def _page(file: BinaryIO, dialect: _Dialect, offset: int, size: int) -> _Page | str:
    """Check the page at `offset` against the file's `size`; tell in words what is lost of it."""
    if offset + dialect.number.size > size:
        return f"a page should begin at byte {offset} of {size}"
    file.seek(offset)
    head = file.read(dialect.number.size)
    first = offset + len(head)
    tag_bytes = dialect.number.unpack(head)[0] * dialect.tag.size
    if first + tag_bytes + dialect.offset.size > size:
        return f"the page at byte {offset} reaches beyond the file's {size} bytes"
    tags, rest = file.read(tag_bytes), file.read(dialect.offset.size)
    children: tuple[_Child, ...] = ()
    for index, (code, kind, count, value) in enumerate(dialect.tag.iter_unpack(tags)):
        value_bytes = _TYPE_BYTES.get(kind, 0) * count
        inside = value_bytes <= dialect.offset.size
        if not inside and value + value_bytes > size and code < _FIRST_PRIVATE_TAG:
            return f"the value of tag {code} reaches beyond the file's {size} bytes"
        if code == _SUB_IFDS and kind in _POINTERS:
            position = first + (index + 1) * dialect.tag.size - dialect.offset.size if inside else value
            file.seek(position)
            children = tuple(_children(dialect.pointer(kind), position, file.read(value_bytes)))
    return _Page(first + tag_bytes, int(dialect.offset.unpack(rest)[0]), children)


def _children(pointer: struct.Struct, position: int, values: bytes) -> Iterator[_Child]:
    """Give the pointers in the value of SubIFDs; those below 8 point to nothing."""
    for number, (to,) in enumerate(pointer.iter_unpack(values)):
        if to >= 8:
            yield _Child(number, position + number * pointer.size, pointer.size, to)
