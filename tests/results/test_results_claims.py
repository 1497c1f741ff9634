"""Stored results that claim absurd sizes, or point to other places, are refused or do nothing."""

from __future__ import annotations

import io
import json
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoseed import packed
from cytoseed.results import Result, open_result, stored
from cytoseed.results.store import Store
from damage import chances, changed_bytes, changed_json, is_read

PART = "parts/00000000.npz"


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """Content of a stored result of two objects."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:6, 2:7], labels[10:15, 20:26] = 1, 2
    Result.from_labels(labels, np.zeros((1, 20, 30), np.uint8)).save(tmp_path, ["objects"])
    with zipfile.ZipFile(next(tmp_path.glob("*.objects.zip"))) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(folder: Path, members: dict[str, bytes], **facts: Any) -> Path:
    path = folder / "hostile.objects.zip"
    described = json.loads(members["result.json"]) if facts else {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, json.dumps({**described, **facts}) if facts and name == "result.json" else content)
    return path


def part_with(part: bytes, **arrays: Any) -> bytes:
    file = io.BytesIO()
    with np.load(io.BytesIO(part)) as archive:
        np.savez_compressed(file, **{**archive, **arrays})
    return file.getvalue()


def everything(path: Path) -> None:
    with open_result(path) as result:
        assert len(result.table)
        result.labels_in((0, 0, *result.shape[1:]))


_ALL = [0, 0, 10**6, 10**6]
CLAIMS: dict[str, Callable[[dict[str, bytes]], tuple[dict[str, bytes], dict[str, Any]]]] = {
    "a long description": lambda m: (m | {"result.json": b" " * (1 << 20) + m["result.json"]}, {}),
    "a large array": lambda m: (m | {PART: part_with(m[PART], bits=np.zeros(3 << 20, np.uint8))}, {}),
    "a large box": lambda m: (m | {PART: part_with(m[PART], box_yxhw=np.array([[0, 0, 60_000, 60_000]] * 2))}, {}),
    "a large image": lambda m: (m, {"shape": [1, 10**7, 10**7]}),
    "a large block": lambda m: (m, {"shape": [1, 10**6, 10**6], "parts": {"count": [2], "box_yxhw": [_ALL]}}),
    "deep lists": lambda m: (m | {"result.json": b'{"format":1,"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"}, {}),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims(tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, claim: str) -> None:
    monkeypatch.setattr(stored, "_FACTS_BYTES", 1 << 20)
    monkeypatch.setattr(packed.read_member, "__defaults__", (1 << 20,))
    monkeypatch.setattr(packed.read_arrays, "__defaults__", (1 << 20,))
    changed, facts = CLAIMS[claim](members)
    path = written(tmp_path, changed, **facts)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"hostile\.objects\.zip: is damaged or cut short"):
        everything(path)
    assert tracemalloc.get_traced_memory()[1] < 32 << 20
    tracemalloc.stop()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a web server, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/image.png", asked
    server.shutdown()
    server.server_close()


def test_no_url_is_opened_that_nobody_gave(
    tmp_path: Path, members: dict[str, bytes], server: tuple[str, list[str]]
) -> None:
    url, asked = server
    described = json.loads(members["result.json"])["input"]
    path = written(tmp_path, members, image=url, input={**described, "name": "../../image.png"})
    with open_result(path) as result, pytest.raises(FileNotFoundError, match="give its location with --image"):
        result.save(tmp_path / "out", ["overlay"])
    assert not asked
    with open_result(path, url) as result, pytest.raises(OSError, match="image"):
        result.save(tmp_path / "out", ["overlay"])
    assert asked


def test_damaged_descriptions_of_runs(tmp_path: Path) -> None:
    limits = {"low": [0.0], "high": [1.0]}
    run = {"input": {"name": "a"}, "settings": {"scale": 1.0}, "grid": {"height": 5}, "normalisation": limits}
    run |= {"stains": [], "tiles": 3, "asked": {"source": "a", "model": "", "options": {}, "formats": ["table"]}}
    store = Store(tmp_path / "a.cytoseed")
    store.announce(run)
    store.begin(run, np.arange(3))
    whole, todo = json.loads((store.path / "run.json").read_text()), (store.path / "todo.npy").read_bytes()
    found = set()

    def read(_: Path) -> None:
        facts = store.run() or {}
        ends = facts.get("normalisation", limits)
        assert all(isinstance(value, int | float) for name in ("low", "high") for value in ends[name])
        assert (np.diff(store.todo()) > 0).all()

    for number, chance in enumerate(chances("run", 200)):
        text = json.dumps(changed_json(whole, chance) if number % 3 else whole)
        (store.path / "run.json").write_text(text)
        (store.path / "todo.npy").write_bytes(todo if number % 3 else changed_bytes(todo, chance))
        found.add(is_read(read, store.path))
    assert found == {True, False}
