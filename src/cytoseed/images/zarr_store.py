"""Zarr folders, local or at a URL: their metadata, and arrays whose codecs and chunks are checked.

Only listed codecs are opened: some, such as `pickle`, run code that is in the file. Chunks that are cut short are
refused: the decoder of Blosc does not notice, and reads on beyond the end.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cytoseed.images.file_errors import ImageFileError, cut_short
from cytoseed.paths import display, is_remote, is_web, storage_errors

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_MARKS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")  # a folder with one of these is Zarr's
_ARRAY_FILES = ("zarr.json", ".zarray")
_BLOSC_HEADER = struct.Struct("<12xI")  # its last field is the chunk's length
_NUMCODECS = {
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
    *("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
}
_V3 = {"blosc", "bytes", "crc32c", "endian", "gzip", "sharding_indexed", "transpose", "zstd"}
_V3 |= {f"numcodecs.{name}" for name in _NUMCODECS}


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is Zarr's; of a bucket that may not be listed, whether it has metadata that can be read."""
    if is_web(path) and "?" in str(path):  # a signed URL names one file
        return False
    for mark in _MARKS:
        try:
            if read_text(path / mark) is not None:
                return True
        except PermissionError:
            if not is_remote(path):
                raise
    return False


def read_text(path: Path) -> str | None:
    """Content of a file; None where there is none."""
    if not is_remote(path):
        return path.read_text(encoding="utf-8") if path.is_file() else None
    far = cast(Any, path)
    try:
        with storage_errors(path):
            data: bytes = far.fs.cat_file(far.path)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return data.decode()


def open_array(folder: Path) -> Any | None:
    """Open an array to read; None where there is none. Its reads raise `ImageFileError` and `OSError`."""
    import zarr

    store = _store_class()(_plain_store(folder), folder)
    try:
        array = zarr.open_array(store, mode="r")
    except FileNotFoundError:
        return None
    store.is_blosc = not array.shards and "blosc" in "".join(type(c).__name__.lower() for c in array.compressors[-1:])
    return array


def _plain_store(folder: Path) -> Any:
    from zarr.storage import FsspecStore, LocalStore

    if not is_remote(folder):
        return LocalStore(folder, read_only=True)
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    far = cast(Any, folder)
    # through fsspec's own thread and session: that of zarr's thread would not be closed in the end
    return FsspecStore(AsyncFileSystemWrapper(far.fs, asynchronous=True), read_only=True, path=far.path)


def _store_class() -> Any:
    """Class of the checking store; made when zarr is needed first, as zarr's import takes long."""
    global _CLASS  # noqa: PLW0603
    if _CLASS is not None:
        return _CLASS
    from zarr.abc.store import RangeByteRequest, Store
    from zarr.storage import WrapperStore

    class CheckedStore(WrapperStore[Store]):
        """Zarr's store, refusing unknown codecs and cut chunks."""

        def __init__(self, store: Store, folder: Path | None = None) -> None:
            super().__init__(store)
            self.folder, self.is_blosc = folder, False

        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            place = cast(Path, self.folder) / key
            with storage_errors(place):
                value = await self._store.get(key, prototype, byte_range)
            name = key.rpartition("/")[2]
            if name in _ARRAY_FILES and value is not None:
                require_known_codecs(place, value.to_bytes())
            elif value is not None and name not in _MARKS and name != ".zmetadata":
                count = len(value)
                if isinstance(byte_range, RangeByteRequest):
                    is_cut = count != byte_range.end - byte_range.start
                else:
                    is_cut = byte_range is None and count < (
                        _blosc_bytes(value[:16].to_bytes()) if self.is_blosc else 1
                    )
                if is_cut:
                    raise cut_short(place, f"the chunk has only {count} bytes")
            return value

    _CLASS = CheckedStore
    return _CLASS


_CLASS: Any = None


def _blosc_bytes(header: bytes) -> int:
    """Length that the beginning of a chunk by Blosc announces."""
    return int(_BLOSC_HEADER.unpack(header)[0]) if len(header) == _BLOSC_HEADER.size else _BLOSC_HEADER.size


def require_known_codecs(file: Path, text: str | bytes) -> None:
    """Refuse an array (by its `zarr.json` or `.zarray`) that is stored with a codec that is not on the list."""
    document = json.loads(text)
    is_v2 = file.name == ".zarray"
    known = _NUMCODECS if is_v2 else _V3
    for name in _v2_names(document) if is_v2 else _v3_names(document.get("codecs")):
        if name not in known:
            raise ImageFileError(
                f"{display(file)}: its pixels are stored with the codec {name!r}, which cytoseed does not open, as "
                f"codecs can run code that comes with a file; write the image anew with a usual one, such as zstd, "
                f"blosc or gzip"
            )


def _v2_names(document: Any) -> Iterator[str]:
    """Compressor and filters of an array of Zarr v2."""
    for codec in (document.get("compressor"), *(document.get("filters") or ())):
        if codec is not None:
            yield str(codec["id"])


def _v3_names(codecs: Any) -> Iterator[str]:
    """Codecs of an array of Zarr v3, and those inside its shards."""
    for codec in codecs or ():
        own: Any = {"name": codec} if isinstance(codec, str) else codec
        yield str(own["name"])
        inner = own.get("configuration") or {}
        yield from _v3_names(inner.get("codecs"))
        yield from _v3_names(inner.get("index_codecs"))
