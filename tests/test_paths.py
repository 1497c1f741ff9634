"""Local paths and URLs: names, atomic writes, copies of remote files, and errors of stores."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import known_implementations

from cytoseed import paths
from cytoseed.paths import as_path, atomic_file, cache_folder, display, file_name, is_url, local_copy, read_bytes
from remote import Web, forget_sessions

pytestmark = pytest.mark.usefixtures("cache")

DATA = bytes(range(250)) * 400


@pytest.fixture
def url(tmp_path: Path) -> str:
    store(f"memory://copies/{tmp_path.name}/file", DATA)
    return f"memory://copies/{tmp_path.name}/file"


def store(url: str, data: bytes) -> None:
    fsspec.filesystem("memory").pipe_file(url.removeprefix("memory:/"), data)


def left(cache: Path) -> list[str]:
    """Names of all files in the cache but for locks."""
    return sorted(file.name for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock")


# Names


def test_which_texts_are_urls() -> None:
    assert all(map(is_url, ["s3://b/x.tif", "https://h/x", "memory://x", "simplecache::s3://b/x"]))
    assert not any(map(is_url, ["x.tif", "C://x.tif", "C:\\x", "a/b::c.tif", "s3:/b/x", "", "://", Path("s3://b/x")]))


@pytest.mark.parametrize(
    ("url", "shown", "name"),
    [
        ("memory://a/b/", "memory://a/b", "b"),
        ("https://h/x.zarr?sig=a/b", "https://h/x.zarr", "x.zarr"),
        ("https://me:secret@h/x.tif", "https://h/x.tif", "x.tif"),
        ("zip://d/x.tif::memory://b/y.zip", "zip://d/x.tif", "x.tif"),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, shown: str, name: str) -> None:
    if url.startswith("zip"):
        fsspec.filesystem("memory").pipe_file("/b/y.zip", b"PK\5\6" + bytes(18))
    path = as_path(url)
    assert (display(path), file_name(path)) == (shown, name)


# Writing


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for text in ("old", "new"):
        with atomic_file(path) as beside:
            beside.write_text(text)
            assert beside.parent == tmp_path
        assert path.read_text() == text
    with pytest.raises(TypeError), atomic_file(path) as beside:
        beside.write_text(7)  # type: ignore[arg-type]
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_remote_file_is_written_and_a_folder_removed() -> None:
    folder = as_path("memory://written/folder")
    with atomic_file(folder / "deep" / "file") as beside:
        beside.write_bytes(DATA)
    assert read_bytes(folder / "deep" / "file") == DATA
    assert paths.list_names(folder) == ["deep"]
    paths.remove(folder)
    assert paths.list_names(folder) == []


# Copies


def test_a_copy_is_made_once_and_again_when_the_file_changed(url: str, cache: Path) -> None:
    copy = local_copy(url)
    assert copy.name == "file"
    assert cache in copy.parents
    assert copy.read_bytes() == DATA
    before = copy.stat()
    assert local_copy(url) == copy
    assert copy.stat().st_ino == before.st_ino
    store(url, DATA[::-1])
    changed = local_copy(url)
    assert changed != copy
    assert changed.read_bytes() == DATA[::-1]


def test_without_a_version_a_copy_is_made_again(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_VERSIONS", ())
    for data in (DATA, DATA[::-1]):
        store(url, data)
        assert local_copy(url).read_bytes() == data


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (ConnectionResetError("the line was cut"), r"file: .*the line was cut"),
        ("half", "gave 50000 bytes of 100000"),
        ("changed", r"memory://copies/.*/file: changed while it was copied"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), r"file: has to be copied to this machine.*CYTOSEED_CACHE"),
    ],
)
def test_a_copy_that_is_cut_off_is_never_taken_for_whole(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch, fault: Any, says: str
) -> None:
    def get_file(_: Any, __: str, target: str) -> None:
        Path(target).write_bytes(DATA if fault == "changed" else DATA[:50_000])
        if isinstance(fault, Exception):
            raise fault
        if fault == "changed":
            store(url, DATA[::-1])

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get_file", get_file)
        with pytest.raises(OSError, match=says):
            local_copy(url)
    assert left(cache) == []
    store(url, DATA)
    assert local_copy(url).read_bytes() == DATA


def test_a_cache_without_room_or_that_cannot_be_made(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=(1 << 26) + 99_999))
        patch.setattr(MemoryFileSystem, "get_file", lambda *_: pytest.fail("it was fetched"))
        with pytest.raises(OSError, match=rf"memory://.*/file: .*needs 0 MB in {cache}.*67 MB are free.*CYTOSEED"):
            local_copy(url)
    shutil.rmtree(cache)
    cache.write_text("a file")
    with pytest.raises(OSError, match=rf"file: has to be copied to this machine, and {cache}/slides cannot be made"):
        local_copy(url)


def test_a_process_that_is_killed_leaves_no_copy_and_the_next_makes_it(web: Web) -> None:
    (web.folder / "file").write_bytes(DATA)
    code = (
        "import os, sys; from pathlib import Path; from cytoseed import paths\n"
        "from fsspec.implementations.http import HTTPFileSystem\n"
        "def get_file(self, path, target): Path(target).write_bytes(b'half'); os._exit(9)\n"
        "HTTPFileSystem.get_file = get_file\n"
        "paths.local_copy(sys.argv[1])"
    )
    run = subprocess.run([sys.executable, "-c", code, f"{web.address}/file"], check=False)
    assert run.returncode == 9
    assert local_copy(f"{web.address}/file").read_bytes() == DATA


def test_threads_and_processes_at_once_make_one_copy(tmp_path: Path, web: Web) -> None:
    (web.folder / "file").write_bytes(DATA)
    code = (
        "import sys; from cytoseed.paths import local_copy\n"
        "print(local_copy(sys.argv[1]).read_bytes() == open(sys.argv[2], 'rb').read())"
    )
    call = [sys.executable, "-c", code, f"{web.address}/file", str(web.folder / "file")]
    others = [subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: local_copy(f"{web.address}/file").read_bytes() == DATA, range(3)))
    assert found == [True] * 3
    assert [other.communicate(timeout=120)[0].strip() for other in others] == ["True"] * 2
    assert sum(count for _, _, count in web.asked) < 1.5 * len(DATA)


def test_where_copies_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.setenv("CYTOSEED_CACHE", "~/copies")
    assert cache_folder() == Path.home() / "copies"
    monkeypatch.delenv("CYTOSEED_CACHE")
    assert cache_folder().name.lower() in ("cytoseed", "cache")


# Errors of stores


def test_unknown_protocols_and_those_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"foo://b/x\.tif: .*foo.*s3://bucket/folder"):
        as_path("foo://b/x.tif")
    known = {"class": "no_such_package.FileSystem", "err": "Please install no_such_package"}
    monkeypatch.setitem(known_implementations, "afar", known)
    with pytest.raises(ModuleNotFoundError, match=r"afar://b/x\.tif: .*Please install no_such_package.*pip install"):
        as_path("afar://b/x.tif")


@pytest.mark.parametrize(
    ("status", "kind", "says"),
    [
        (403, PermissionError, "may not be read .*check the rights"),
        (500, OSError, "cannot be read .*500"),
    ],
)
def test_answers_of_a_web_server(web: Web, status: int, kind: type[OSError], says: str) -> None:
    web.status = status
    with pytest.raises(kind, match=rf"{web.address}/x\.tif: {says}"):
        local_copy(f"{web.address}/x.tif")


def test_a_host_that_does_not_answer_or_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_SILENCE_S", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(TimeoutError, match=rf"http://{address}/x\.tif: gave no answer in time .* check"):
            local_copy(f"http://{address}/x.tif")
    with pytest.raises(ConnectionError, match=rf"http://{address}/x\.tif: cannot be read, no connection"):
        local_copy(f"http://{address}/x.tif")
    forget_sessions()
