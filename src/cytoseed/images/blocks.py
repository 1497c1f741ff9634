"""The bytes of a file that is far away, in blocks: each fetched once while it is kept, many in one go."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import Any

BLOCK_BYTES = 1 << 17  # what is fetched at least: a few tiles, a page with its tables
REQUEST_BYTES = 1 << 23  # what one request asks for at most
AHEAD_BYTES = 1 << 25  # what is fetched at once at most, in several requests side by side
_KEPT_BYTES = 1 << 26  # of blocks; more than `AHEAD_BYTES`, or what was fetched ahead would be gone when it is read

Extent = tuple[int, int]
"""Position of the first byte, and number of bytes."""


class Blocks:
    """Any bytes of a file, from several threads; neighbouring blocks that are not here come in one request."""

    def __init__(self, size: int, fetch: Callable[[Sequence[Extent]], list[bytes]]) -> None:
        """Begin with no block.

        Parameters
        ----------
        size : int
            Of the file, in bytes.
        fetch : callable
            Gives the bytes of several extents, all of them, or raises; it is called from several threads.
        """
        self._size, self._fetch = size, fetch
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()
        self._lock = Lock()

    def read(self, offset: int, count: int) -> bytes:
        """Give bytes; fewer where the file ends, and none beyond its end."""
        stop = min(offset + count, self._size)
        if stop - offset <= AHEAD_BYTES:
            return self._read(offset, stop)
        whole = bytearray()
        for start in range(offset, stop, AHEAD_BYTES):
            whole += self._read(start, min(start + AHEAD_BYTES, stop))
        return bytes(whole)

    def ahead(self, extents: Iterable[Extent]) -> Iterator[None]:
        """Fetch what is going to be read, as much at once as is kept until then.

        Parameters
        ----------
        extents : iterable
            In the order in which they will be read; those of 0 bytes are not fetched.

        Yields
        ------
        None
            Once for each extent, when it can be read; it should be, before the next one is asked for.
        """
        group: list[Extent] = []
        found = 0
        for extent in extents:
            group.append(extent)
            found += extent[1] + BLOCK_BYTES
            if found > AHEAD_BYTES:
                yield from self._group(group)
                group, found = [], 0
        yield from self._group(group)

    def _group(self, group: Sequence[Extent]) -> Iterator[None]:
        if len(group) > 1:  # what is read alone, and what is too large to be kept, is fetched when it is read
            small = [extent for extent in group if extent[1] <= AHEAD_BYTES]
            self._load({number for offset, count in small for number in self._numbers(offset, offset + count)})
        for _ in group:
            yield

    def _numbers(self, start: int, stop: int) -> range:
        """Give the numbers of the blocks in which the bytes from `start` to `stop` lie."""
        stop = min(stop, self._size)
        return range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)) if start < stop else range(0)

    def _read(self, start: int, stop: int) -> bytes:
        numbers = self._numbers(start, stop)
        if not numbers:
            return b""
        parts = self._load(numbers)
        parts[-1] = parts[-1][: stop - numbers[-1] * BLOCK_BYTES]
        parts[0] = parts[0][start - numbers[0] * BLOCK_BYTES :]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, numbers: Iterable[int]) -> list[bytes]:
        """Give blocks in the order of their numbers; what another thread is fetching is waited for."""
        with self._lock:
            wished: dict[int, Future[bytes]] = {}
            missing: list[int] = []
            for number in sorted(numbers):
                if number not in self._blocks:
                    self._blocks[number] = Future()
                    missing.append(number)
                self._blocks.move_to_end(number)
                wished[number] = self._blocks[number]
        if missing:
            self._fill(missing, wished)
        return [block.result() for block in wished.values()]

    def _fill(self, missing: Sequence[int], wished: dict[int, Future[bytes]]) -> None:
        """Fetch the blocks that this thread has announced, and tell those that wait for them."""
        try:
            runs = list(_runs(missing))
            extents = [(run.start * BLOCK_BYTES, min(run.stop * BLOCK_BYTES, self._size)) for run in runs]
            found = self._fetch([(start, stop - start) for start, stop in extents])
            for run, data in zip(runs, found, strict=True):
                for place, number in enumerate(run):
                    wished[number].set_result(data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES])
        except BaseException as error:
            told = error if isinstance(error, Exception) else OSError(f"reading was stopped ({type(error).__name__})")
            with self._lock:
                for number in missing:
                    if not wished[number].done():
                        self._blocks.pop(number, None)
                        wished[number].set_exception(told)
            raise
        with self._lock:
            surplus = len(self._blocks) - _KEPT_BYTES // BLOCK_BYTES
            old = [number for number, block in self._blocks.items() if block.done()][: max(0, surplus)]
            for number in old:
                del self._blocks[number]


class BlockFile(io.RawIOBase):
    """A file to be read from the beginning, or from anywhere, over blocks that others share."""

    def __init__(self, name: str, size: int, blocks: Blocks) -> None:
        """Stand at the first byte; `name` is what others call the file by."""
        super().__init__()
        self.name = name
        self._size, self._blocks = size, blocks
        self._place = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place can be gone to."""
        return True

    def tell(self) -> int:
        """Give the place of the next byte."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place, counted from the beginning, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"place {base + offset} is before the beginning of {self.name}")
        self._place = base + offset
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        """Read bytes into a buffer; give their number."""
        view = memoryview(buffer).cast("B")
        data = self._blocks.read(self._place, len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Divide sorted numbers of blocks into runs without gaps, none longer than a request."""
    first = 0
    for place in range(1, len(numbers) + 1):
        ends = place == len(numbers) or numbers[place] != numbers[place - 1] + 1
        if ends or (place - first) * BLOCK_BYTES >= REQUEST_BYTES:
            yield range(numbers[first], numbers[place - 1] + 1)
            first = place
