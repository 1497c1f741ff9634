"""A save that is stopped anywhere, and done again, ends as one that nothing stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pieced import Pieced, changed

from cytoseed.results import WRITERS, Result, Writer, compare, stem_of
from cytoseed.results.save import save

ALL = ("labels", "geojson", "table", "overlay", "objects", "tree")
RECORD = "tissue.cytoseed.json"
LOCK = "tissue.cytoseed"  # a kill leaves it, and holds nobody up
pytestmark = pytest.mark.usefixtures("tree")


class Killed(BaseException):
    """A process that ends here."""


class Steps:
    """Counts what is done to files, and ends the process before or in the middle of one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int, look: Callable[[], None]) -> None:
        self.number, self.last, self.look = 0, last, look
        self.over = False
        replace, unlink, write_bytes, rmtree = os.replace, Path.unlink, Path.write_bytes, shutil.rmtree

        def stepwise(act: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **options: Any) -> Any:
                self.step()
                return act(*arguments, **options)

            return run

        def write_halves(path: Path, data: bytes) -> int:
            self.step()
            write_bytes(path, data[: len(data) // 2])
            self.step()
            return write_bytes(path, data)

        def rmtree_while_it_runs(*arguments: Any, **options: Any) -> None:
            if not self.over:
                rmtree(*arguments, **options)

        monkeypatch.setattr(os, "replace", stepwise(replace))
        monkeypatch.setattr(Path, "unlink", stepwise(unlink))
        monkeypatch.setattr(Path, "write_bytes", write_halves)
        monkeypatch.setattr(shutil, "rmtree", rmtree_while_it_runs)
        for name, writer in list(WRITERS.items()):
            monkeypatch.setitem(WRITERS, name, writer._replace(write=self.writing(writer)))

    def step(self) -> None:
        self.look()
        self.number += 1
        if self.number == self.last:
            self.over = True
            raise Killed

    def writing(self, writer: Writer) -> Callable[[Result, Path], None]:
        def write(result: Result, path: Path) -> None:
            path.write_bytes(b"what is written until now")
            path.unlink()
            writer.write(result, path)
            self.step()

        return write


class Case(NamedTuple):
    """A save over an earlier one."""

    before: Callable[[Result, Path], object]
    formats: tuple[str, ...]
    overwrite: bool


def nothing(_: Result, __: Path) -> None:
    pass


def one_format(result: Result, folder: Path) -> None:
    result.save(folder, ("labels", "tree"))


def other_settings(result: Result, folder: Path) -> None:
    changed(result, settings={"seed_threshold": 0.1}).save(folder, ("labels", "geojson", "tree", "overlay"))


def half_of_the_image(result: Result, folder: Path) -> None:
    save(Pieced(result, failed=("x 0 to 9: unreadable",)), folder, ("labels", "table", "tree"), overwrite=False)


CASES = {
    "new": Case(nothing, ALL, False),
    "added": Case(one_format, ALL, False),
    "overwritten": Case(other_settings, ("labels", "table"), True),
    "a folder overwritten": Case(other_settings, ("tree", "objects"), True),
    "the same again": Case(one_format, ALL, True),
    "of failed parts": Case(half_of_the_image, ("labels", "overlay"), False),
}


def shown(folder: Path) -> dict[str, bytes]:
    """Content of the folder under the names of results; of a folder all of its files."""
    return {path.name: content(path) for path in folder.glob("tissue.*") if path.name != LOCK}


def content(path: Path) -> bytes:
    if path.is_file():
        return path.read_bytes()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return b"folder" + b"".join(f"/{file.relative_to(path)}:".encode() + file.read_bytes() for file in files)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_kill_anywhere_and_the_same_again(nuclei: Result, tmp_path: Path, case: Case) -> None:
    whole = tmp_path / "undisturbed"
    case.before(nuclei, whole)
    old = shown(whole)
    nuclei.save(whole, case.formats, case.overwrite)
    new = shown(whole)
    assert sorted(json.loads(new[RECORD])["files"]) == sorted(new.keys() - {RECORD})

    for last in range(1, 1000):
        folder = tmp_path / f"killed at {last}"
        case.before(nuclei, folder)

        def look(folder: Path = folder) -> None:
            for name, content in shown(folder).items():
                assert name == RECORD or content in (old.get(name), new.get(name)), "whole or not at all"
            if RECORD in shown(folder):
                json.loads(shown(folder)[RECORD])

        with pytest.MonkeyPatch.context() as monkeypatch:
            steps = Steps(monkeypatch, last, look)
            with contextlib.suppress(Killed):
                nuclei.save(folder, case.formats, case.overwrite)
        look()
        nuclei.save(folder, case.formats, case.overwrite)
        assert shown(folder) == new
        assert {path.name for path in folder.iterdir()} - {LOCK} == new.keys(), "nothing beside"
        if not steps.over:
            break
    assert last > 15


def test_a_killed_overwriting_is_still_refused_to_others(nuclei: Result, tmp_path: Path) -> None:
    other_settings(nuclei, tmp_path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        replaced: list[Any] = []

        def die(source: Path, target: Path, replace: Callable[..., None] = os.replace) -> None:
            replaced.append(target)
            if len(replaced) == 3:
                raise Killed
            replace(source, target)

        monkeypatch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            nuclei.save(tmp_path, overwrite=True)
    with pytest.raises(FileExistsError, match=r"settings\.seed_threshold: 0\.5 -> 0\.1"):
        other_settings(nuclei, tmp_path)
    found = compare(tmp_path, "tissue", nuclei.record, ALL)
    assert found == ("same", (), ALL), "announced, but not sure"


def test_a_full_disk(nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_format(nuclei, tmp_path)
    before = shown(tmp_path)

    def fill(_: Result, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setitem(WRITERS, "overlay", WRITERS["overlay"]._replace(write=fill))
    with pytest.raises(OSError, match=r"cannot be written to \(No space left on device\)") as caught:
        nuclei.save(tmp_path, ALL)
    assert caught.value.errno == errno.ENOSPC, "so that callers can tell it from others"
    assert shown(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == before.keys()


@pytest.mark.parametrize("name", ["tissue.cytoseed/tiles/00000000.npz", "tissue.tif"])
def test_a_result_that_cannot_be_read_is_not_blamed_on_the_folder(
    nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def fail(_: Result, __: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / name))

    monkeypatch.setitem(WRITERS, "table", WRITERS["table"]._replace(write=fail))
    with pytest.raises(OSError, match=r"^\[Errno 5\] .*tissue"):
        nuclei.save(tmp_path, ALL)
    assert shown(tmp_path) == {}


# Parts that could not be segmented


def test_failed_parts_are_recorded_and_make_a_result_unfinished(nuclei: Result, tmp_path: Path) -> None:
    failed = ("x 0 to 9, y 0 to 9: unreadable", "x 9 to 18, y 0 to 9: unreadable")
    partial = Pieced(nuclei, failed=failed)
    save(partial, tmp_path, ("labels", "table"), overwrite=False)
    assert json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))["failed_tiles"] == list(failed)
    record = nuclei.record
    assert compare(tmp_path, stem_of(nuclei.source), record, ALL) == ("same", (), ALL)

    nuclei.save(tmp_path, ("labels", "overlay"))
    kept = json.loads((tmp_path / RECORD).read_text(encoding="utf-8"))
    assert kept.keys() == {"version", "input", "settings", "files"}
    assert kept["files"] == ["tissue.labels.tif", "tissue.overlay.png"], "the table lacks the failed parts"
    assert not (tmp_path / "tissue.csv").exists()
    assert compare(tmp_path, "tissue", record, ALL) == ("same", (), ("geojson", "table", "objects", "tree"))
