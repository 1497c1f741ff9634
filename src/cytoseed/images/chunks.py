"""Arrays of Zarr far away, through zarr's store for fsspec: what a store leaves unsaid is said here.

Imports zarr at once, so it is imported where it is needed only.
"""

from __future__ import annotations

import asyncio
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, WrapperStore

from cytoseed.images.codecs import ARRAY_FILES, require_known_codecs
from cytoseed.images.errors import cut_short
from cytoseed.images.network import SILENCE_S, network_errors
from cytoseed.images.remote import Remote

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def open_far_array(folder: Remote, blosc_bytes: Any) -> Any | None:
    """Open an array of Zarr at a URL.

    Parameters
    ----------
    folder : Remote
        The array's.
    blosc_bytes : callable
        Tells from the beginning of a chunk by Blosc how long it should be.

    Returns
    -------
    zarr.Array or None
        None where there is none.

    Raises
    ------
    ImageFileError
        If it is stored with a codec that is not opened.
    OSError
        If the store does not answer, or does not let it be read. Reads from the array raise it too.
    """
    store = _Store.at(folder)
    try:
        array = zarr.open_array(store, mode="r")
    except FileNotFoundError:
        return None
    if not array.shards and "blosc" in "".join(type(codec).__name__.lower() for codec in array.compressors[-1:]):
        store.blosc_bytes = blosc_bytes
    return array


def require_there(array: Any) -> None:
    """Tell a chunk that was left out, as background is, from a store that is no longer there.

    Raises
    ------
    OSError
        If a chunk was missed since this was asked last, and what describes the array is missed too.
    """
    store: _Store = array.store
    missed = store.missed
    if missed > store.looked_after:
        mark = "zarr.json" if array.metadata.zarr_format == 3 else ".zarray"
        (store.folder / mark).read_text()
        store.looked_after = missed


class _Store(WrapperStore[FsspecStore]):
    """Zarr's store, with errors that name the URL, and a limit to how long is waited."""

    folder: Remote
    missed = 0  # chunks that were not there
    looked_after = 0  # how many of them, when the store was last seen to be there
    blosc_bytes: Any = None

    @classmethod
    def at(cls, folder: Remote) -> _Store:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

        fs, path = folder.reach()
        # one session for all: that of fsspec's thread, which is closed in the end, as one of zarr's thread is not
        store = cls(FsspecStore(AsyncFileSystemWrapper(fs, asynchronous=True), read_only=True, path=path))
        store.folder = folder
        return store

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        url = str(self.folder / key)
        with network_errors(url):
            value = await asyncio.wait_for(self._store.get(key, prototype, byte_range), SILENCE_S)
        name = key.rpartition("/")[2]
        if name in _METADATA:
            if name in ARRAY_FILES and value is not None:
                require_known_codecs(self.folder / key, value.to_bytes())
            return value
        if value is None:
            self.missed += 1
            return None
        if isinstance(byte_range, RangeByteRequest) and len(value) != byte_range.end - byte_range.start:
            raise OSError(
                f"{url}: gave {len(value)} bytes for those from {byte_range.start} to {byte_range.end}; its server "
                f"does not serve parts of files, or it is cut short: copy the folder to this machine"
            )
        short = self.blosc_bytes is not None and len(value) < self.blosc_bytes(value[:16].to_bytes())
        if byte_range is None and (short or not len(value)):
            raise cut_short(self.folder / key, f"the chunk has only {len(value)} bytes")
        return value
