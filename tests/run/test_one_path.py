"""Every image is a slide: one tile in memory, one tile through the tile path, and repeated or concurrent runs."""

import gc
import threading

import numpy as np
import pandas as pd
import pytest
import tifffile

from bright import GREY, RGB, bright_config, bright_segmenter
from cytoseed.models.weights import Model
from cytoseed.run.api import segment
from cytoseed.run.tile import TileProcessor
from runs import run
from scenes import contents

TARGETS = ("nuclei", "cells")
PAIRS = Model(bright_config(1, TARGETS), bright_segmenter(1, TARGETS))
TILES = {"tile_size_px": 128}
SIZES = {"one tile": {}, "many tiles": TILES}


@pytest.fixture
def pixels(path):
    return tifffile.imread(path)


def assert_equal_results(one, other):
    np.testing.assert_array_equal(one.labels, other.labels)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)
    for name in ("count", "shape", "targets", "channel_names", "pixel_size_um", "source", "stains", "failed"):
        assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize(
    ("model", "dtype", "settings"),
    [
        (GREY, np.uint8, {}),
        (GREY, np.float32, {"tta": True}),
        (GREY, np.uint16, {"pixel_size_um": 0.8}),
        (GREY, np.float32, {"pixel_size_um": 0.35}),
        (GREY, np.uint16, {"diameter_px": 25.0, "min_size_px": 1}),
        (RGB, np.uint8, {}),
        (RGB, np.uint8, {"stain": "haematoxylin", "pixel_size_um": 0.4}),
        (PAIRS, np.uint16, {"pixel_size_um": 0.4}),
    ],
    ids=["grey", "tta", "enlarged", "shrunk", "diameter", "colour", "stain", "pairs"],
)
def test_one_tile_through_the_tile_path_equals_the_shortcut(pixels, model, dtype, settings):
    """Labels, ids and every number of the table are equal, not only the objects."""
    image = pixels.astype(dtype) * dtype(1 if dtype == np.uint8 else 3)
    if model is RGB:
        image = np.stack([image // 2, image, image // 3], -1)
    if "stain" in settings:  # discs of haematoxylin
        absorbed = pixels[..., None] / 150 * np.array([0.65, 0.7, 0.29])
        image = np.rint(255 * np.exp(-absorbed)).astype(np.uint8)
    shortcut = segment(image, model, **settings)
    one_tile = segment(image, model, tile_size_px=1024, skip_background=False, **settings)
    assert "tile_size_px" not in shortcut.settings
    assert one_tile.settings["tile_size_px"] == 1024
    assert shortcut.count > (0 if "stain" in settings else 30)
    assert_equal_results(one_tile, shortcut)


@pytest.mark.parametrize("formats", [("labels", "table", "objects"), ("table",)], ids=["stored", "not stored"])
@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
def test_a_second_call_does_nothing_and_returns_an_equal_result(path, tmp_path, monkeypatch, settings, formats):
    output = tmp_path / "out"
    first = segment(path, GREY, output=output, formats=formats, **settings)
    before = {name: (output / name).stat().st_mtime_ns for name in contents(output)}
    if "objects" in formats:
        monkeypatch.setattr(TileProcessor, "read", lambda *_: pytest.fail("read the image again"))
    second = segment(path, GREY, output=output, formats=formats, **settings)
    assert first.count > 50
    assert_equal_results(second, first)
    assert (dict(second.settings), dict(second.input)) == (dict(first.settings), dict(first.input))
    assert second.fingerprint == first.fingerprint
    assert {name: (output / name).stat().st_mtime_ns for name in contents(output)} == before


def test_an_image_without_objects_is_segmented_once(tmp_path, monkeypatch):
    monkeypatch.setattr("cytoseed.run.api.run_in_memory", lambda *_: pytest.fail("segmented again"))
    assert segment(np.zeros((40, 50), np.uint8), GREY, output=tmp_path, formats=["table"]).count == 0


@pytest.mark.parametrize("settings", SIZES.values(), ids=SIZES)
def test_a_result_in_memory_saves_the_files_of_a_run_with_an_output(path, tmp_path, settings):
    formats = ("labels", "table", "geojson", "overlay", "objects")
    segment(path, GREY, output=tmp_path / "run", formats=formats, **settings)
    segment(path, GREY, **settings).save(tmp_path / "saved", formats)
    assert contents(tmp_path / "saved") == contents(tmp_path / "run")


def test_a_single_tile_replaces_a_tiled_run_without_leaving_its_tiles(path, tmp_path):
    output = tmp_path / "out"
    segment(path, GREY, output=output, formats=["labels", "table"], **TILES)
    assert (output / "scene.cytoseed").is_dir()
    with pytest.raises(FileExistsError, match="tile_size_px"):
        segment(path, GREY, output=output, formats=["table"], tile_size_px=256)
    segment(path, GREY, output=output, formats=["table"], existing="overwrite")
    segment(path, GREY, output=tmp_path / "fresh", formats=["table"])
    assert contents(output) == contents(tmp_path / "fresh")
    assert not (output / "scene.cytoseed").exists()
    assert run(path, output, GREY, formats=["table"]).already_done


def test_a_tiled_run_replaces_a_single_tile(path, tmp_path):
    segment(path, GREY, output=tmp_path / "out", formats=["labels", "table"])
    segment(path, GREY, output=tmp_path / "out", formats=["table"], existing="overwrite", **TILES)
    segment(path, GREY, output=tmp_path / "fresh", formats=["table"], **TILES)
    assert contents(tmp_path / "out") == contents(tmp_path / "fresh")


def test_simultaneous_runs_never_mix_their_files(path, tmp_path):
    """Three runs with different settings into one folder: one writes its files, the others are refused."""
    thresholds, formats = (0.4, 0.5, 0.6), ["labels", "table", "geojson"]
    barrier, written, refused = threading.Barrier(len(thresholds)), [], []

    def compete(threshold):
        barrier.wait()
        try:
            segment(path, GREY, output=tmp_path / "out", formats=formats, seed_threshold=threshold)
            written.append(threshold)
        except (BlockingIOError, FileExistsError) as error:
            refused.append(error)

    threads = [threading.Thread(target=compete, args=(threshold,)) for threshold in thresholds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(written), len(refused)) == (1, 2)
    segment(path, GREY, output=tmp_path / "alone", formats=formats, seed_threshold=written[0])
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_tiled_result_in_memory_keeps_its_tiles_as_long_as_it_lives(pixels):
    result = segment(pixels, GREY, **TILES)
    folder = result.keep_alive.path
    assert folder.is_dir()
    gc.collect()
    assert result.labels.max() == len(result.table) == result.count > 50
    assert result.labels_in((100, 100, 60, 60)).any()
    del result
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize("place", ["survey", "stitch_tiles"])
def test_a_failed_run_in_memory_leaves_no_temporary_folder(pixels, tmp_path, monkeypatch, place):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail(*_):
        raise RuntimeError("stopped here")

    monkeypatch.setattr(f"cytoseed.run.slide.{place}", fail)
    with pytest.raises(RuntimeError, match="stopped here"):
        segment(pixels, GREY, **TILES)
    gc.collect()
    assert not list(tmp_path.glob("cytoseed-*"))
