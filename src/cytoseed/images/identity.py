"""Identity of images: whether a path is a Zarr folder, and hashes that distinguish two images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

from cytoseed.paths import is_remote, is_web, local_copy, read_bytes, storage_errors

if TYPE_CHECKING:
    from cytoseed.images.regions import Box, Regions

_WHOLE_BYTES = 64 << 20
_END_BYTES = 1 << 20
_BLOCK_BYTES = 64 << 10
_BLOCKS = 256
_BLOCK_PX = 64
ZARR_MARKS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")
"""A folder with one of these files is a Zarr folder."""
_METADATA_NAMES = (*ZARR_MARKS, ".zmetadata", "Slidedat.ini")


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is a Zarr folder; in a bucket that cannot be listed, whether it has readable metadata."""
    if is_web(path) and "?" in str(path):  # a signed URL names one file
        return False
    for mark in ZARR_MARKS:
        try:
            if read_text(path / mark) is not None:
                return True
        except PermissionError:
            if not is_remote(path):
                raise
    return False


def read_text(path: Path) -> str | None:
    """Content of a file; None if it does not exist. Damaged characters are replaced."""
    try:
        return read_bytes(path).decode(errors="replace")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def path_digest(path: Path) -> tuple[int, str] | None:
    """Size in bytes and SHA-256 of a file or OME-Zarr folder; None for a remote folder that cannot be listed."""
    digest = hashlib.sha256()
    if is_remote(path) and is_zarr_folder(path):
        try:
            return None if is_web(path) else (_add_folder(digest, path), digest.hexdigest())
        except PermissionError:  # a bucket may be readable but not listable
            return None
    path = local_copy(path) if is_remote(path) else path
    size = 0 if path.is_dir() else _add_file(digest, path)
    folder = path if path.is_dir() else path.with_suffix("")  # MRXS: the slide is in the folder of the same name
    if path.is_dir() or (folder / "Slidedat.ini").is_file():
        size += _add_folder(digest, folder)
    return size, digest.hexdigest()


def pixels_digest(regions: Regions, shape: tuple[int, int, int]) -> str:
    """SHA-256 of pixels spread over an open image of this shape (C,H,W)."""
    digest = hashlib.sha256()
    for box in _spread_boxes(*shape[1:]):
        digest.update(regions.read(box).data)
    return digest.hexdigest()


def _add_file(digest: hashlib._Hash, path: Path) -> int:
    """Add a file's bytes, or for a large file a selection of them; return its size."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while size <= _WHOLE_BYTES and (block := file.read(_END_BYTES)):
            digest.update(block)
        for start, count in _spread_bytes(size) if size > _WHOLE_BYTES else ():
            file.seek(start)
            digest.update(file.read(count))
    return size


def _add_folder(digest: hashlib._Hash, folder: Path) -> int:
    """Add names and sizes of all files of a folder, and the content of metadata; return the sum of sizes."""
    sizes = _file_sizes(folder)
    for name in sorted(sizes):
        digest.update(f"{name}\0{sizes[name]}\0".encode("utf-8", "surrogateescape"))
        if PurePosixPath(name).name in _METADATA_NAMES:
            digest.update(read_bytes(folder / name))
    return sum(sizes.values())


def _file_sizes(folder: Path) -> dict[str, int]:
    """Sizes in bytes of all files of a folder, by their names in it."""
    if not is_remote(folder):
        files = (file for file in folder.rglob("*") if file.is_file())
        return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    far = cast(Any, folder)
    with storage_errors(folder):
        root = far.fs._strip_protocol(far.path).strip("/")
        found = far.fs.find(far.path, detail=True)
    sizes = {path.strip("/")[len(root) + 1 :]: int(info.get("size") or 0) for path, info in found.items()}
    return {name: size for name, size in sizes.items() if name and not name.endswith("/")}


def _spread_bytes(size: int) -> list[tuple[int, int]]:
    """Start and length of the parts of a large file that are hashed."""
    blocks = [((size - _BLOCK_BYTES) * index // (_BLOCKS - 1), _BLOCK_BYTES) for index in range(_BLOCKS)]
    return [(0, _END_BYTES), (size - _END_BYTES, _END_BYTES), *blocks]


def _spread_boxes(height: int, width: int) -> Iterator[Box]:
    """Up to 256 boxes spread evenly over an image; they cover all of a small one."""
    rows, columns = -(-height // _BLOCK_PX), -(-width // _BLOCK_PX)
    if rows * columns > _BLOCKS:
        side = int(_BLOCKS**0.5)
        rows, columns = (min(rows, max(side, _BLOCKS // max(1, columns))), min(columns, max(side, _BLOCKS // rows)))
    for row in range(rows):
        for column in range(columns):
            top, left = _spread(row, rows, height), _spread(column, columns, width)
            yield top, left, min(_BLOCK_PX, height - top), min(_BLOCK_PX, width - left)


def _spread(index: int, count: int, length: int) -> int:
    """Start of one of `count` blocks along an axis, the first and last at its ends."""
    return 0 if count == 1 else (length - _BLOCK_PX) * index // (count - 1)
