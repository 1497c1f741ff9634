"""What tells two images apart without reading all of them: hashes of well-spread parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cytoseed.images.regions import Box, Regions

_WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256
_BLOCK_PX = 64
_METADATA_NAMES = (".zattrs", ".zgroup", ".zarray", ".zmetadata", "zarr.json", "Slidedat.ini")


def path_digest(path: Path) -> tuple[int, str]:
    """Measure and hash a file, or the folder of an OME-Zarr; see `Image.identity`.

    Returns
    -------
    size : int
        In bytes, of all files.
    sha256 : str
        In hexadecimal digits.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        return _add_folder(digest, path), digest.hexdigest()
    size = _add_file(digest, path)
    folder = path.with_suffix("")  # MRXS: the file is a picture, the slide is in the folder of its name
    if (folder / "Slidedat.ini").is_file():
        size += _add_folder(digest, folder)
    return size, digest.hexdigest()


def pixels_digest(regions: Regions, shape: tuple[int, int, int]) -> str:
    """Hash pixels of an image that is in no file; see `Image.identity`.

    Parameters
    ----------
    regions : Regions
        Open.
    shape : tuple of int
        Channels, height, width.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for box in _spread_boxes(*shape[1:]):
        digest.update(regions.read(box).data)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> int:
    """Add a file's bytes, or a choice of them; give its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while block := file.read(_END_BYTES):
                digest.update(block)
            return size
        for start, count in _spread_bytes(size):
            file.seek(start)
            digest.update(file.read(count))
    return size


def _add_folder(digest: hashlib._Hash, folder: Path) -> int:
    """Add the names and sizes of all files of a folder, and the contents of those that describe; give the sum."""
    names = sorted((file.relative_to(folder).as_posix(), file) for file in folder.rglob("*") if file.is_file())
    total = 0
    for name, file in names:
        size = file.stat().st_size
        total += size
        digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        if file.name in _METADATA_NAMES:
            digest.update(file.read_bytes())
    return total


def _spread_bytes(size: int) -> Iterator[tuple[int, int]]:
    """Give begin and length of the parts of a large file that count."""
    yield 0, _END_BYTES
    yield size - _END_BYTES, _END_BYTES
    for index in range(_BLOCKS):
        yield (size - _BLOCK_BYTES) * index // (_BLOCKS - 1), _BLOCK_BYTES


def _spread_boxes(height: int, width: int) -> Iterator[Box]:
    """Give up to 256 boxes spread evenly over an image; they cover it where they can."""
    rows, columns = -(-height // _BLOCK_PX), -(-width // _BLOCK_PX)
    if rows * columns > _BLOCKS:
        side = int(_BLOCKS**0.5)
        rows, columns = (min(rows, max(side, _BLOCKS // max(1, columns))), min(columns, max(side, _BLOCKS // rows)))
    for row in range(rows):
        for column in range(columns):
            top, left = _spread(row, rows, height), _spread(column, columns, width)
            yield top, left, min(_BLOCK_PX, height - top), min(_BLOCK_PX, width - left)


def _spread(index: int, count: int, length: int) -> int:
    """Place the beginning of one of `count` blocks on an axis, the first and last at its ends."""
    return 0 if count == 1 else (length - _BLOCK_PX) * index // (count - 1)
