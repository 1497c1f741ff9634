"""`cytoseed convert` and `cytoseed formats`: what they write, what they say, and their exit codes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import zarr

from cytoseed.results import WRITERS
from scenes import names, write_image


@pytest.fixture
def stored(segment, image, tmp_path):
    assert segment(image, "--format", "objects,labels").exit_code == 0
    return tmp_path / "out" / "scene.objects.zip"


def test_files_are_those_that_segment_would_have_written(run, segment, image, stored, tmp_path):
    done = run("convert", stored, "--format", "table, geojson,overlay,labels")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("scene.objects.zip: -> ")
    assert [name for name in ("scene.csv", "scene.geojson", "scene.overlay.png") if name in done.stdout]
    assert "scene.labels.tif" not in done.stdout, "it was there"
    later = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    segment(image, "--overwrite", "--format", "table,geojson,overlay,labels,objects")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == later
    assert segment(image, "--format", "table,geojson").stdout == "scene.tif: already there\n"


def test_what_is_there_is_left_unless_overwritten(run, stored, tmp_path):
    run("convert", stored, "--format", "table")
    table = tmp_path / "out" / "scene.csv"
    made = table.read_text()
    table.write_text("edited by mistake")
    assert run("convert", stored, "-f", "table,objects").stdout == "scene.objects.zip: already there\n"
    assert table.read_text() == "edited by mistake"
    assert run("convert", stored, "-f", "table,objects", "--overwrite").stdout == f"scene.objects.zip: -> {table}\n"
    assert table.read_text() == made
    assert "scene.labels.tif" in names(tmp_path / "out"), "not asked for, and left"


def test_another_folder_gets_a_record_of_its_own(run, stored, tmp_path):
    before = names(tmp_path / "out")
    done = run("convert", stored, "--format", "table,geojson", "--output", tmp_path / "deep" / "er")
    assert done.exit_code == 0
    assert names(tmp_path / "deep" / "er") == ["scene.csv", "scene.cytoseed.json", "scene.geojson"]
    assert names(tmp_path / "out") == before
    records = [json.loads((tmp_path / name / "scene.cytoseed.json").read_text()) for name in ("out", "deep/er")]
    assert records[0]["settings"] == records[1]["settings"]
    assert records[0]["input"] == records[1]["input"]


def test_folders_patterns_and_one_bad_result_that_does_not_stop_the_others(run, segment, tmp_path):
    for name in ("a.tif", "b.tif", "c.tif"):
        segment(write_image(tmp_path / "in" / name), "--format", "objects")
    done = run("convert", tmp_path / "out" / "b*.zip", tmp_path / "out" / "b.objects.zip", "--format", "geojson")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["b.objects.zip"]
    cut = tmp_path / "out" / "b.objects.zip"
    cut.write_bytes(cut.read_bytes()[:-40])
    done = run("convert", tmp_path / "out", "--format", "table")
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.objects.zip", "c.objects.zip"]
    first, last = done.stderr.splitlines()
    assert first.startswith(f"error: {cut}: is damaged or cut short")
    assert last == "note: 1 of 3 failed: b.objects.zip"


def test_an_image_that_was_moved(run, stored, image, tmp_path):
    os.replace(image, tmp_path / "elsewhere.tif")
    done = run("convert", stored, "--format", "overlay")
    assert done.exit_code == 1
    assert f"not at {image}" in done.stderr
    assert "--image" in done.stderr
    done = run("convert", stored, "--format", "overlay", "--image", tmp_path / "elsewhere.tif")
    assert done.exit_code == 0, done.stderr
    assert "scene.overlay.png" in names(tmp_path / "out")


def test_labels_into_the_image(run, stored, tmp_path):
    image = tmp_path / "scene.zarr"
    group = zarr.open_group(image, mode="w")
    group.create_array("0", data=np.zeros((60, 80), np.uint8))
    axes = [{"name": name, "type": "space"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    before = names(tmp_path / "out")
    done = run("convert", stored, "--into", image)
    assert (done.exit_code, done.stderr) == (0, "")
    assert zarr.open_array(image / "labels" / "nuclei" / "0", mode="r")[:].max() == 2
    assert names(tmp_path / "out") == before
    again = run("convert", stored, "--into", image)
    assert again.exit_code == 1
    assert "nuclei" in again.stderr
    assert run("convert", stored, "--into", image, "--overwrite", "--format", "table").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --format"),
        (["--format", "table,svg"], "format 'svg' is not known; the formats are "),
        (["--format", "overlay", "--image", "nowhere.tif"], "--image is 'nowhere.tif'; there is no such file"),
        (["--format", "table", "nowhere.objects.zip"], "there is no file or folder 'nowhere.objects.zip'"),
        (["--format", "table", "."], "no stored result found in '.': those are files that end in .objects.zip"),
        (["--format", "table", "--image", "a.tif", "other.objects.zip"], "--image is the image of one result"),
        (["--into", "a.zarr", "other.objects.zip"], "--into is the image of one result, but there are 2"),
    ],
)
def test_a_misuse_is_reported_before_any_work(run, stored, tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "other.objects.zip" in arguments:
        (tmp_path / "other.objects.zip").write_bytes(stored.read_bytes())
    before = names(tmp_path / "out")
    done = run("convert", stored, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert names(tmp_path / "out") == before


def test_a_format_whose_package_is_not_installed(run, segment, stored, image, monkeypatch):
    writer = WRITERS["table"]._replace(name="sheet", suffix=".sheet", needs="no_such_package", extra="sheets")
    monkeypatch.setitem(WRITERS, "sheet", writer)
    for done in (run("convert", stored, "--format", "sheet"), segment(image, "--format", "sheet")):
        assert done.exit_code == 2
        assert len(done.stderr.splitlines()) == 1
        assert "pip install 'cytoseed[sheets]'" in done.stderr
    listed = run("formats").stdout
    assert "sheet: STEM.sheet\n" in listed
    assert "(not installed: pip install 'cytoseed[sheets]')" in " ".join(listed.split())


def test_formats_are_listed(run):
    done = run("formats")
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    for writer in WRITERS.values():
        assert f"{writer.name}: STEM{writer.suffix} {writer.about}" in text
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_conversion_does_without_torch(stored):
    """Nothing is segmented: tables of a thousand results need not wait for it."""
    code = (
        "import sys; from cytoseed.cli.main import app\n"
        f"try: app(['convert', {str(stored)!r}, '--format', 'table'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_outlines_of_other_programs_are_measured(run, image, stored, tmp_path):
    mask = tmp_path / "out" / "scene.labels.tif"
    done = run("measure", image, mask, "--output", tmp_path / "measured", "--format", "table,parquet")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith("measured: scene.csv, scene.parquet\n")
    run("convert", stored, "--format", "table")
    scored = (tmp_path / "out" / "scene.csv").read_text().splitlines()  # outlines of other programs have no score
    assert scored[0].endswith(",score")
    without = [line.rpartition(",")[0] for line in scored]
    assert (tmp_path / "measured" / "scene.csv").read_text().splitlines() == without
    refused = run("measure", image, tmp_path / "none.tif", "--output", tmp_path / "other")
    assert refused.exit_code == 1
    assert "none.tif" in refused.stderr
