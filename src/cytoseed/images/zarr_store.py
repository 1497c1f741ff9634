"""Zarr arrays that can be trusted: known codecs, whole chunks, and no chunk larger than it says or than memory holds.

Only listed codecs are opened: some, such as `pickle`, run code that is in the file. A truncated chunk is refused: the
decoder of Blosc does not notice, and reads past the end.
"""

from __future__ import annotations

import bz2
import json
import lzma
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cytoseed.images.identity import ZARR_MARKS
from cytoseed.images.regions import LARGEST_PIECE_BYTES, ImageFileError, cut_short
from cytoseed.paths import display, is_remote, storage_errors

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

_CHUNK = re.compile(r"(c[./]?)?\d+([./]\d+)*|c")
_BLOSC_HEADER = struct.Struct("<4xI4xI")  # lengths of the pixels and of the chunk
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_NUMCODECS = {
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
    *("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
}
_V3 = {"blosc", "bytes", "crc32c", "endian", "gzip", "sharding_indexed", "transpose", "zstd"}
_V3 |= {f"numcodecs.{name}" for name in _NUMCODECS}
_MANY_CHUNKS, _FEWEST_PX = 1 << 16, 256  # so many chunks must hold so many pixels on average
_FILTERED, _ALWAYS_BYTES = 16, 1 << 20  # times that filters enlarge pixels at most; bytes that any chunk may have
_DEFLATE_TIMES, _UNCHECKED_BYTES = 1032, 1 << 28  # times that Deflate shrinks at most
_deflate: Callable[[], Any] = partial(zlib.decompressobj, 47)  # of zlib or gzip
_STREAMS: dict[str, Callable[[], Any]] = {"zlib": _deflate, "gzip": _deflate}
_STREAMS |= {"bz2": bz2.BZ2Decompressor, "lzma": lzma.LZMADecompressor}


def open_array(folder: Path) -> Any | None:
    """Open an array for reading; None if there is none. Its reads raise `ImageFileError` and `OSError`."""
    import zarr
    from zarr.storage import FsspecStore, LocalStore

    if is_remote(folder):
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        far = cast(Any, folder)
        # through fsspec's own thread and session: that of zarr's thread would not be closed at the end
        plain: Any = FsspecStore(AsyncFileSystemWrapper(far.fs, asynchronous=True), read_only=True, path=far.path)
    else:
        plain = LocalStore(folder, read_only=True)
    store = _store_class()(plain, folder)
    try:
        array = zarr.open_array(store, mode="r")
    except FileNotFoundError:
        return None
    _require_usable(folder, array.shape, array.chunks, array.dtype.itemsize)
    if not is_remote(folder):
        _require_named_chunks(folder, array)
    store.codec = "".join(type(codec).__name__.lower() for codec in array.compressors[-1:])
    store.is_sharded = bool(array.shards)
    store.chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
    return array


def _require_usable(folder: Path, shape: Sequence[int], chunks: Sequence[int], px_bytes: int) -> None:
    """Refuse chunks that do not fit into memory, and so small ones that reading them would not end."""
    size = math.prod(chunks) * px_bytes
    count = math.prod(-(-side // own) for side, own in zip(shape, chunks, strict=True))
    if size > LARGEST_PIECE_BYTES:
        trouble = f"{size / (1 << 30):.1f} GiB, which can only be decoded whole"
    elif count > _MANY_CHUNKS and math.prod(shape) < _FEWEST_PX * count:
        trouble = f"{math.prod(chunks)} px, of which it has {count}"
    else:
        return
    raise ImageFileError(
        f"{display(folder)}: is stored in chunks of {trouble}; write it again with chunks of about 1024 x 1024 px"
    )


def _require_named_chunks(folder: Path, array: Any) -> None:
    """Refuse chunks under other names than the metadata state: all would be missing, and so taken for background."""
    first = array.metadata.encode_chunk_key((0,) * array.ndim).partition("/")[0]
    expected = re.compile(re.sub(r"\d+", r"\\d+", re.escape(first)))
    other = ""
    with os.scandir(folder) as entries:
        for entry in entries:
            if expected.fullmatch(entry.name):
                return
            other = entry.name if _CHUNK.fullmatch(entry.name) else other
    if other:
        raise ImageFileError(
            f"{folder}: its chunks have names like {other!r}, and its metadata say {first!r}; correct "
            f"dimension_separator (chunk_key_encoding in Zarr 3), or export it again"
        )


@cache
def _store_class() -> Any:
    """Class of the checking store, made on first use because importing zarr is slow."""
    from zarr.abc.store import RangeByteRequest, Store
    from zarr.storage import WrapperStore

    class CheckedStore(WrapperStore[Store]):
        """Zarr's store, refusing unknown codecs, cut chunks, and those that claim too much."""

        def __init__(self, store: Store, folder: Path | None = None) -> None:
            super().__init__(store)
            self.folder, self.codec, self.chunk_bytes, self.is_sharded = folder, "", 0, False

        async def get(
            self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
        ) -> Buffer | None:
            place = cast(Path, self.folder) / key
            _require_regular(place)
            with storage_errors(place):
                value = await self._store.get(key, prototype, byte_range)
            name = key.rpartition("/")[2]
            if value is None:
                return None
            if name in ("zarr.json", ".zarray"):
                _require_known_codecs(place, value.to_bytes())
            elif name not in ZARR_MARKS and name != ".zmetadata":
                asked = byte_range.end - byte_range.start if isinstance(byte_range, RangeByteRequest) else 1
                self._require_sound(place, value, asked, is_chunk=byte_range is None and not self.is_sharded)
            return value

        def _require_sound(self, place: Path, value: Buffer, least: int, is_chunk: bool) -> None:
            """Refuse a chunk that is cut, or would be decoded to much more than it should hold."""
            if is_chunk and "blosc" in self.codec:
                least = _blosc_bytes(value)[1]
            if len(value) < least:
                raise cut_short(place, f"the chunk has only {len(value)} bytes")
            limit = _FILTERED * self.chunk_bytes + _ALWAYS_BYTES
            is_longer = len(value) > limit and not self.is_sharded
            if is_longer or _decoded_bytes(self.codec, value, limit) > limit:
                raise cut_short(place, f"the chunk would be more than {limit} bytes, of which {self.chunk_bytes} count")

    return CheckedStore


def _require_regular(place: Path) -> None:
    """Refuse a pipe or a device in place of a file, from which reading may not end."""
    if is_remote(place):
        return
    with suppress(OSError):
        mode = place.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ImageFileError(f"{place}: is a pipe or a device, not a part of an image")


def _decoded_bytes(codec: str, value: Buffer, limit: int) -> int:
    """Bytes that a chunk claims to hold when decoded, or, where it does not say, that it holds up to a limit."""
    if "blosc" in codec:
        return _blosc_bytes(value)[0]
    if "zstd" in codec:
        return _zstd_bytes(value[:18].to_bytes())
    if "lz4" in codec:
        return int.from_bytes(value[:4].to_bytes(), "little")
    make = next((make for name, make in _STREAMS.items() if name in codec), None)
    if make is None or (make is _STREAMS["zlib"] and len(value) * _DEFLATE_TIMES <= max(limit, _UNCHECKED_BYTES)):
        return 0
    return _unpacked_bytes(make(), value.to_bytes(), limit)


def _blosc_bytes(value: Buffer) -> tuple[int, int]:
    """Sizes of the pixels and of the chunk that the header of Blosc states; the header's own for a shorter chunk."""
    header = value[: _BLOSC_HEADER.size].to_bytes()
    pixels, chunk = _BLOSC_HEADER.unpack(header) if len(header) == _BLOSC_HEADER.size else (0, _BLOSC_HEADER.size)
    return pixels, chunk


def _zstd_bytes(header: bytes) -> int:
    """Size of the content that the header of a Zstandard frame states; 0 where it states none."""
    if not header.startswith(_ZSTD_MAGIC) or len(header) < 6:
        return 0
    flags = header[4]
    is_single = flags >> 5 & 1
    start = 5 + (1 - is_single) + (0, 1, 2, 4)[flags & 3]
    length = (is_single, 2, 4, 8)[flags >> 6]
    return int.from_bytes(header[start : start + length], "little") + (256 if length == 2 else 0)


def _unpacked_bytes(stream: Any, data: bytes, limit: int) -> int:
    """Bytes that a stream decodes to, counted a little beyond the limit; damage is left to the decoder."""
    total = 0
    with suppress(zlib.error, OSError, EOFError, lzma.LZMAError):
        while not stream.eof and total <= limit:
            piece = stream.decompress(data, _ALWAYS_BYTES)
            data = getattr(stream, "unconsumed_tail", b"")
            if not piece and not data:
                break
            total += len(piece)
    return total


def _require_known_codecs(file: Path, text: bytes) -> None:
    """Refuse an array (by its `zarr.json` or `.zarray`) that is stored with a codec that is not on the list."""
    document = json.loads(text)
    known, codecs = _V3, document.get("codecs")
    if file.name == ".zarray":
        own = (document.get("compressor"), *(document.get("filters") or ()))
        known, codecs = _NUMCODECS, [{"name": codec["id"]} for codec in own if codec is not None]
    for name in _codec_names(codecs):
        if name not in known:
            raise ImageFileError(
                f"{display(file)}: its pixels are stored with the codec {name!r}, which cytoseed does not open, as "
                f"codecs can run code that comes with a file; write the image again with a common one, such as zstd, "
                f"blosc or gzip"
            )


def _codec_names(codecs: Any) -> Iterator[str]:
    """Codecs of an array, and those inside its shards."""
    for codec in codecs or ():
        own: Any = {"name": codec} if isinstance(codec, str) else codec
        yield str(own["name"])
        inner = own.get("configuration") or {}
        yield from _codec_names(inner.get("codecs"))
        yield from _codec_names(inner.get("index_codecs"))
