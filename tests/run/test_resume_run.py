"""Runs that are repeated, stopped, resumed, overwritten or run at the same time."""

import json
import multiprocessing
import os
import shutil

import pytest
import tifffile

from bright import GREY
from cytoseed.images import ImageFileError
from cytoseed.results.store import Store
from cytoseed.run.slide import Callbacks
from cytoseed.run.tile import TileProcessor
from runs import run
from scenes import RESULTS, contents, discs

TILES = {"tile_size_px": 128}
FILES = {f"scene{suffix}" for suffix in RESULTS}


def test_a_missing_format_is_added_without_processing_tiles(path, tmp_path, monkeypatch):
    run(path, tmp_path / "out", GREY, formats=["labels", "table"], **TILES)
    before = contents(tmp_path / "out")
    monkeypatch.setattr(TileProcessor, "read", None)
    report = run(path, tmp_path / "out", GREY, formats=["labels", "table"], **TILES)
    assert report.already_done
    assert contents(tmp_path / "out") == before
    more = run(path, tmp_path / "out", GREY, **TILES)
    assert not more.already_done
    assert set(contents(tmp_path / "out")) == FILES
    assert (tmp_path / "out" / "scene.csv").read_bytes() == before["scene.csv"]


class Stopped(BaseException):
    """Stands for a signal."""


def stop_after(tiles, monkeypatch):
    written = []
    write = Store.write

    def counting(self, tile, objects):
        if len(written) == tiles:
            raise Stopped
        written.append(tile)
        write(self, tile, objects)

    monkeypatch.setattr(Store, "write", counting)
    return written


@pytest.mark.parametrize("tiles", [0, 1, 7])
def test_a_stopped_run_resumes_and_writes_the_same_bytes(path, tmp_path, monkeypatch, tiles):
    run(path, tmp_path / "one", GREY, **TILES)
    with monkeypatch.context() as patch:
        stop_after(tiles, patch)
        with pytest.raises(Stopped):
            run(path, tmp_path / "two", GREY, **TILES)
    with pytest.raises(FileExistsError, match=f"{16 - tiles} tiles to go.*--resume"):
        run(path, tmp_path / "two", GREY, **TILES)
    with monkeypatch.context() as patch:
        written = stop_after(99, patch)
        report = run(path, tmp_path / "two", GREY, existing="resume", **TILES)
        assert len(written) == 16 - tiles
    assert not report.already_done
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.parametrize("has_tiles", [True, False])
def test_the_tile_size_of_an_earlier_run_is_kept(path, tmp_path, monkeypatch, has_tiles):
    """A complete result does not need its tiles."""
    monkeypatch.setattr("cytoseed.run.plan._LARGEST_SINGLE_TILE_PX", 1)
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 128)
    run(path, tmp_path / "out", GREY)
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 256)
    if not has_tiles:
        shutil.rmtree(tmp_path / "out" / "scene.cytoseed")
    report = run(path, tmp_path / "out", GREY)
    assert report.already_done
    assert {file.name for file in report.files} == FILES


def test_other_settings_and_inputs_are_refused_with_the_difference(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, formats=["table"], **TILES)
    for existing in ("refuse", "resume"):
        with pytest.raises(FileExistsError, match=r"seed_threshold: 0\.5 -> 0\.6"):
            run(path, out, GREY, formats=["table"], existing=existing, seed_threshold=0.6, **TILES)
    tifffile.imwrite(path, discs(seed=1)[0], tile=(64, 64))
    with pytest.raises(FileExistsError, match="sha256"):
        run(path, out, GREY, formats=["table"], existing="resume", **TILES)
    report = run(path, out, GREY, formats=["table"], existing="overwrite", **TILES)
    assert report.result.count == discs(seed=1)[1]


def test_a_finished_overwriting_run_no_longer_overwrites(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, formats=["labels"], existing="overwrite", **TILES)
    (out / "scene.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"scene\.csv"):
        run(path, out, GREY, formats=["labels", "table"], **TILES)
    assert (out / "scene.csv").read_text() == "mine"


@pytest.mark.parametrize("step", ["announce", "begin", "write"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_overwriting_run_stopped_at_its_start_resumes(path, tmp_path, monkeypatch, step, moment):
    run(path, tmp_path / "good", GREY, **TILES)
    run(path, tmp_path / "out", GREY, seed_threshold=0.6, **TILES)
    whole = getattr(Store, step)

    def stopping(*args):
        if moment == "after":
            whole(*args)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Store, step, stopping)
        with pytest.raises(Stopped):
            run(path, tmp_path / "out", GREY, existing="overwrite", **TILES)
    again = "overwrite" if (step, moment) == ("announce", "before") else "resume"  # nothing has changed yet
    run(path, tmp_path / "out", GREY, existing=again, **TILES)
    assert contents(tmp_path / "out") == contents(tmp_path / "good")


def test_damaged_tile_files_are_processed_again(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, **TILES)
    before = contents(out)
    shards = sorted((out / "scene.cytoseed" / "tiles").iterdir())
    shards[3].write_bytes(shards[3].read_bytes()[:50])
    shards[5].write_bytes(b"")
    (out / "scene.geojson").unlink()
    run(path, out, GREY, **TILES)
    assert contents(out) == before


def test_a_failed_tile_is_listed_and_resume_tries_it_again(path, tmp_path, monkeypatch):
    run(path, tmp_path / "good", GREY, **TILES)
    read = TileProcessor.read

    def failing(self, tile):
        if tile.number == 5:
            raise RuntimeError("lamp failure")
        return read(self, tile)

    notices = []
    with monkeypatch.context() as patch:
        patch.setattr(TileProcessor, "read", failing)
        report = run(path, tmp_path / "out", GREY, callbacks=Callbacks(notices.append), **TILES)
    (failure,) = report.failures
    assert failure == "x 128 to 256, y 128 to 256: lamp failure"
    assert any("lamp failure" in text and "--resume" in text for text in notices)
    assert report.result.count < discs()[1]
    assert "failed_tiles" in json.loads((tmp_path / "out" / "scene.cytoseed.json").read_text())
    with pytest.raises(FileExistsError, match=r"1 tiles to go"):
        run(path, tmp_path / "out", GREY, **TILES)
    report = run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert not report.failures
    assert contents(tmp_path / "out") == contents(tmp_path / "good")


def test_nothing_is_written_when_every_tile_fails(path, tmp_path, monkeypatch):
    def failing(*_):
        raise ImageFileError("unreadable")

    monkeypatch.setattr(TileProcessor, "read", failing)
    with pytest.raises(ImageFileError, match="unreadable"):
        run(path, tmp_path / "out", GREY, **TILES)
    assert list((tmp_path / "out").rglob("*.npz")) == []
    assert contents(tmp_path / "out") == {}


def test_a_full_disk_is_named_and_the_run_resumes(path, tmp_path, monkeypatch):
    run(path, tmp_path / "good", GREY, **TILES)
    fsync, calls = os.fsync, []

    def filling(handle):
        calls.append(handle)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", filling)
        with pytest.raises(OSError, match=r"no room left.*--resume"):
            run(path, tmp_path / "out", GREY, **TILES)
    assert 0 < len(Store(tmp_path / "out" / "scene.cytoseed").done()) < 16
    run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert contents(tmp_path / "out") == contents(tmp_path / "good")


def _hold(folder, ready, done):
    image, _ = discs()
    notices = []

    def first(progress):
        if not notices:
            notices.append(progress)
            ready.set()
            done.wait(60)

    run(image, folder, GREY, formats=["table"], callbacks=Callbacks(progress=first), **TILES)


def test_a_killed_process_holds_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    report = run(discs()[0], tmp_path, GREY, formats=["table"], existing="resume", **TILES)
    assert report.result.count == discs()[1]
