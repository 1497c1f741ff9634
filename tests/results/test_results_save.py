"""Saving: records, what is in the way, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pieced import Pieced, changed, files_of, pixels_of

from cytoseed.results import DEFAULT_FORMATS, WRITERS, Record, Result, compare, open_result, stem_of
from cytoseed.results.save import save
from cytoseed.results.view import input_of

ALL = DEFAULT_FORMATS
NO_FILES = '{"version": "1", "input": {}, "settings": {}, "files": 3}'
NAMES = [
    "tissue.csv",
    "tissue.cytoseed.json",
    "tissue.geojson",
    "tissue.labels.tif",
    "tissue.objects.zip",
    "tissue.overlay.png",
]


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_settings(result: Result, **settings: Any) -> Result:
    return changed(result, settings={**result.settings, **settings})


def test_stems() -> None:
    sources = ("a/cells.tif", "cells.ome.tif", "array", "x.y.png", ".ome.tif")
    assert [stem_of(source) for source in sources] == ["cells", "cells", "array", "x.y", ".ome"]


def test_all_formats_and_the_record(nuclei: Result, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    paths = nuclei.save(folder)
    assert listing(folder) == NAMES
    assert [path.name for path in paths] == [*(f"tissue{WRITERS[name].suffix}" for name in ALL), "tissue.cytoseed.json"]
    record = json.loads(paths[-1].read_text(encoding="utf-8"))
    assert record["version"] == metadata.version("cytoseed")
    assert record["input"]["name"] == "tissue.ome.tif"
    assert record["input"]["shape"] == [3, 20, 30]
    assert record["settings"] == {"model": "nuclei 0.1.0", "seed_threshold": 0.5, "channels": ["0", "1", "2"]}
    assert record["files"] == sorted(path.name for path in paths[:-1])
    before = files_of(folder)
    (folder / "tissue.geojson").unlink()
    nuclei.save(folder)
    assert files_of(folder) == before, "a lost file is written again"


def test_comparison_before_and_after(nuclei: Result, tmp_path: Path) -> None:
    before = pixels_of(nuclei)

    def look(formats: tuple[str, ...] = ALL, pixels: Any = before, **settings: Any) -> Any:
        record = Record.of(input_of(pixels, nuclei.source), {**nuclei.settings, **settings})
        return compare(tmp_path / "out", stem_of(nuclei.source), record, formats)

    assert look() == ("absent", (), ALL)
    nuclei.save(tmp_path / "out", formats=("labels", "table"))
    assert look(("labels",)) == ("same", (), ())
    assert look() == ("same", (), ("geojson", "overlay", "objects"))
    assert look(seed_threshold=0.7).state == "different"
    assert look(seed_threshold=0.7).differences == ("settings.seed_threshold: 0.5 -> 0.7",)
    assert look(tta=True).differences == ("settings.tta: null -> true",)
    (line,) = look(pixels=before + 1).differences
    assert line.startswith("input.sha256")
    assert any("input.dtype" in line for line in look(pixels=before.astype(np.uint16)).differences)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": "1"}', '{"files": 3}', NO_FILES])
def test_a_damaged_record_is_a_difference(nuclei: Result, tmp_path: Path, text: str) -> None:
    (tmp_path / "tissue.cytoseed.json").write_text(text)
    with pytest.raises(FileExistsError, match="not a record that can be read"):
        nuclei.save(tmp_path)
    nuclei.save(tmp_path, overwrite=True)
    assert listing(tmp_path) == NAMES


def test_a_record_cannot_name_files_elsewhere(nuclei: Result, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("kept")
    folder = tmp_path / "out"
    nuclei.save(folder)
    path = folder / "tissue.cytoseed.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**record, "files": ["../precious.txt", "tissue.csv"]}), encoding="utf-8")
    with_settings(nuclei, seed_threshold=0.1).save(folder, formats=("labels",), overwrite=True)
    assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize("formats", [("labels", "shapefile"), (), "zarr"])
def test_unknown_formats(nuclei: Result, tmp_path: Path, formats: Any) -> None:
    with pytest.raises(ValueError, match=r"not known; the formats are .*labels"):
        nuclei.save(tmp_path / "out", formats=formats)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are Unicode here")
def test_a_name_that_is_not_utf8(nuclei: Result, tmp_path: Path) -> None:
    result = changed(nuclei, source=os.fsdecode(b"caf\xe9.tif"))
    paths = result.save(tmp_path)
    assert os.fsencode(paths[0].name) == b"caf\xe9.labels.tif"
    assert json.loads(paths[-1].read_text(encoding="utf-8"))["input"]["name"] == "caf\udce9.tif"
    record = result.record
    assert compare(tmp_path, stem_of(result.source), record, ALL).state == "same"
    with_settings(result, seed_threshold=0.6).save(tmp_path, ("labels",), overwrite=True)
    assert [os.fsencode(name) for name in listing(tmp_path)] == [b"caf\xe9.cytoseed.json", b"caf\xe9.labels.tif"]


@pytest.mark.parametrize("below", ["", "out"])
def test_a_folder_that_cannot_be_written_to(nuclei: Result, tmp_path: Path, below: str) -> None:
    (tmp_path / "file.txt").write_text("a file")
    with pytest.raises(OSError, match=r"file\.txt.*cannot be written to .*choose one"):
        nuclei.save(tmp_path / "file.txt" / below)
    assert (tmp_path / "file.txt").read_text() == "a file"


# Formats that cannot hold a result


def test_what_can_hold_the_result_is_written_and_kept(
    nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, reason in (("geojson", "take parquet"), ("overlay", "take nothing")):
        limit = lambda shape, count, reason=reason: f"{count} objects in {shape[1]} rows; {reason}"  # noqa: E731
        monkeypatch.setitem(WRITERS, name, WRITERS[name]._replace(limit=limit, write=None))
    for _ in range(2):  # and again
        with pytest.raises(ValueError, match=r"tissue: format 'geojson' cannot hold.* 4 objects in 20 rows") as told:
            nuclei.save(tmp_path, ALL)
        assert "format 'overlay' cannot hold this result: 4 objects in 20 rows; take nothing" in str(told.value)
        assert listing(tmp_path) == [name for name in NAMES if "geojson" not in name and "overlay" not in name]
    assert "labels, table, objects: written" not in str(told.value), "they were there"
    record = json.loads((tmp_path / "tissue.cytoseed.json").read_text(encoding="utf-8"))
    assert record["files"] == ["tissue.csv", "tissue.labels.tif", "tissue.objects.zip"]
    assert "pending" not in record
    assert nuclei.save(tmp_path, ("labels", "table"))


def test_a_format_without_its_package_is_refused_before_any_work(
    nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = WRITERS["table"]._replace(name="sheet", suffix=".sheet", needs="no_such_package", extra="sheets")
    monkeypatch.setitem(WRITERS, "sheet", writer)
    with pytest.raises(ModuleNotFoundError, match=r"format 'sheet' needs .*no_such_package.*'cytoseed\[sheets\]'"):
        nuclei.save(tmp_path / "out", ("labels", "sheet"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("tree")
def test_a_result_is_not_written_over_its_own_image(
    nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WRITERS, "tree", WRITERS["tree"]._replace(suffix=".zarr"))
    (tmp_path / "tissue.zarr").mkdir()
    result = changed(nuclei, source=str(tmp_path / "tissue.zarr"))
    with pytest.raises(ValueError, match=r"tissue\.zarr: is the image itself"):
        result.save(tmp_path, ("labels", "tree"), overwrite=True)
    assert listing(tmp_path) == ["tissue.zarr"]


# Formats that are folders


@pytest.mark.usefixtures("tree")
def test_folders_are_written_left_added_replaced_and_removed(nuclei: Result, tmp_path: Path) -> None:
    nuclei.save(tmp_path, ("tree", "labels"))
    first = files_of(tmp_path)
    assert {"tissue.tree/inner/count", "tissue.tree/0.5"} < first.keys()
    assert json.loads(first["tissue.cytoseed.json"])["files"] == ["tissue.labels.tif", "tissue.tree"]
    (tmp_path / "tissue.tree" / "note").write_text("mine")
    nuclei.save(tmp_path, ("tree", "labels"))
    assert (tmp_path / "tissue.tree" / "note").exists(), "left"
    nuclei.save(tmp_path, ("tree",), overwrite=True)
    assert files_of(tmp_path) == first, "replaced as a whole"
    other = with_settings(nuclei, seed_threshold=0.7)
    with pytest.raises(FileExistsError, match=r"0\.5 -> 0\.7"):
        other.save(tmp_path, ("tree",))
    other.save(tmp_path, ("tree",), overwrite=True)
    assert listing(tmp_path) == ["tissue.cytoseed.json", "tissue.tree"]
    assert listing(tmp_path / "tissue.tree") == ["0.7", "inner"]
    nuclei.save(tmp_path, ("labels",), overwrite=True)
    assert listing(tmp_path) == ["tissue.cytoseed.json", "tissue.labels.tif"]


@pytest.mark.usefixtures("tree")
def test_a_link_to_a_folder_is_replaced_and_what_it_shows_stays(nuclei: Result, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    (tmp_path / "tissue.tree").symlink_to("precious", target_is_directory=True)
    (tmp_path / "tissue.labels.tif").symlink_to("precious", target_is_directory=True)
    nuclei.save(tmp_path, ("tree", "labels"), overwrite=True)
    assert (tmp_path / "precious" / "file").read_text() == "kept"
    assert not (tmp_path / "tissue.tree").is_symlink()
    assert not (tmp_path / "tissue.labels.tif").is_symlink()


def test_two_results_saved_at_once_are_never_mixed(nuclei: Result, tmp_path: Path) -> None:
    ready, done = threading.Event(), threading.Event()

    def hold(_: Result, path: Path) -> None:
        path.write_text("first")
        ready.set()
        assert done.wait(60)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as other:
        patch.setitem(WRITERS, "table", WRITERS["table"]._replace(write=hold))
        first = other.submit(nuclei.save, tmp_path, ("table",))
        try:
            assert ready.wait(60)
            for overwrite in (False, True):
                with pytest.raises(BlockingIOError, match=r"tissue\.cytoseed is being written to.*another folder"):
                    changed(nuclei, settings={"min_size_px": 9}).save(tmp_path, ("labels",), overwrite)
        finally:
            done.set()
        first.result()
    assert listing(tmp_path) == ["tissue.csv", "tissue.cytoseed.json"]
    with pytest.raises(FileExistsError, match="min_size_px"):
        changed(nuclei, settings={"min_size_px": 9}).save(tmp_path, ("labels",))


def test_settings_that_json_cannot_hold(nuclei: Result, tmp_path: Path) -> None:
    for value in (object(), float("nan")):
        with pytest.raises(TypeError, match=r"settings hold a value that JSON cannot .* finite numbers"):
            with_settings(nuclei, mask_threshold=value).save(tmp_path)


@pytest.mark.parametrize("has_record", [False, True])
def test_files_of_unknown_origin_are_not_overwritten_unasked(nuclei: Result, tmp_path: Path, has_record: bool) -> None:
    (tmp_path / "tissue.csv").write_text("my own notes")
    if has_record:
        nuclei.save(tmp_path, formats=("labels",))
    with pytest.raises(FileExistsError, match=r"tissue\.csv: exists already, but no record"):
        nuclei.save(tmp_path)
    assert (tmp_path / "tissue.csv").read_text() == "my own notes"
    nuclei.save(tmp_path, overwrite=True)
    assert listing(tmp_path) == NAMES
    assert (tmp_path / "tissue.csv").read_text() != "my own notes"


# Saved beside, and elsewhere


def test_conversion_by_a_later_version_adds_to_the_same_record(
    nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ("table", "geojson", "overlay", "labels", "objects")
    nuclei.save(tmp_path / "whole", wanted)
    nuclei.save(tmp_path / "later", ("objects", "labels"))
    labels = (tmp_path / "later" / "tissue.labels.tif").stat()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99.0")
    with open_result(tmp_path / "later" / "tissue.objects.zip", pixels_of(nuclei)) as result:
        paths = result.save(tmp_path / "later", ("table", "geojson"))
        assert [path.name for path in paths] == ["tissue.csv", "tissue.geojson", "tissue.cytoseed.json"]
        result.save(tmp_path / "later", ("overlay", "labels", "objects"))
    assert files_of(tmp_path / "later") == files_of(tmp_path / "whole"), "with the version that found the objects"
    now = (tmp_path / "later" / "tissue.labels.tif").stat()
    assert (now.st_ino, now.st_mtime_ns) == (labels.st_ino, labels.st_mtime_ns), "left as it was"


def test_conversion_of_a_result_that_lacks_parts_keeps_its_files(nuclei: Result, tmp_path: Path) -> None:
    partial = Pieced(nuclei, failed=("x 0 to 9, y 0 to 9: unreadable",))
    save(partial, tmp_path / "a", ("objects", "labels", "table"), overwrite=False)
    save(partial, tmp_path / "b", ("objects", "labels"), overwrite=False)
    with open_result(tmp_path / "b" / "tissue.objects.zip") as result:
        result.save(tmp_path / "b", ("table",))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    nuclei.save(tmp_path / "b", ("labels",))
    assert sorted(os.listdir(tmp_path / "b")) == ["tissue.cytoseed.json", "tissue.labels.tif"], "complete now"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_result_never_removes_the_file_it_is_read_from(nuclei: Result, tmp_path: Path, overwrite: bool) -> None:
    other = changed(nuclei, settings={"seed_threshold": 0.1})
    other.save(tmp_path, ("labels", "table", "objects"))
    nuclei.save(tmp_path / "mine", ("objects",))
    shutil.copy(tmp_path / "mine" / "tissue.objects.zip", tmp_path)
    before = (tmp_path / "tissue.objects.zip").read_bytes()
    with open_result(tmp_path / "tissue.objects.zip") as result:
        if not overwrite:
            with pytest.raises(FileExistsError, match=r"settings\.seed_threshold: 0\.1 -> 0\.5"):
                result.save(tmp_path, ("geojson", "objects"))
        else:
            result.save(tmp_path, ("geojson", "objects"), overwrite=True)
            files = ["tissue.geojson", "tissue.objects.zip"]
            assert sorted(os.listdir(tmp_path)) == sorted(["mine", "tissue.cytoseed.json", *files])
            assert json.loads((tmp_path / "tissue.cytoseed.json").read_text())["files"] == files
    assert (tmp_path / "tissue.objects.zip").read_bytes() == before


def test_a_damaged_part_leaves_the_folder_as_it_was(nuclei: Result, tmp_path: Path) -> None:
    nuclei.save(tmp_path, ("objects", "labels"))
    path = tmp_path / "tissue.objects.zip"
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("parts/00000000.npz").header_offset + 200
    data = bytearray(path.read_bytes())
    data[start : start + 50] = bytes(50)
    path.write_bytes(data)
    before = files_of(tmp_path)
    with open_result(path) as result, pytest.raises(ValueError, match=r"tissue\.objects\.zip: is damaged"):
        result.save(tmp_path, ("table", "geojson"))
    assert files_of(tmp_path) == before
