"""Where results go: a folder of this machine, or one far away that is reached by a URL such as `s3://bucket/results`.

Far away a file is written in one request, and so is there whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, cast

from cytoseed.url import is_url, local_path, split_url

_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "oci")  # have files, and no folders
_RIGHTS = ("NoCredentials", "PartialCredentials", "CredentialRetrieval", "ProfileNotFound", "DefaultCredentials")


def folder_at(output: str | os.PathLike[str]) -> Path:
    """Give the folder that a user names.

    Parameters
    ----------
    output : str or path
        A path, or a URL that fsspec knows.

    Returns
    -------
    Path
        Of a URL, but for one of this machine, universal_pathlib's `UPath`, which has the same interface.

    Raises
    ------
    ModuleNotFoundError
        A URL, and what reaches it is not installed.
    ValueError
        A URL that names no place.
    """
    text = str(output)
    if not is_url(text):
        return Path(output)
    here = local_path(text)
    if here is not None:
        return here
    # others may write there too; what has folders knows nothing of that option
    fresh: dict[str, Any] = {"use_listings_cache": False} if split_url(text).protocol in _BUCKETS else {}
    try:
        from upath import UPath

        folder: Any = UPath(output, **fresh)
        folder.fs  # noqa: B018 - made now, where its package may be missing
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{text}: results at URLs need packages that are not installed ({error}): pip install 'cytoseed[cloud]' "
            f"brings what S3 needs; other stores need one of their own, such as gcsfs for gs:// and adlfs for az://"
        ) from error
    except ValueError as error:
        raise ValueError(f"{text}: names no place to write to ({error}); such is s3://bucket/folder") from error
    return cast(Path, folder)


def is_far(path: Path) -> bool:
    """Tell whether a path is reached by a URL."""
    return not isinstance(path, Path)


def is_one(path: Path, other: Path) -> bool:
    """Tell whether two paths are one file, which is there."""
    if is_far(path) or is_far(other):
        return str(path) == str(other) and path.exists()
    return path.exists() and other.exists() and path.samefile(other)


def require_writable(folder: Path) -> None:
    """Write a small file into a folder far away, and remove it again; nothing is done to one of this machine.

    Raises
    ------
    OSError
        That cannot be done: the message names the folder and what to do.
    """
    if is_far(folder):
        probe = folder / f".cytoseed-{uuid.uuid4().hex}"
        write_whole(probe, b"")
        with _told(folder):
            probe.unlink()


def write_whole(place: Path, data: bytes) -> None:
    """Write a file far away; the folders that it lies in are made, but no bucket is.

    Raises
    ------
    OSError
        With the URL and what to do.
    """
    far = cast(Any, place)
    with _told(place.parent):
        _make_parents(far)
        far.fs.pipe_file(far.path, data)


def read_whole(place: Path) -> bytes:
    """Read all of a file, here or far away.

    Raises
    ------
    FileNotFoundError
        There is none.
    OSError
        It cannot be read.
    """
    if not is_far(place):
        return place.read_bytes()
    far = cast(Any, place)
    with _told(place, is_read=True):
        data: bytes = far.fs.cat_file(far.path)
    return data


def names_in(folder: Path) -> list[str]:
    """List what lies directly in a folder, here or far away, by name; nothing where there is no folder.

    Raises
    ------
    OSError
        It cannot be listed.
    """
    if not is_far(folder):
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    far = cast(Any, folder)
    with suppress(FileNotFoundError), _told(folder, is_read=True):
        names = {path.rstrip("/").rpartition("/")[2] for path in far.fs.ls(far.path, detail=False)}
        return sorted(names)
    return []


def remove_tree(place: Path) -> None:
    """Remove a file or a folder with all that is in it: here as far as that can be done, far away or raise.

    Raises
    ------
    OSError
        Far away: with the URL and what to do.
    """
    if not is_far(place):
        shutil.rmtree(place, ignore_errors=True)
        return
    far = cast(Any, place)
    with suppress(FileNotFoundError), _told(place):
        far.fs.rm(far.path, recursive=True)


def upload(staged: Path, place: Path) -> None:
    """Copy a file or a folder of this machine to a place far away, instead of what is there.

    Raises
    ------
    OSError
        With the URL and what to do; of a folder, a part may be there.
    """
    far = cast(Any, place)
    if not staged.is_dir():
        with _told(place.parent):
            _make_parents(far)
            far.fs.put_file(str(staged), far.path)
        return
    remove_tree(place)
    files = sorted(file for file in staged.rglob("*") if file.is_file())
    places = [far / file.relative_to(staged).as_posix() for file in files]
    with _told(place.parent):
        for one in {one.parent: one for one in places}.values():
            _make_parents(one)
        far.fs.put([str(file) for file in files], [one.path for one in places])


def _make_parents(far: Any) -> None:
    """Make the folders above a file, in a store that has folders: in others a bucket would be made."""
    if far.protocol not in _BUCKETS:
        far.fs.makedirs(far.parent.path, exist_ok=True)


@contextmanager
def _told(place: Path, is_read: bool = False) -> Iterator[None]:
    """Say what libraries of stores raise, which need not be an `OSError`, as Python says it of files on a disk."""
    done = "read" if is_read else "written to"
    try:
        yield
    except Exception as error:
        text, kind = " ".join(str(error).split()) or type(error).__name__, type(error).__name__
        if isinstance(error, FileNotFoundError):
            remedy = "check the address" if is_read else "check the address, and make the bucket first"
            raise FileNotFoundError(f"{place}: there is no such place ({text}); {remedy}") from error
        if isinstance(error, PermissionError) or kind.startswith(_RIGHTS):
            raise PermissionError(
                f"{place}: may not be {done} ({text}); check the rights, and the credentials that fsspec finds in the "
                f"environment or its configuration (of s3://, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                f"AWS_PROFILE), or choose another folder"
            ) from error
        raise OSError(
            f"{place}: cannot be {done} ({kind}: {text}); check the address and the network, or choose another folder"
        ) from error
