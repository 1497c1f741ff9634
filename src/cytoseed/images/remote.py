"""A file or folder at a URL, by fsspec: what the readers use of `pathlib.Path`, and bytes from anywhere in it.

Nothing is fetched but the blocks that are read. What has been fetched, and the file's size, are kept as long as the
object: whoever begins anew asks `anew` for an object that knows nothing yet.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any, NamedTuple

from cytoseed.images.blocks import REQUEST_BYTES, BlockFile, Blocks, Extent
from cytoseed.images.network import SILENCE_S, SLOWEST_BYTES_S, network_errors
from cytoseed.url import below, is_web, joined, local_path, shown, split_url, without_slash

_REQUESTS = 8  # side by side
_PAGE = "text/html"
_BUFFER_BYTES = 1 << 13
_VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "LastModified", "Last-Modified")
_TIMES = ("last_modified", "mtime", "updated", "modified", "created")
_ONE_BY_ONE = Lock()  # for file systems of fsspec that are not made for several requests at once
_INSTALL = "pip install 'cytoseed[cloud]'"


class Entry(NamedTuple):
    """A file in a folder, or a folder in it."""

    name: str
    """Path from the folder, with `/`."""
    is_folder: bool
    size: int
    """In bytes; 0 of a folder, and where the store does not tell."""
    version: str
    """Differs where the content does; empty where the store does not tell."""


class Status(NamedTuple):
    """What `pathlib.Path.stat` tells and is used."""

    st_size: int


class Remote:
    """A file or a folder that is reached by a URL."""

    def __init__(
        self, url: str, options: Mapping[str, Any] | None = None, copied: tuple[str, ...] | None = None
    ) -> None:
        """Ask nothing yet.

        Parameters
        ----------
        url : str
            As fsspec takes it.
        options : mapping, optional
            For fsspec's file system, beside its own configuration.
        copied : tuple of str, optional
            Where the file is read from a copy on this machine: what has to lie beside it, by path from its folder;
            folders end in `/`.
        """
        self.url, self.options, self.copied = without_slash(url), dict(options or {}), copied
        self.failure: OSError | None = None
        """The last thing that went wrong: decoders may take it for a damaged file, and go on."""
        self._info: dict[str, Any] | None = None
        self._blocks: Blocks | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Remote, (self.url, self.options, self.copied)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.url)

    def __str__(self) -> str:
        """Give the URL as it may be shown: without a password, and without what a signed address ends in."""
        return shown(self.url)

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __truediv__(self, name: str) -> Remote:
        return Remote(joined(self.url, name), self.options)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(split_url(self.url).path).name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def protocol(self) -> str:
        """How it is reached, such as `s3`."""
        return split_url(self.url).protocol

    @property
    def _is_web(self) -> bool:
        return is_web(self.url)

    def beside(self, name: str) -> Remote:
        """Give what lies in the same folder."""
        parts = split_url(self.url)
        return Remote(parts._replace(path=parts.path.removesuffix(self.name) + name).joined(), self.options)

    def with_suffix(self, suffix: str) -> Remote:
        """Give what lies in the same folder, with another ending of the name."""
        return self.beside(PurePosixPath(self.name).with_suffix(suffix).name)

    def absolute(self) -> Remote:
        """Give itself, as a path on a disk does that is whole."""
        return self

    def anew(self) -> Remote:
        """Give the same place, to be looked at as if never seen."""
        return Remote(self.url, self.options, self.copied)

    def read_from_copy(self, beside: Iterable[str] = ()) -> Remote:
        """Give the same place, for one that is read from a copy; see `copied`."""
        return Remote(self.url, self.options, tuple(beside))

    # What there is

    def info(self) -> dict[str, Any]:
        """Ask the store what it knows of the file or folder; the answer is kept.

        Raises
        ------
        OSError
            See `network_errors`.
        """
        with self._lock:
            if self._info is None:
                self._info = dict(self._ask("info"))
            return self._info

    def exists(self) -> bool:
        """Tell whether there is something; a store that does not answer raises."""
        try:
            self.info()
        except FileNotFoundError:
            return False
        return True

    def is_file(self) -> bool:
        """Tell whether it is a file; a store that does not answer raises."""
        return self.exists() and self.info()["type"] == "file"

    def is_dir(self) -> bool:
        """Tell whether it is a folder; on the web there are only files."""
        return self.exists() and self.info()["type"] == "directory"

    def is_page(self) -> bool:
        """Tell whether it is what a server on the web writes about a folder, for people."""
        return self._is_web and self.info().get("mimetype") == _PAGE

    def stat(self) -> Status:
        """Tell the size; it stays what it was when it was asked for first."""
        size = self.info().get("size")
        if size is None:
            raise OSError(f"{self}: its server does not tell its size; copy the file to this machine")
        return Status(int(size))

    @property
    def version(self) -> str:
        """What differs where the content does; see `Entry`."""
        return _version(self.info())

    def has_parts(self) -> bool:
        """Tell whether any bytes of the file can be asked for: a server on the web may send all or nothing."""
        info = self.info()
        if not self._is_web or not info.get("size"):
            return info.get("size") is not None
        return bool(info.get("partial", True)) and (info["size"] < 3 or self._answers_with_parts())

    @property
    def lists(self) -> bool:
        """Whether the store tells what is in a folder; servers on the web write pages for people, if anything."""
        return not self._is_web

    def entries(self, deep: bool = False) -> tuple[Entry, ...]:
        """List a folder, by name; `deep` gives all files, those in the folders inside too, and no folders."""
        root = self.reach()[1]
        found = self._ask("find", detail=True).values() if deep else self._ask("ls", detail=True)
        entries = []
        for info in found:
            name, is_folder = below(root, info["name"]), info["type"] == "directory"
            if name and (is_folder or not info["name"].endswith("/")):  # some stores mark folders by empty files
                entries.append(Entry(name, is_folder, int(info.get("size") or 0), _version(info)))
        return tuple(sorted(entries))

    # What is in it

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the file to read its bytes. Files that are opened of one object share what they have fetched."""
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}; a file far away is opened with 'rb', to read its bytes")
        return io.BufferedReader(BlockFile(str(self), self.stat().st_size, self._shared()), _BUFFER_BYTES)

    def read(self, offset: int, count: int) -> bytes:
        """Give bytes of the file, fewer where it ends. May be called from several threads."""
        return self._shared().read(offset, count)

    def ahead(self, extents: Iterable[Extent]) -> Iterator[None]:
        """Fetch what is going to be read; see `Blocks.ahead`."""
        return self._shared().ahead(extents)

    def read_bytes(self) -> bytes:
        """Give all bytes of the file; none is kept."""
        size = self.stat().st_size
        extents = [(start, min(REQUEST_BYTES, size - start)) for start in range(0, size, REQUEST_BYTES)]
        return b"".join(self.pieces(extents))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Give a small file as text."""
        data: bytes = self._ask("cat_file")
        return data.decode(encoding)

    def pieces(self, extents: Sequence[Extent]) -> list[bytes]:
        """Fetch bytes from several places, a request each, side by side; none is kept.

        Raises
        ------
        OSError
            If any of them does not come whole.
        """
        starts = [offset for offset, _ in extents]
        stops = [offset + count for offset, count in extents]
        found = self._ask("cat_ranges", starts, stops, at=len(extents), count=sum(count for _, count in extents))
        with self._noted():
            for (offset, count), data in zip(extents, found, strict=True):
                if isinstance(data, Exception):
                    raise data
                if len(data) != count:
                    raise OSError(
                        f"gave {len(data)} bytes for the {count} from byte {offset} on: it was changed meanwhile, or "
                        f"its server does not serve parts of files"
                    )
        return list(found)

    def save(self, path: Path) -> None:
        """Fetch the file into one on this machine, whether or not its server serves parts."""
        self._ask("get_file", str(path), count=1 << 62)

    def _shared(self) -> Blocks:
        size = self.stat().st_size
        with self._lock:
            if self._blocks is None:
                self._blocks = Blocks(size, self.pieces)
            return self._blocks

    def _ask(self, method: str, *args: Any, at: int = 0, count: int = 0, **kwargs: Any) -> Any:
        """Call a method of fsspec's file system; wait for `count` bytes at most.

        Its first argument is the path, or a list with the path `at` times.
        """
        fs, path = self.reach()
        first = [path] * at if at else path
        seconds = SILENCE_S + count / SLOWEST_BYTES_S
        if method in ("info", "ls", "find"):
            fs.invalidate_cache(path)  # what it was told before may be an hour old
        elif self._is_web:  # else what comes may be packed, and the parts are those of the packed bytes
            kwargs["headers"] = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
        with self._noted(seconds):
            if _is_async(fs):
                from fsspec.asyn import sync

                side_by_side = {"batch_size": _REQUESTS} if at else {}
                return sync(fs.loop, getattr(fs, f"_{method}"), first, *args, timeout=seconds, **side_by_side, **kwargs)
            with _ONE_BY_ONE:
                return getattr(fs, method)(first, *args, **kwargs)

    def _answers_with_parts(self) -> bool:
        """Try whether a server on the web gives a single byte; fsspec stops before it takes the whole file."""
        fs, path = self.reach()
        with self._noted():
            try:
                with fs.open(path, "rb", block_size=1, cache_type="none") as file:
                    file.seek(1)
                    return len(file.read(1)) == 1
            except ValueError:
                return False

    @contextmanager
    def _noted(self, seconds: float = SILENCE_S) -> Iterator[None]:
        try:
            with network_errors(str(self), seconds):
                yield
        except OSError as error:
            self.failure = error
            raise

    def reach(self) -> tuple[Any, str]:
        """Give fsspec's file system, and the path in it.

        Raises
        ------
        ModuleNotFoundError
            If a package is not installed.
        ValueError
            If the protocol is not known.
        """
        options = dict(self.options)
        try:
            from fsspec.config import conf
            from fsspec.core import url_to_fs

            if self._is_web and "client_kwargs" not in {**conf.get(self.protocol, {}), **options}:
                from aiohttp import ClientTimeout

                options["client_kwargs"] = {"timeout": ClientTimeout(None, sock_connect=SILENCE_S, sock_read=SILENCE_S)}
            fs, path = url_to_fs(self.url, **options)
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{self}: files at URLs need packages that are not installed ({error}): {_INSTALL} brings fsspec and "
                f"what S3 needs; other stores need a package of their own, such as gcsfs for gs:// and adlfs for az://"
            ) from error
        except ValueError as error:
            raise ValueError(f"{self}: {error}; fsspec knows s3, gs, az, https, sftp and others") from error
        return fs, path


Place = Path | Remote
"""A file or folder, here or far away."""


def place_of(url: str, options: Mapping[str, Any] | None = None) -> Place:
    """Give what a URL names: a path on this machine for `file://`, else a `Remote`.

    Parameters
    ----------
    url : str
        See `is_url`.
    options : mapping, optional
        For fsspec's file system, beside its own configuration.
    """
    return local_path(url) or Remote(url, options)


def anew(place: Place) -> Place:
    """Give the same place, to be looked at as if never seen; on a disk nothing is kept."""
    return place.anew() if isinstance(place, Remote) else place


def require_read(place: Place) -> None:
    """Raise what went wrong while a decoder read a file, if it took that for damage and went on.

    Raises
    ------
    OSError
        See `network_errors`.
    """
    if isinstance(place, Remote) and place.failure is not None:
        raise place.failure


def _is_async(fs: Any) -> bool:
    from fsspec.asyn import AsyncFileSystem

    return isinstance(fs, AsyncFileSystem) and bool(fs.async_impl)


def _version(info: Mapping[str, Any]) -> str:
    """Find what differs where a file's content does: a checksum, or else its time."""
    return next((str(info[key]) for key in (*_VERSIONS, *_TIMES) if info.get(key)), "")
