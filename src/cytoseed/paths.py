"""Local paths and URLs: one way to read, write, copy and lock files on a disk, in a bucket or on the web.

A URL is a `UPath` of universal_pathlib, which has the interface of `pathlib.Path` and is annotated as one here.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

CACHE_VARIABLE = "CYTOSEED_CACHE"

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+::)*[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least: C:/ is a disk
_LOCAL, _WEB = ("file", "local"), ("http", "https")
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "oci")  # have no real folders
_SECRETS = re.compile(r"(?<=://)[^/@:]*:[^/@]*@|\?.*|(?<=.)::[a-z0-9+.-]+://.*")
_VERSIONS = (
    *("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "LastModified", "Last-Modified"),
    *("last_modified", "mtime", "updated", "modified", "created"),
)
_HELD: ContextVar[frozenset[Path]] = ContextVar("locked folders", default=frozenset())
_SILENCE_S = 60.0
_SPARE_BYTES = 1 << 26  # left free on the disk of the cache
_NO_RIGHTS = ("Credential", "ProfileNotFound", "UnauthorizedSSO", "TokenRetrieval", "RefreshError", "Authentication")
_CREDENTIALS = (
    "check the rights, and the credentials that fsspec finds in the environment or its configuration (for s3://, "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket FSSPEC_S3='{\"anon\": true}'; "
    "for gs://, GOOGLE_APPLICATION_CREDENTIALS; for az://, AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY)"
)


class InputWarning(UserWarning):
    """Something in an input file that the user may not have intended."""

    def __init__(self, path: str | os.PathLike[str], text: str) -> None:
        super().__init__(f"{display(path)}: {text}")
        self.path, self.text = display(path), text


def is_url(path: object) -> bool:
    """Whether a value is a URL such as `s3://bucket/slide.tif`, or a chain of URLs as fsspec accepts it."""
    return isinstance(path, str) and _URL.match(path) is not None


def as_path(path: str | os.PathLike[str]) -> Path:
    """Path of a file or folder: a `Path`, or for a URL a `UPath`, which has the same interface.

    Raises `ModuleNotFoundError` without the URL's package, `ValueError` for an unknown protocol.
    """
    text = str(path)
    if not is_url(text):
        return Path(path)
    parts = urlsplit(text)
    if parts.scheme in _LOCAL:
        return Path(url2pathname(parts.netloc + parts.path))
    try:
        from upath import UPath

        bare = text.rstrip("/")
        url = bare if isinstance(path, str) and not bare.endswith(":") else path
        place: Any = UPath(url, **_options(parts.scheme, getattr(path, "storage_options", {})))
        place.fs  # noqa: B018 - made now, where its package may be missing
    except ImportError as error:
        raise ModuleNotFoundError(
            f"{display(text)}: this URL needs packages that are not installed ({error}): pip install 'cytoseed[cloud]' "
            f"brings what S3 and the web need; other stores need their own, such as gcsfs for gs:// and adlfs for az://"
        ) from error
    except ValueError as error:
        raise ValueError(f"{display(text)}: no such kind of URL ({error}); give one like s3://bucket/folder") from error
    return cast(Path, place)


def _options(protocol: str, given: Any) -> dict[str, Any]:
    """Options of fsspec's file system that differ from its defaults."""
    if protocol in _BUCKETS:
        return {"use_listings_cache": False}  # others may write there too
    if protocol in _WEB:
        from aiohttp import ClientTimeout
        from fsspec.config import conf

        if "client_kwargs" not in {**conf.get(protocol, {}), **given}:  # its own limit is 5 minutes per file
            return {"client_kwargs": {"timeout": ClientTimeout(None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)}}
    return {}


def is_remote(path: Path) -> bool:
    """Whether a path is reached by a URL."""
    return not isinstance(path, Path)


def is_web(path: Path) -> bool:
    """Whether a path is reached by HTTP, where folders are not listed."""
    return is_remote(path) and cast(Any, path).protocol in _WEB


def display(path: str | os.PathLike[str]) -> str:
    """Text of a path or URL for messages and files: without passwords and signatures."""
    text = str(path)
    return _SECRETS.sub("", text) if is_url(text) else text


def file_name(path: Path) -> str:
    """Last part of a path, for a URL without its query."""
    return PurePosixPath(display(path)).name if is_remote(path) else path.name


def same_file(path: Path, other: Path) -> bool:
    """Whether two paths lead to the same existing file."""
    if is_remote(path) or is_remote(other):
        return str(path) == str(other) and path.exists()
    return path.exists() and other.exists() and path.samefile(other)


def require_file(path: Path) -> None:
    """Raise `OSError` for a local path that is neither a file nor a folder: reading a pipe may wait for ever."""
    if not is_remote(path) and path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(f"{path}: is a pipe or a device, not a file; copy its content into a file")


def require_writable(folder: Path) -> None:
    """Raise `OSError` if a remote folder cannot be written to; a local folder is not checked."""
    if is_remote(folder):
        probe = folder / f".cytoseed-{uuid.uuid4().hex}"
        write_bytes(probe, b"")
        with storage_errors(folder, writing=True):
            probe.unlink()


def read_bytes(path: Path) -> bytes:
    """Content of a file."""
    if not is_remote(path):
        require_file(path)
        return path.read_bytes()
    far = cast(Any, path)
    with storage_errors(path):
        return cast(bytes, far.fs.cat_file(far.path))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file or nothing, durably; a remote one in a single request. Missing buckets are not made."""
    if is_remote(path):
        far = cast(Any, path)
        with storage_errors(path.parent, writing=True):
            _make_parents(far)
            far.fs.pipe_file(far.path, data)
        return
    with atomic_file(path) as beside:
        beside.write_bytes(data)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Temporary path to write a file to: at the end it is flushed to disk and renamed; after an error it is removed."""
    place = as_path(path)
    if is_remote(place):
        with tempfile.TemporaryDirectory(prefix="cytoseed-") as folder:
            yield (beside := Path(folder) / file_name(place))
            replace(beside, place)
        return
    beside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        yield beside
        with beside.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, place)
        if os.name != "nt":  # the folder's names too; Windows does so by itself
            handle = os.open(place.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    finally:
        beside.unlink(missing_ok=True)


def longest_name(folder: Path) -> int:
    """Bytes that the name of a file in a local folder, which need not exist yet, may have."""
    if not hasattr(os, "pathconf"):
        return 255
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return os.pathconf(existing, "PC_NAME_MAX")


def list_names(folder: Path) -> list[str]:
    """Sorted names of the direct contents of a folder; empty if there is no folder."""
    if not is_remote(folder):
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    far = cast(Any, folder)
    with suppress(FileNotFoundError), storage_errors(folder):
        return sorted({path.rstrip("/").rpartition("/")[2] for path in far.fs.ls(far.path, detail=False)})
    return []


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content; nothing happens if there is none."""
    if is_remote(path):
        far = cast(Any, path)
        with suppress(FileNotFoundError), storage_errors(path, writing=True):
            far.fs.rm(far.path, recursive=True)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def replace(staged: Path, place: Path) -> None:
    """Move a local file or folder to its place, or upload it; a folder that was there is moved beside `staged`."""
    if is_remote(place):
        _upload(staged, cast(Any, place))
        return
    if staged.is_dir() or (place.is_dir() and not place.is_symlink()):
        set_aside(place, staged.parent)
    os.replace(staged, place)


def set_aside(path: Path, folder: Path) -> None:
    """Remove a file or folder at once, by moving it into a folder that is removed later; a remote one is deleted."""
    if is_remote(path):
        remove(path)
        return
    with suppress(FileNotFoundError):
        os.replace(path, folder / f"old {path.name}")


def _upload(staged: Path, far: Any) -> None:
    """Copy a local file or folder to a store; after a failure, a part of a folder may be there."""
    files, places = [staged], [far]
    if staged.is_dir():
        remove(far)
        files = sorted(file for file in staged.rglob("*") if file.is_file())
        places = [far / file.relative_to(staged).as_posix() for file in files]
    with storage_errors(far.parent, writing=True):
        for one in {one.parent: one for one in places}.values():
            _make_parents(one)
        far.fs.put([str(file) for file in files], [one.path for one in places])


def _make_parents(far: Any) -> None:
    """Make the folders above a file, in a store that has folders: elsewhere a bucket would be made."""
    if far.protocol not in _BUCKETS:
        far.fs.makedirs(far.parent.path, exist_ok=True)


@contextmanager
def lock(folder: Path, *, begun: str = "run.json") -> Iterator[None]:
    """Keep other runs out of a folder, which is made; a remote folder is not locked.

    Where this thread holds the lock already nothing is done, so that a run may lock its output before it saves. At the
    end the folder is removed if it holds no file of the name `begun`. Raises `BlockingIOError` if another process holds
    the lock, another `OSError` if the folder cannot be made, written to or locked.
    """
    held = _HELD.get()
    if is_remote(folder) or folder.resolve() in held:
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / "owner"
    try:
        with FileLock(folder / "lock", timeout=0):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            token = _HELD.set(held | {folder.resolve()})
            try:
                yield
            finally:
                _HELD.reset(token)
                owner.unlink(missing_ok=True)
                if not (folder / begun).exists():
                    shutil.rmtree(folder, ignore_errors=True)
    except NotImplementedError as error:
        raise OSError(f"{folder}: files on this disk cannot be locked ({error}); give a folder on another") from error
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "an unknown process"
        raise BlockingIOError(
            f"{folder} is being written to by another run ({who}); wait for it, or give another folder"
        ) from None


def cache_folder() -> Path:
    """Folder of local copies of remote files, which may be deleted at any time: $CYTOSEED_CACHE, else the system's."""
    from platformdirs import user_cache_path

    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else user_cache_path("cytoseed", appauthor=False)


def local_copy(url: str | os.PathLike[str]) -> Path:
    """Copy of a remote file in the cache folder, under its own name, made now unless there is one of the same version.

    It appears whole or not at all. Raises `OSError` if the file cannot be read, changes while it is copied, or does
    not fit on the disk.
    """
    from filelock import FileLock

    far: Any = as_path(url)
    info = _info(far)
    folder = cache_folder() / "slides" / _cache_key(far, info)
    copy = folder / file_name(far)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{display(far)}: has to be copied to this machine, and {folder.parent} cannot be made ({error.strerror}); "
            f"set {CACHE_VARIABLE} to another folder"
        ) from error
    lock_file = FileLock(folder.with_name(f"{folder.name}.lock"))
    with suppress(NotImplementedError, OSError):  # on a disk without locks each process makes its own copy
        lock_file.acquire()
    try:
        if not (copy.is_file() and _version(info)):
            with atomic_file(copy) as beside:
                _download(far, info, beside)
                if _cache_key(far, _info(far)) != folder.name:
                    raise OSError(f"{display(far)}: changed while it was copied; open it again")
    finally:
        lock_file.release()
    return copy


def _info(far: Any) -> dict[str, Any]:
    """Facts that the store reports about a file."""
    with storage_errors(far):
        return cast(dict[str, Any], far.fs.info(far.path))


def _cache_key(far: Any, info: dict[str, Any]) -> str:
    """Name of the folder for one version of a file."""
    known = f"{display(far)}\n{file_name(far)}\0{info.get('size')}\0{_version(info)}"
    return hashlib.sha256(known.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _version(info: dict[str, Any]) -> str:
    """Checksum or time of a remote file; empty if the store reports neither."""
    return next((str(info[key]) for key in _VERSIONS if info.get(key)), "")


def _download(far: Any, info: dict[str, Any], target: Path) -> None:
    """Copy a remote file; refuse a part of it."""
    size, free = info.get("size") or 0, shutil.disk_usage(target.parent).free
    no_room = OSError(
        f"{display(far)}: has to be copied to this machine, which needs {size / 1e6:.0f} MB in {cache_folder()}, where "
        f"{free / 1e6:.0f} MB are free; make room, or set {CACHE_VARIABLE} to a folder on another disk"
    )
    if free < size + _SPARE_BYTES:
        raise no_room
    try:
        with storage_errors(far):
            far.fs.get_file(far.path, str(target))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room from error
        raise
    if info.get("size") not in (None, target.stat().st_size):
        raise OSError(f"{display(far)}: gave {target.stat().st_size} bytes of {size}; open it again")


@contextmanager
def storage_errors(path: Path, writing: bool = False) -> Iterator[None]:
    """Map errors of stores to OSError subclasses that name URL and remedy; those of local paths pass through."""
    try:
        yield
    except Exception as error:
        is_ours = isinstance(error, (MemoryError, ModuleNotFoundError)) or not is_remote(path)
        if is_ours or str(error).startswith(f"{display(path)}: "):
            raise
        raise _mapped(display(path), error, writing) from error


def _mapped(url: str, error: Exception, writing: bool) -> OSError:
    cause = error.__cause__  # fsspec reports every HTTP error as a missing file
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        error = cause if isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp") else error
    text, kind = " ".join(str(error).split()) or type(error).__name__, type(error).__name__
    status, done = getattr(error, "status", None), "written to" if writing else "read"
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        remedy = ", and make the bucket first" if writing else ""
        return FileNotFoundError(f"{url}: there is no such file or folder ({text}); check the address{remedy}")
    if isinstance(error, PermissionError) or status in (401, 403, 407) or any(name in kind for name in _NO_RIGHTS):
        return PermissionError(f"{url}: may not be {done} ({text}); {_CREDENTIALS}")
    if isinstance(error, TimeoutError) or "Timeout" in kind:
        return TimeoutError(f"{url}: gave no answer in time ({text}); check the address and the network")
    if isinstance(error, ConnectionError) or "Connect" in kind:
        return ConnectionError(f"{url}: cannot be {done}, no connection ({text}); check the address and the network")
    mapped = OSError(f"{url}: cannot be {done} ({kind}: {text}); check the address and the network, and try again")
    mapped.errno = getattr(error, "errno", None)
    return mapped
