"""Formats written from a stored result equal those that segmenting writes."""

import json
import os
import shutil

import numpy as np
import pytest
import tifffile

import cytoseed
from bright import GREY
from cytoseed.images import open_image
from cytoseed.results import WRITERS, open_result
from cytoseed.run.api import segment
from runs import run

FORMATS = [name for name in WRITERS if name not in ("spatialdata", "anndata")]  # slow to import, and tested elsewhere


def files_of(folder):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if ".cytoseed/" not in str(path)}


def save_whole(path, folder, formats):
    segment(path, GREY).save(folder, formats)


def save_tiles(path, folder, formats):
    run(path, folder, GREY, formats=formats, tile_size_px=128)


SAVES = {"whole": save_whole, "tiles": save_tiles}


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_formats_written_later_have_the_same_bytes(path, tmp_path, save):
    save(path, tmp_path / "at once", FORMATS)
    save(path, tmp_path / "later", ["objects"])
    with cytoseed.open_result(tmp_path / "later" / "scene.objects.zip") as result:
        assert result.count > 20
        result.save(tmp_path / "later", FORMATS)
    assert files_of(tmp_path / "later") == files_of(tmp_path / "at once")
    if save is save_tiles:
        assert run(path, tmp_path / "later", GREY, formats=FORMATS, tile_size_px=128).already_done


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_the_image_is_found_at_its_path_or_beside_the_result(path, tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save(os.path.relpath(path), tmp_path / "out", ["objects"])
    monkeypatch.chdir("/")
    stored = tmp_path / "out" / "scene.objects.zip"
    with open_result(stored) as result:
        picture, labels = result.overview(4096)
        np.testing.assert_array_equal(picture, open_image(path).read())
        assert len(np.unique(labels)) == result.count + 1
    os.replace(path, tmp_path / "out" / "scene.tif")
    with open_result(stored) as result:
        np.testing.assert_array_equal(result.overview(4096)[0], picture)
    os.replace(tmp_path / "out" / "scene.tif", tmp_path / "other name.tif")
    with open_result(stored) as result:
        with pytest.raises(FileNotFoundError, match=r"objects\.zip.*not at .*scene\.tif or .*scene\.tif.*--image"):
            result.save(tmp_path / "out", ["overlay", "table"])
        result.save(tmp_path / "out", ["table"])
    for given in (tmp_path / "other name.tif", open_image(tmp_path / "other name.tif"), picture):
        with open_result(stored, given) as result:
            np.testing.assert_array_equal(result.overview(4096)[0], picture)


@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_another_image_of_the_same_name_is_refused(path, tmp_path, save):
    save(path, tmp_path / "out", ["objects"])
    moved = tmp_path / "moved" / "scene.tif"
    moved.parent.mkdir()
    shutil.copy(path, moved)
    tifffile.imwrite(path, open_image(path).read()[0] + 1, tile=(64, 64))
    stored = tmp_path / "out" / "scene.objects.zip"
    with open_result(stored) as result, pytest.raises(FileNotFoundError, match="as it was then"):
        result.overview(4096)
    tifffile.imwrite(path, np.zeros((9, 9), np.uint8))
    with open_result(stored) as result, pytest.raises(FileNotFoundError, match="as it was then"):
        result.overview(4096)
    wrong = r"scene\.tif: has shape \(1, 9, 9\).*image of \(1, 500, 420\)"
    with open_result(stored, path) as result, pytest.raises(ValueError, match=wrong):
        result.overview(4096)
    with open_result(stored, moved) as result:
        assert result.overview(4096)[0].shape == (1, 500, 420)


def test_a_result_of_an_array_needs_the_array_for_its_overlay(path, tmp_path):
    pixels = open_image(path).read()[0]
    segment(pixels, GREY).save(tmp_path, ["objects", "overlay"])
    before = (tmp_path / "array.overlay.png").read_bytes()
    lacks = pytest.raises(FileNotFoundError, match="which is an array, in no file")
    with open_result(tmp_path / "array.objects.zip") as result, lacks:
        result.save(tmp_path / "later", ["overlay"])
    with open_result(tmp_path / "array.objects.zip", pixels) as result:
        result.save(tmp_path / "later", ["overlay"])
    assert (tmp_path / "later" / "array.overlay.png").read_bytes() == before


def test_a_result_with_failed_tiles_can_be_converted(path, tmp_path, monkeypatch):
    from cytoseed.run.tile import TileProcessor

    read = TileProcessor.read

    def fail(maker, tile):
        if tile.number == 2:
            raise ValueError("unreadable")
        return read(maker, tile)

    monkeypatch.setattr(TileProcessor, "read", fail)
    run(path, tmp_path / "out", GREY, formats=["objects", "labels"], tile_size_px=128)
    with open_result(tmp_path / "out" / "scene.objects.zip") as result:
        assert len(result.failed) == 1
        result.save(tmp_path / "out", ["table"])
    record = json.loads((tmp_path / "out" / "scene.cytoseed.json").read_text())
    assert record["files"] == ["scene.csv", "scene.labels.tif", "scene.objects.zip"]
    monkeypatch.undo()
    run(path, tmp_path / "out", GREY, formats=["objects"], existing="resume", tile_size_px=128)
    assert not (tmp_path / "out" / "scene.csv").exists(), "it lacks the objects of the failed tile"
    with open_result(tmp_path / "out" / "scene.objects.zip") as result:
        assert not result.failed
