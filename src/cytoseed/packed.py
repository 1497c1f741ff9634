"""Compressed files, of which nothing is unpacked beyond a stated size: a few kB may claim to be many GB."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_BYTES = 1 << 30
"""Most bytes of one member of an archive."""

_ALWAYS_BYTES, _TEXT_BYTES, _MOST_TIMES = 1 << 26, 1 << 31, 100  # text is 5 to 30 times as long as its gzip


def unpack_text(data: bytes, path: Path, remedy: str) -> bytes:
    """Text compressed by gzip; a ValueError, with the remedy, if it is damaged or absurdly long."""
    limit = min(_TEXT_BYTES, max(_ALWAYS_BYTES, _MOST_TIMES * len(data)))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            text = file.read(limit + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{path} is cut short or damaged ({error}); {remedy}") from error
    if len(text) > limit:
        raise ValueError(
            f"{path} has {len(data)} bytes and would be more than {limit} bytes of text; unpack it yourself if it is "
            f"meant to be so"
        )
    return text


def read_member(archive: zipfile.ZipFile, name: str, largest: int = LARGEST_BYTES) -> bytes:
    """Content of a member of a zip; a ValueError if it is larger than `largest` bytes."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may unpack more than is stated
        raise ValueError(f"{name} is compressed by method {info.compress_type}")
    if info.file_size > largest:
        raise ValueError(f"{name} would be {info.file_size} bytes; at most {largest} are unpacked")
    return archive.read(info)


def read_array(data: bytes) -> NDArray[Any]:
    """Array from the content of a .npy file; a ValueError for anything else, and for a pickle."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # NumPy's own are of many kinds; a MemoryError is about a shape that is only claimed
        raise ValueError(f"not an array that can be read ({type(error).__name__}: {error})") from error
    return array


def read_arrays(file: Path | io.BytesIO, largest: int = LARGEST_BYTES) -> dict[str, NDArray[Any]]:
    """Arrays of an npz by name; raises what `zipfile` does, and a ValueError for one of more than `largest` bytes."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        return {name.removesuffix(".npy"): read_array(read_member(archive, name, largest)) for name in names}
