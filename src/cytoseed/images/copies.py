"""Copies on this machine of files far away, for readers that take nothing else.

A copy is made in a folder of its own, which gets its name when everything is in it: it is there as a whole or not at
all. Its name says of which version of the file it is, as far as the store tells versions apart.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cytoseed.images.blocks import REQUEST_BYTES
from cytoseed.images.remote import Remote
from cytoseed.paths import CACHE_VARIABLE, cache_folder
from cytoseed.url import split_url

_FOLDER = "slides"
_SPARE_BYTES = 1 << 26  # left free, for what others write meanwhile
_AT_ONCE_BYTES = 4 * REQUEST_BYTES


def local_copy(remote: Remote) -> Path:
    """Give a copy of a file far away, made now if there is none of its version.

    Several processes may ask for one file: one makes the copy and the others wait, where the disk has locks; else each
    makes its own, and the first that is whole is kept.

    Parameters
    ----------
    remote : Remote
        A file; what its `copied` names is copied with it, and what of that is not there is left out.

    Returns
    -------
    Path
        The copy, under the file's own name.

    Raises
    ------
    OSError
        If the file cannot be read, was changed meanwhile, or the disk has no room for it.
    """
    parts = _parts(remote)
    folder = cache_folder() / _FOLDER / _key(remote, parts)
    copy = folder / remote.name
    if _is_current(copy, parts):
        return copy
    _make_folder(remote, folder.parent)
    with _alone(folder):
        if not _is_current(copy, parts):
            _make(remote, parts, folder)
    return copy


class _Part(NamedTuple):
    """A file to be copied."""

    name: str  # from the folder of the main one
    remote: Remote
    size: int | None
    version: str


def _parts(remote: Remote) -> list[_Part]:
    """Find all files that belong together."""
    seen = remote.anew()
    parts = [_Part(remote.name, seen, seen.info().get("size"), seen.version)]
    for name in remote.copied or ():
        other = remote.beside(name.rstrip("/"))
        if not name.endswith("/"):
            if other.exists():
                parts.append(_Part(name, other, other.info().get("size"), other.version))
            continue
        parts += [_Part(name + e.name, other / e.name, e.size, e.version) for e in other.entries(deep=True)]
    for part in parts:
        if ".." in Path(part.name).parts or Path(part.name).is_absolute():
            raise OSError(f"{remote}: belongs together with {part.name!r}, which lies in another folder")
    return parts


def _key(remote: Remote, parts: Sequence[_Part]) -> str:
    """Name the folder of a version of a file."""
    digest = hashlib.sha256(split_url(remote.url)._replace(query="").joined().encode("utf-8", "surrogateescape"))
    for part in parts:
        digest.update(f"\n{part.name}\0{part.size}\0{part.version}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _is_current(copy: Path, parts: Sequence[_Part]) -> bool:
    """Tell whether there is a copy that can be relied on: not so where the store tells no version."""
    return all(part.version for part in parts) and copy.is_file()


def _make(remote: Remote, parts: Sequence[_Part], folder: Path) -> None:
    """Copy all files into a folder beside, and give it its name."""
    beside = folder.with_name(f"{folder.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
    try:
        _require_room(remote, sum(part.size or 0 for part in parts), folder.parent)
        for part in parts:
            target = beside / part.name
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(part, target)
        if _key(remote, _parts(remote)) != folder.name:
            raise OSError(f"{remote}: was changed while it was copied; open it again")
        _put(beside, folder, replace=not all(part.version for part in parts))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_room(remote, sum(part.size or 0 for part in parts), folder.parent) from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _copy(part: _Part, target: Path) -> None:
    """Copy one file; a server that does not serve parts gives all of it at once."""
    if not part.remote.has_parts():
        part.remote.save(target)
        if part.size is not None and target.stat().st_size != part.size:
            raise OSError(f"{part.remote}: gave {target.stat().st_size} bytes of {part.size}; open it again")
        return
    size = part.remote.stat().st_size
    with target.open("wb") as file:
        for start in range(0, size, _AT_ONCE_BYTES):
            stop = min(start + _AT_ONCE_BYTES, size)
            extents = [(place, min(REQUEST_BYTES, stop - place)) for place in range(start, stop, REQUEST_BYTES)]
            file.writelines(part.remote.pieces(extents))
        file.flush()
        os.fsync(file.fileno())


def _put(beside: Path, folder: Path, replace: bool) -> None:
    """Give a copy its name; of two that were made at a time, one is kept."""
    if replace and folder.exists():
        old = beside.with_suffix(".old")
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)
    try:
        beside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def _make_folder(remote: Remote, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{remote}: has to be copied to this machine, and {folder} cannot be made ({error.strerror}); "
            f"give another folder by {CACHE_VARIABLE}"
        ) from error


def _require_room(remote: Remote, size: int, folder: Path) -> None:
    """Refuse a copy for which the disk has no room, before it is begun."""
    if shutil.disk_usage(folder).free < size + _SPARE_BYTES:
        raise _no_room(remote, size, folder)


def _no_room(remote: Remote, size: int, folder: Path) -> OSError:
    free = shutil.disk_usage(folder).free
    return OSError(
        f"{remote}: has to be copied to this machine, which needs {_mb(size)} in {folder}, and {_mb(free)} are "
        f"free there; make room, or give a folder on another disk by {CACHE_VARIABLE}"
    )


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e10 else f"{size / 1e9:.0f} GB"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process makes the same copy, and clear away what killed ones have left."""
    from filelock import FileLock

    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    with suppress(NotImplementedError, OSError):  # a disk without locks: each process makes its own copy
        lock.acquire()
    try:
        if lock.is_locked:
            for left in folder.parent.glob(f"{folder.name}.*.part"):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
