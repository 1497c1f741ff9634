"""The codecs that a Zarr array may use: a list of known ones, checked before anything is decoded.

Some codecs run code that is in the file: `pickle` does. So whatever is not listed here is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from cytoseed.images.errors import ImageFileError
from cytoseed.images.remote import Place

ARRAY_FILES = ("zarr.json", ".zarray")
"""The files that describe an array, of Zarr v3 and v2."""

_NUMCODECS = {
    *("adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"),
    *("astype", "bitround", "delta", "fixedscaleoffset", "packbits", "quantize", "shuffle"),
    *("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"),
}
_V3 = {"blosc", "bytes", "crc32c", "endian", "gzip", "sharding_indexed", "transpose", "zstd"}
_V3 |= {f"numcodecs.{name}" for name in _NUMCODECS}


def require_known_codecs(file: Place, text: str | bytes) -> None:
    """Refuse an array that is stored with a codec that is not on the list.

    Parameters
    ----------
    file : path or Remote
        The file that describes the array.
    text : str or bytes
        What is in it.

    Raises
    ------
    ImageFileError
        Such a codec is named in it; the message names the file, the codec and what to do.
    ValueError
        It is no JSON.
    """
    document = json.loads(text)
    is_v2 = file.name == ".zarray"
    known = _NUMCODECS if is_v2 else _V3
    for name in _v2_names(document) if is_v2 else _v3_names(document.get("codecs")):
        if name not in known:
            raise ImageFileError(
                f"{file}: its pixels are stored with the codec {name!r}, which cytoseed does not open, as codecs can "
                f"run code that comes with a file; write the image anew with a usual one, such as zstd, blosc or gzip"
            )


def _v2_names(document: Any) -> Iterator[str]:
    """Name the compressor and the filters of an array of Zarr v2."""
    for codec in (document.get("compressor"), *(document.get("filters") or ())):
        if codec is not None:
            yield str(codec["id"])


def _v3_names(codecs: Any) -> Iterator[str]:
    """Name the codecs of an array of Zarr v3, and those inside its shards."""
    for codec in codecs or ():
        own: Any = {"name": codec} if isinstance(codec, str) else codec
        yield str(own["name"])
        inner = own.get("configuration") or {}
        yield from _v3_names(inner.get("codecs"))
        yield from _v3_names(inner.get("index_codecs"))
