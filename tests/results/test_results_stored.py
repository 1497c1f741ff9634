"""A stored result gives back what was stored: the same objects, numbers and files; or says that it cannot."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pieced import Nothing, Pieced, blank, changed, files_of, labellings, pixels_of, planes_of

from cytoseed.results import WRITERS, Result, ResultView, objects, open_result
from cytoseed.results.formats import objects_zip as form
from cytoseed.results.formats.objects_zip import write_objects
from cytoseed.results.objects import join_objects, pack_block
from cytoseed.results.view import Parts

KINDS: dict[str, Callable[[Result], ResultView]] = {
    "whole": lambda result: result,
    "in blocks": lambda result: Pieced(result, 2, failed=("x 0 to 9, y 0 to 9: unreadable",)),
}


def stored(result: ResultView, folder: Path, image: NDArray[Any] | None = None) -> Result:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stored.objects.zip"
    path.unlink(missing_ok=True)
    write_objects(result, path)
    return open_result(path, image)


def assert_same_blocks(one: ResultView, other: ResultView) -> None:
    for ours, theirs in zip(one.blocks(), other.blocks(), strict=True):
        pd.testing.assert_frame_equal(ours.table.reset_index(drop=True), theirs.table.reset_index(drop=True))
        canvases = []
        for block in (ours, theirs):
            canvas = np.zeros((len(one.targets), *one.shape[1:]), np.int32)
            height, width = block.labels.shape[1:]
            canvas[:, block.top : block.top + height, block.left : block.left + width] = block.labels
            canvases.append(canvas)
        np.testing.assert_array_equal(*canvases)


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_back(whole: Result, tmp_path: Path, kind: str) -> None:
    result = KINDS[kind](whole)
    with stored(result, tmp_path) as back:
        for name in ("shape", "targets", "channel_names", "stains", "pixel_size_um", "source", "fingerprint", "count"):
            assert getattr(back, name) == getattr(result, name), name
        assert back.input == result.input
        assert back.settings == json.loads(json.dumps(result.settings))
        assert back.failed == result.failed
        assert len(back) == result.count
        assert_same_blocks(back, result)
        np.testing.assert_array_equal(back.labels_in((0, 0, *whole.shape[1:])), planes_of(whole))
        np.testing.assert_array_equal(back.labels_in((3, 2, 5, 7)), planes_of(whole)[:, 3:8, 2:9])


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in WRITERS for kind in KINDS if name != "spatialdata" or kind != "whole"]
)
def test_every_format_has_the_bytes_that_the_result_itself_gives(
    whole: Result, tmp_path: Path, name: str, kind: str
) -> None:
    pytest.importorskip(WRITERS[name].needs or "numpy")
    result, write = KINDS[kind](whole), WRITERS[name].write
    with stored(result, tmp_path, pixels_of(whole)) as back:
        write(result, tmp_path / f"a{WRITERS[name].suffix}")
        write(back, tmp_path / f"b{WRITERS[name].suffix}")
    assert files_of(tmp_path / f"a{WRITERS[name].suffix}") == files_of(tmp_path / f"b{WRITERS[name].suffix}")


def test_nothing_comes_back_as_nothing(tmp_path: Path) -> None:
    nothing = Nothing((3, 70_000, 60_000))
    none = np.zeros((2, 7, 6), np.int32)
    for number, result in enumerate((nothing, blank(none[0]), blank(none))):
        with stored(result, tmp_path / str(number)) as back:
            assert back.count == len(back.table) == len(back.objects) == 0
            assert_same_blocks(back, result)
            assert not back.labels_in((2, 1, 4, 5)).any()
            for name in ("table", "geojson"):
                WRITERS[name].write(result, tmp_path / f"{number}-a.{name}")
                WRITERS[name].write(back, tmp_path / f"{number}-b.{name}")
                assert files_of(tmp_path / f"{number}-a.{name}") == files_of(tmp_path / f"{number}-b.{name}")


@settings(max_examples=25)
@given(
    labellings,
    st.sampled_from([None, 1, 2]),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 9), st.integers(1, 9)),
)
def test_all_shapes_of_objects_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    labels: NDArray[np.int32],
    objects: int | None,
    box: tuple[int, int, int, int],
) -> None:
    """Also objects in pieces, of one pixel, as large as the image, and numbers with gaps."""
    labels = labels * 7
    whole = blank(labels if len(labels) == 2 else labels[0])
    result = whole if objects is None else Pieced(whole, objects)
    with stored(result, tmp_path_factory.getbasetemp()) as back:
        assert_same_blocks(back, result)
        top, left, height, width = box
        expected = labels[:, top : top + height, left : left + width]
        if expected.shape[1:] == (height, width):
            np.testing.assert_array_equal(back.labels_in(box), expected)


def test_a_table_of_other_objects_than_the_labels(nuclei: Result) -> None:
    (block,) = nuclei.blocks()
    for wrong in (5, 0):
        table = block.table.assign(id=[1, 2, 3, wrong])
        with pytest.raises(ValueError, match=f"has object {wrong}, which is not in the labels"):
            list(pack_block(block._replace(table=table), nuclei.targets))


def test_a_large_block_is_stored_in_parts_and_comes_back_as_one(
    whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_PART_PX", 2 * objects._OBJECT_PX + 40)
    with stored(whole, tmp_path) as back:
        with zipfile.ZipFile(tmp_path / "stored.objects.zip") as archive:
            facts = json.loads(archive.read("result.json"))
        assert facts["blocks"] == [len(facts["parts"]["count"])]
        assert max(facts["parts"]["count"]) == 2
        assert_same_blocks(back, whole)
        np.testing.assert_array_equal(back.labels_in((0, 0, *whole.shape[1:])), planes_of(whole))


def test_the_same_result_gives_the_same_bytes(whole: Result, tmp_path: Path) -> None:
    with stored(whole, tmp_path / "a") as one, stored(whole, tmp_path / "b") as other:
        write_objects(other, tmp_path / "again")
    assert one.path.read_bytes() == other.path.read_bytes() == (tmp_path / "again").read_bytes()
    with zipfile.ZipFile(one.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist()[-1] == "result.json"


def test_the_place_of_the_image_is_kept(nuclei: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for source, place in (
        ("a/b.tif", str(tmp_path / "a" / "b.tif")),
        ("s3://bucket/b.tif", "s3://bucket/b.tif"),
        ("array", None),
    ):
        with stored(changed(nuclei, source=source), tmp_path) as back:
            assert back.source == source
        with zipfile.ZipFile(tmp_path / "stored.objects.zip") as archive:
            assert json.loads(archive.read("result.json"))["image"] == place


# Overviews


@pytest.mark.parametrize("largest_px", [4, 7, 100])
def test_overviews_of_what_was_in_memory_are_its_own(whole: Result, tmp_path: Path, largest_px: int) -> None:
    with stored(whole, tmp_path, pixels_of(whole)) as back:
        assert back.was_in_memory
        for ours, theirs in zip(back.overview(largest_px), whole.overview(largest_px), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_overviews_of_tiles_show_the_labels_at_the_centres(nuclei: Result, tmp_path: Path) -> None:
    write_objects(Pieced(nuclei), tmp_path / "a.objects.zip")
    asked = []

    def thumbnail(largest_px: int) -> tuple[NDArray[Any], float]:
        asked.append(largest_px)
        return pixels_of(nuclei)[:, ::3, ::3], 3.0

    with open_result(tmp_path / "a.objects.zip") as opened:
        back = dataclasses.replace(opened, thumbnail=thumbnail)
        picture, labels = back.overview(10)
    assert asked == [10]
    np.testing.assert_array_equal(picture, pixels_of(nuclei)[:, ::3, ::3])
    np.testing.assert_array_equal(labels[0], np.pad(nuclei.labels, ((0, 1), (0, 0)), mode="edge")[1::3, 1::3])


def test_an_overview_without_the_image(nuclei: Result, tmp_path: Path) -> None:
    with stored(nuclei, tmp_path) as back:
        with pytest.raises(FileNotFoundError, match=r"stored\.objects\.zip.*image.*--image"):
            back.overview(100)
        with pytest.raises(ValueError, match="largest_px is 0"):
            back.overview(0)


# What cannot be read


def test_no_changed_or_missing_byte_goes_unnoticed(nuclei: Result, tmp_path: Path) -> None:
    with stored(Pieced(nuclei, 2), tmp_path) as back:
        data = back.path.read_bytes()

    def read(spoilt: bytes) -> bool:
        path = tmp_path / "spoilt.objects.zip"
        path.write_bytes(spoilt)
        try:
            with open_result(path) as result:
                assert_same_blocks(result, Pieced(nuclei, 2))
        except ValueError as error:
            return str(path) not in str(error)
        return True

    assert read(data)
    assert not any(read(data[:length]) for length in range(0, len(data), 97))
    assert not read(data[:-40])
    with pytest.raises(ValueError, match=r"spoilt\.objects\.zip: is damaged or cut short"):
        open_result(tmp_path / "spoilt.objects.zip")  # though what is left ends with a zip
    changed = [read(data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]) for at in range(0, len(data), 61)]
    assert changed.count(False) > len(changed) // 2, "the others are bytes that nobody reads"


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a\.objects\.zip: there is no such file"):
        open_result(tmp_path / "a.objects.zip")
    with pytest.raises(ValueError, match="is a folder; give a stored result in it"):
        open_result(tmp_path)
    (tmp_path / "a.csv").write_text("id,area_px\n")
    with pytest.raises(ValueError, match=r"a\.csv: is not a stored result of cytoseed.*\.objects\.zip"):
        open_result(tmp_path / "a.csv")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("letter.txt", "dear")
    with pytest.raises(ValueError, match=r"a\.zip: is not a stored result"):
        open_result(tmp_path / "a.zip")


NEWER = r"written by cytoseed 9\.1\.0.*upgrade it: pip install --upgrade cytoseed"
DAMAGED = r"is damaged or cut short .* cytoseed segment"


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Write the file again with a changed description."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    facts = json.loads(members["result.json"])
    change(facts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**members, "result.json": json.dumps(facts)}.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda facts: facts.update(format=form.FORMAT + 1, version="9.1.0", blocks="new"), NEWER),
        (lambda facts: facts.update(format="1"), DAMAGED),
        (lambda facts: facts.pop("targets"), DAMAGED),
        (lambda facts: facts.update(blocks=[2]), DAMAGED),
        (lambda facts: facts["parts"]["count"].append(3), DAMAGED),
        (lambda facts: facts["parts"].update(box_yxhw=[["a"]]), DAMAGED),
    ],
)
def test_a_description_that_is_newer_or_cannot_be_right(
    nuclei: Result, tmp_path: Path, change: Callable[[dict[str, Any]], object], says: str
) -> None:
    with stored(nuclei, tmp_path) as back:
        path = altered(back.path, change)
    with pytest.raises(ValueError, match=says):
        open_result(path)


def test_parts_of_other_objects_than_the_description_says(nuclei: Result, tmp_path: Path) -> None:
    with stored(nuclei, tmp_path) as back:
        path = altered(back.path, lambda facts: facts["parts"].update(count=[3]))
    with open_result(path) as result, pytest.raises(ValueError, match="is damaged"):
        result.labels_in((0, 0, 5, 5))
    with pytest.raises(ValueError, match="was closed"):
        result.labels_in((0, 0, 5, 5))


# What is read, and held


def test_only_parts_in_the_region_are_read(nuclei: Result, tmp_path: Path) -> None:
    with stored(Pieced(nuclei), tmp_path) as back:
        read = []
        assert isinstance(back.contents, Parts)
        load = back.contents._load
        back.contents._load = lambda part: read.append(part) or load(part)  # type: ignore[func-returns-value]
        back.labels_in((0, 20, 2, 10))
        assert read == [2]
        back.labels_in((0, 20, 2, 9))
        assert read == [2], "held, and beside"
        back.labels_in((3, 7, 1, 2))
        assert read == [2, 0, 1]


def test_parts_used_last_are_held(cells: Result) -> None:
    (block,) = cells.blocks()
    (part,) = pack_block(block, cells.targets)
    read: list[int] = []

    def load(number: int) -> Any:
        read.append(number)
        return part

    one = (1 << 14) + sum(array.nbytes for array in (part[0].bits, part[0].numbers, part[0].box_yxhw, part[1]))
    parts = Parts(np.tile([0, 0, 16, 18], (9, 1)), load, cells.targets, 3, cache_bytes=2 * one)
    for number in (0, 1, 0, 2, 0, 1, 1):
        parts._part(number)
    assert read == [0, 1, 2, 1], "1 had to go for 2, and 2 for 1"
    tight = Parts(np.tile([0, 0, 16, 18], (9, 1)), load, cells.targets, 3, cache_bytes=0)
    read.clear()
    for number in (3, 3, 4, 4, 3):
        tight._part(number)
    assert read == [3, 4, 3], "the last one is always held"


def test_where_objects_overlap_reduced_labels_are_those_of_full_size(cells: Result) -> None:
    """Rounding may leave two tiles a shared pixel; no picture shows another owner than the labels."""
    (block,) = cells.blocks()
    (part,) = pack_block(block, cells.targets)
    objects, ids = part
    twice = join_objects([objects, dataclasses.replace(objects, box_yxhw=np.add(objects.box_yxhw, (1, 1, 0, 0)))])
    parts = Parts(np.array([[0, 0, 17, 19]]), lambda _: (twice, np.concatenate([ids, ids + 9])), cells.targets, 3)
    rows, columns = np.arange(1, 17, 3), np.arange(0, 19, 2)
    full = parts.labels_in((0, 0, 17, 19))
    assert full.max() > 9
    np.testing.assert_array_equal(parts.labels_at(rows, columns), full[:, rows[:, None], columns])
