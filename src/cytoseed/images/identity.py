"""What tells two images apart without reading all of them: hashes of well-spread parts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cytoseed.images.copies import local_copy
from cytoseed.images.remote import Place, Remote

if TYPE_CHECKING:
    from cytoseed.images.regions import Box, Regions

_WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256
_BLOCK_PX = 64
_PLACES = 32  # fetched side by side
_METADATA_NAMES = (".zattrs", ".zgroup", ".zarray", ".zmetadata", "zarr.json", "Slidedat.ini")


def is_listed(path: Place) -> bool:
    """Tell whether what there is can be looked at: not so of an OME-Zarr on the web, where folders are not listed."""
    if not isinstance(path, Remote) or path.copied is not None:
        return True
    try:
        if path.is_file():
            return not path.is_page()
        return path.lists and path.is_dir()
    except PermissionError:  # a bucket may be read and not be listed
        return False


def path_digest(path: Place) -> tuple[int, str]:
    """Measure and hash a file, or the folder of an OME-Zarr; see `Image.identity`.

    Returns
    -------
    size : int
        In bytes, of all files.
    sha256 : str
        In hexadecimal digits.
    """
    digest = hashlib.sha256()
    if isinstance(path, Remote):
        if path.copied is None:
            path = path.anew()
            size = _add_remote_folder(digest, path) if path.is_dir() else _add_remote_file(digest, path)
            return size, digest.hexdigest()
        path = local_copy(path)
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


def _add_remote_file(digest: hashlib._Hash, file: Remote) -> int:
    """Add the same bytes of a file far away, some places at a time."""
    size = file.stat().st_size
    if size > _WHOLE_BYTES:
        extents = list(_spread_bytes(size))
    else:
        extents = [(start, min(_END_BYTES, size - start)) for start in range(0, size, _END_BYTES)]
    for first in range(0, len(extents), _PLACES):
        for data in file.pieces(extents[first : first + _PLACES]):
            digest.update(data)
    return size


def _add_remote_folder(digest: hashlib._Hash, folder: Remote) -> int:
    """Add the same of a folder far away."""
    total = 0
    for entry in folder.entries(deep=True):
        total += entry.size
        digest.update(f"{entry.name}\0{entry.size}\0".encode("utf-8", "surrogateescape"))
        if PurePosixPath(entry.name).name in _METADATA_NAMES:
            digest.update((folder / entry.name).read_bytes())
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
