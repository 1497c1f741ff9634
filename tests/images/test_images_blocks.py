"""Blocks of a file far away: the right bytes, in few requests, from several threads, and after errors."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cytoseed.images.blocks import BlockFile, Blocks
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.images import blocks

DATA = np.random.default_rng(0).bytes(1003)


class Store:
    """What is fetched, request by request."""

    def __init__(self, data: bytes = DATA) -> None:
        self.data = data
        self.calls: list[list[tuple[int, int]]] = []

    def fetch(self, extents: Sequence[tuple[int, int]]) -> list[bytes]:
        self.calls.append(list(extents))
        return [self.data[start : start + count] for start, count in extents]

    @property
    def extents(self) -> list[tuple[int, int]]:
        return [extent for call in self.calls for extent in call]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers small enough for every limit to be met."""
    for name, value in {"BLOCK_BYTES": 10, "REQUEST_BYTES": 40, "AHEAD_BYTES": 120, "_KEPT_BYTES": 240}.items():
        monkeypatch.setattr(blocks, name, value)


EXTENTS = st.lists(st.tuples(st.integers(0, 1010), st.integers(0, 400)), max_size=12)


@given(EXTENTS, st.integers(0, 1003))
def test_any_bytes_are_those_of_the_file(extents: list[tuple[int, int]], size: int) -> None:
    store = Store(DATA[:size])
    found = Blocks(size, store.fetch)
    for offset, count in extents:
        assert found.read(offset, count) == store.data[offset : offset + count]
    assert all(0 < count <= 40 and offset + count <= size for offset, count in store.extents)


@given(EXTENTS)
def test_what_is_fetched_ahead_is_what_is_read(extents: list[tuple[int, int]]) -> None:
    store = Store()
    found = Blocks(len(DATA), store.fetch)
    read = [found.read(*extent) for extent, _ in zip(extents, found.ahead(extents), strict=True)]
    assert read == [DATA[offset : offset + count] for offset, count in extents]


def test_neighbours_come_in_one_request_and_once() -> None:
    store = Store()
    found = Blocks(len(DATA), store.fetch)
    assert found.read(25, 20) == DATA[25:45]
    assert store.calls == [[(20, 30)]]
    assert found.read(30, 5) == DATA[30:35]
    assert len(store.calls) == 1
    assert found.read(10, 50) == DATA[10:60]
    assert store.calls[1:] == [[(10, 10), (50, 10)]]
    assert found.read(995, 50) == DATA[995:]
    assert store.calls[2:] == [[(990, 13)]]


def test_parts_that_lie_apart_are_fetched_together_before_the_first_is_read() -> None:
    store = Store()
    found = Blocks(len(DATA), store.fetch)
    extents = [(5, 3), (205, 10), (405, 0), (605, 3)]
    for number, _ in enumerate(found.ahead(extents)):
        found.read(*extents[number])
    assert store.calls == [[(0, 10), (200, 20), (600, 10)]]


def test_no_more_is_kept_than_may_be_and_the_oldest_goes_first() -> None:
    store = Store()
    found = Blocks(len(DATA), store.fetch)
    for place in range(0, 300, 10):
        found.read(place, 1)
    assert len(store.calls) == 30
    found.read(290, 1)
    found.read(60, 1)
    assert len(store.calls) == 30
    found.read(0, 1)
    assert len(store.calls) == 31


def test_what_is_larger_than_what_is_kept_is_read_all_the_same() -> None:
    store = Store()
    assert Blocks(len(DATA), store.fetch).read(3, 990) == DATA[3:993]
    assert max(sum(count for _, count in call) for call in store.calls) <= 130


def test_threads_that_want_the_same_block_wait_for_the_first() -> None:
    store, begun, go_on = Store(), threading.Event(), threading.Event()

    def slow(extents: Sequence[tuple[int, int]]) -> list[bytes]:
        begun.set()
        assert go_on.wait(30)
        return store.fetch(extents)

    found = Blocks(len(DATA), slow)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(found.read, 0, 30)
        assert begun.wait(30)
        others = [pool.submit(found.read, 10, 10) for _ in range(3)]
        go_on.set()
        assert first.result() == DATA[:30]
        assert {other.result() for other in others} == {DATA[10:20]}
    assert store.calls == [[(0, 30)]]


def test_threads_read_what_is_there_while_blocks_come_and_go() -> None:
    store = Store()
    found = Blocks(len(DATA), store.fetch)
    places = np.random.default_rng(1).integers(0, 900, (400, 2))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda place: found.read(int(place[0]), int(place[1]) % 90), places))
    assert read == [DATA[int(a) : int(a) + int(b) % 90] for a, b in places]


def test_an_error_is_everybodys_and_the_next_one_tries_again() -> None:
    store, begun, go_on = Store(), threading.Event(), threading.Event()

    def broken(_: Sequence[tuple[int, int]]) -> list[bytes]:
        begun.set()
        assert go_on.wait(30)
        raise OSError("the line is cut")

    def fetch(extents: Sequence[tuple[int, int]]) -> list[bytes]:
        return store.fetch(extents) if mended else broken(extents)

    mended = False
    found = Blocks(len(DATA), fetch)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(found.read, 0, 10)
        assert begun.wait(30)
        second = pool.submit(found.read, 0, 10)
        go_on.set()
        for read in (first, second):
            with pytest.raises(OSError, match="the line is cut"):
                read.result()
    mended = True
    assert found.read(0, 10) == DATA[:10]


def test_a_file_over_blocks_is_read_as_any_file() -> None:
    with BlockFile("s3://bucket/file", len(DATA), Blocks(len(DATA), Store().fetch)) as file:
        assert file.read(7) == DATA[:7]
        assert file.tell() == 7
        assert file.seek(-3, 2) == 1000
        assert file.read() == DATA[-3:]
        assert file.read(1) == b""
        assert file.seek(2000) == 2000
        assert file.read(1) == b""
        assert file.seek(-10, 1) == 1990
        with pytest.raises(ValueError, match="before the beginning"):
            file.seek(-1)
        with pytest.raises(OSError, match="fileno"):
            file.fileno()
