"""`cytoseed segment`: what it writes, what it says, and its exit codes."""

import io
import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from rich.console import Console
from rich.file_proxy import FileProxy

import cytoseed
from cytoseed.cli import segment_images
from cytoseed.cli.console import print_error, print_note
from cytoseed.images import address, open_image
from cytoseed.paths import lock
from cytoseed.run import cluster
from cytoseed.run.executor import LocalExecutor
from scenes import RESULTS, names, write_image


def test_all_results_are_written_and_reported_in_a_line(segment, image, tmp_path):
    done = segment(image)
    assert done.exit_code == 0
    assert done.stdout.startswith("scene.tif: 2 nuclei in ")
    assert done.stdout.rstrip().endswith(f"-> {tmp_path / 'out'}: scene.csv, scene.overlay.png")
    assert names(tmp_path / "out") == sorted("scene" + ending for ending in RESULTS)
    assert tifffile.imread(tmp_path / "out" / "scene.labels.tif").max() == 2
    assert len(json.loads((tmp_path / "out" / "scene.geojson").read_text())["features"]) == 2


def write_positions(path, **positions):
    """Write an OME-TIFF of positions with so many bright boxes."""
    path.parent.mkdir(exist_ok=True)
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name, objects in positions.items():
            pixels = tifffile.imread(write_image(path.parent / "position.tif", objects, (120, 160)))
            size = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            writer.write(pixels, metadata={"axes": "YX", "Name": name, **size})
    (path.parent / "position.tif").unlink()
    return path


def test_every_position_of_a_file_has_results_of_its_own(segment, run, tmp_path):
    path = write_positions(tmp_path / "in" / "positions.ome.tif", a=1, b=2, c=3)
    chosen = segment(path, "--series", "b", "--tile-size", 128, "--format", "geojson")
    assert chosen.stdout.startswith("positions.ome.tif, b: 2 nuclei in ")
    again = segment(path, "--series", 1, "--tile-size", 128, "--format", "geojson")
    assert again.stdout == "positions.ome.tif, b: already there\n"
    done = segment(path, "--tile-size", 128, "--format", "geojson,objects")
    assert done.exit_code == 0, done.output
    counts, ids = {}, set()
    for name in "abc":
        features = json.loads((tmp_path / "out" / f"positions_{name}.geojson").read_text())["features"]
        counts[name] = len(features)
        ids |= {feature["id"] for feature in features}
        record = json.loads((tmp_path / "out" / f"positions_{name}.cytoseed.json").read_text())
        assert record["input"]["series"] == name
    assert counts == {"a": 1, "b": 2, "c": 3}
    assert len(ids) == 6
    assert cytoseed.segment(path, "grey", series="c").count == 3
    image = open_image(path, "c")  # as a worker opens it
    seen = cluster._image(address(image), image.series, image.full_canvas, cluster._identity(image))
    assert seen.series == "c"
    converted = run("convert", tmp_path / "out", "--format", "overlay")  # draws on the image of the same name
    assert converted.exit_code == 0, converted.output
    wrong = segment(path, "--series", "d")
    assert wrong.exit_code == 1
    assert "has no image 'd'; give a name or a number from 0 of: 0 a (160 x 120 px), 1 b" in wrong.stderr


def test_shards_of_a_position(segment, run, tmp_path):
    path = write_positions(tmp_path / "in" / "positions.ome.tif", a=1, b=2)
    for number in (1, 2):
        done = segment(path, "--series", "b", "--tile-size", 128, "--shard", f"{number}/2")
        assert done.exit_code == 0, done.output
    merged = run("merge", tmp_path / "out")
    assert merged.stdout.startswith("positions_b: 2 nuclei"), merged.output


def test_an_unknown_pixel_size_is_noted_on_stderr_and_once_for_many_images(segment, tmp_path):
    for name in "abcdefgh":
        write_image(tmp_path / "in" / f"{name}.tif")
    done = segment(tmp_path / "in")
    first, last = done.stderr.splitlines()
    assert first.startswith("note: a.tif: pixel size unknown")
    assert last == "note: the note on a.tif also applies to b.tif, c.tif, d.tif, e.tif, 3 more"
    assert "pixel size" not in done.stdout
    assert "pixel size" not in segment(tmp_path / "in" / "a.tif", "--pixel-size", 0.5, "--overwrite").stderr


def test_masks_beside_images_are_not_segmented_and_files_named_by_themselves_are(segment, tmp_path):
    for name in ("a.png", "a_masks.png", "b.tif", "b_cp_masks.png", "c_masks.tif"):
        write_image(tmp_path / "in" / name)
    done = segment(tmp_path / "in", "--format", "table")
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.png", "b.tif", "c_masks.tif", "3 images"]
    assert "a_masks.png: 2 nuclei" in segment(tmp_path / "in" / "a_masks.png", "--format", "table").stdout


def test_features_without_geometry_are_counted_in_a_note(segment, image, tmp_path):
    ring = [[0, 0], [80, 0], [80, 60], [0, 60], [0, 0]]
    features = [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}, {"geometry": None}]
    (tmp_path / "a.geojson").write_text(json.dumps(features), encoding="utf-16")
    done = segment(image, "--mask", tmp_path / "a.geojson", "--pixel-size", 0.5)
    assert done.stdout.startswith("scene.tif: 2 nuclei in ")
    assert done.stderr == f"note: {tmp_path / 'a.geojson'}: 1 of 2 features have no geometry and are left out\n"


@pytest.mark.parametrize("say", [print_error, print_note])
def test_what_is_said_passes_through_a_progress_bar(monkeypatch, say):
    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", FileProxy(Console(file=drawn), sys.__stderr__))
    say("a word")
    assert drawn.getvalue().endswith(": a word\n")


def test_a_different_result_is_kept_until_overwritten(segment, image, tmp_path):
    segment(image)
    labels = tmp_path / "out" / "scene.labels.tif"
    before = labels.read_bytes()
    refused = segment(image, "--min-size", 10_000)
    assert refused.exit_code == 1
    assert "settings.min_size_px: 4 -> 10000" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert labels.read_bytes() == before
    assert segment(image, "--min-size", 10_000, "--overwrite").exit_code == 0
    assert tifffile.imread(labels).max() == 0


def test_another_run_into_the_same_output_is_refused(segment, image, tmp_path, monkeypatch):
    output = tmp_path / "out" / "scene.cytoseed"
    message = r"scene\.cytoseed is being written to by another run .*process \d+.*or give another folder"
    ran = []
    whole = LocalExecutor.run_single

    def run_single(*arguments):
        ran.append(arguments)
        with ThreadPoolExecutor(1) as other, pytest.raises(BlockingIOError, match=message):
            other.submit(lock(output).__enter__).result()
        return whole(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LocalExecutor, "run_single", run_single)
        assert segment(image).exit_code == 0
    assert ran
    assert not output.exists()
    with ThreadPoolExecutor(1) as other:
        held = lock(output)
        other.submit(held.__enter__).result()
        for flags in ((), ("--min-size", 10_000), ("--overwrite",), ("--tile-size", 128)):
            refused = segment(image, *flags)
            assert refused.exit_code == 1
            assert re.search(message, refused.stderr)
        other.submit(held.__exit__, None, None, None).result()
    assert segment(image).stdout == "scene.tif: already there\n"


def test_a_folder_without_what_cytoseed_wrote(segment, tmp_path):
    for name in ("a.tif", "a.labels.tif", ".hidden.tif"):
        write_image(tmp_path / "in" / name)
    write_image(tmp_path / "in" / "b.tif", 1)
    (tmp_path / "in" / "a.overlay.png").write_bytes(b"")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    done = segment(tmp_path / "in")
    assert done.exit_code == 0
    first, second, last = done.stdout.splitlines()
    assert [line.split(" in ")[0] for line in (first, second)] == ["a.tif: 2 nuclei", "b.tif: 1 nucleus"]
    assert re.fullmatch(r"2 images: 3 objects found in \d+ s", last)


def test_one_bad_file_does_not_stop_the_others(segment, tmp_path):
    write_image(tmp_path / "in" / "a.tif")
    (tmp_path / "in" / "b.png").write_text("this is a text")
    write_image(tmp_path / "in" / "c.tif")
    done = segment(tmp_path / "in")
    assert done.exit_code == 1
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["a.tif", "c.tif", "3 images"]
    assert re.search(r"^3 images: 4 objects found in \d+ s; 1 of 3 failed: b.png$", done.stdout, re.MULTILINE)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "b.png" in errors[0]
    assert "Traceback" not in done.output


def test_a_name_that_is_too_long_for_results_is_found_before_the_work(segment, tmp_path, monkeypatch):
    long = write_image(tmp_path / "in" / f"{'y' * 241}.tif")
    assert segment(long).stdout.startswith(f"{long.name}: 2 nuclei")
    kept, longer = names(tmp_path / "out"), write_image(tmp_path / "in" / f"{'y' * 241}µ.tif")
    monkeypatch.setattr(LocalExecutor, "run_single", None)
    done = segment(longer, long, "--format", "table")
    assert done.exit_code == 1
    assert re.search(r"names of up to 257 bytes, and \S+ takes 255; give the image a shorter name", done.stderr)
    assert f"{long.name}: already there" in done.stdout
    assert names(tmp_path / "out") == kept


def test_a_broken_link_is_reported(segment, image, tmp_path):
    (image.parent / "broken.tif").symlink_to("unplugged.tif")
    for given in (image.parent, image.parent / "broken.tif"):
        done = segment(given, "--pixel-size", 0.5)
        assert done.exit_code == 1
        assert "broken.tif: is a link to 'unplugged.tif', which does not exist" in done.stderr
    assert (tmp_path / "out" / "scene.labels.tif").exists()


@pytest.mark.parametrize(
    ("pixels", "axes", "message"),
    [
        (np.zeros((4, 30, 30), np.uint8), "ZYX", "4 z planes"),
        (np.full((30, 30), np.nan, np.float32), "YX", "NaN"),
        (np.zeros((5, 30, 31), np.uint8), "CYX", "--channels"),
    ],
)
def test_a_bad_image_is_reported_in_one_line(segment, tmp_path, pixels, axes, message):
    tifffile.imwrite(tmp_path / "bad.tif", pixels, ome=True, metadata={"axes": axes})
    done = segment(tmp_path / "bad.tif", "--pixel-size", 0.5, model="colour")
    assert done.exit_code == 1
    assert done.stderr.startswith("error:")
    assert len(done.stderr.splitlines()) == 1
    assert "bad.tif" in done.stderr
    assert message in done.stderr
    assert names(tmp_path / "out") == []


def test_channels_by_name_and_number(segment, tmp_path):
    path = tmp_path / "multi.ome.tif"
    pixels = np.zeros((5, 60, 80), np.uint8)
    pixels[3, 10:30, 10:30] = 200
    channels = {"Name": ["a", "b", "c", "DAPI", "e"]}
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "CYX", "Channel": channels})
    assert segment(path, "--channels", "dapi").stdout.startswith("multi.ome.tif: 1 nucleus")
    assert segment(path, "--channels", "3").stdout.startswith("multi.ome.tif: already there")
    assert segment(path, "--channels", "0,1,3", "--overwrite", model="colour").exit_code == 0
    several = segment(path, "--channels", "0", "--channels", "b, 3", model="colour")
    assert several.stdout.startswith("multi.ome.tif: already there")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "labels,svg"], "format 'svg' is not known; the formats are "),
        (["--device", "abacus"], "device is 'abacus'; it must be one of auto, cpu, cuda, mps"),
        (["--pixel-size", "1", "--diameter", "17"], "each alone sets the scale"),
        (["--seed-threshold", "2"], "seed_threshold is 2.0; it must be from 0 to 1"),
        (["nowhere.tif"], "nowhere.tif"),
    ],
)
def test_a_misuse_is_reported_before_any_work(segment, image, tmp_path, arguments, message):
    done = segment(image, *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images(segment, tmp_path):
    done = segment(tmp_path)
    assert done.exit_code == 2
    assert "no image found" in done.stderr
    deeper = str(tmp_path / "**" / "*.tif")
    assert f"'{deeper}' also looks in the folders inside it" in done.stderr
    write_image(tmp_path / "inside" / "scene.tif")
    assert segment(deeper).stdout.startswith("scene.tif: 2 nuclei")


def test_results_that_would_collide(segment, image, tmp_path):
    done = segment(image, write_image(tmp_path / "other" / "scene.ome.tif"))
    assert done.exit_code == 2
    assert f"{image} and {tmp_path / 'other' / 'scene.ome.tif'} would both be written as 'scene'" in done.stderr
    assert f"'{tmp_path / 'other' / '*.tif'}'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(run, image):
    done = run("segment", image, "--model", "grey", "--output", image / "out")
    assert done.exit_code == 2
    assert "cannot be written to" in done.stderr


def test_an_interruption_leaves_nothing_half_written(segment, tmp_path, monkeypatch):
    first, second = (write_image(tmp_path / "in" / name) for name in ("a.tif", "b.tif"))
    whole = segment_images._Work._segment

    def interrupted(work, item):
        if item.label == second.name:
            raise KeyboardInterrupt
        return whole(work, item)

    monkeypatch.setattr(segment_images._Work, "_segment", interrupted)
    done = segment(first, second)
    assert done.exit_code == 130
    assert names(tmp_path / "out") == sorted("a" + ending for ending in RESULTS)
