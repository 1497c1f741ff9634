"""What napari is given without its being installed: the manifest, layers of result files, and sample images."""

import ast
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml

from cytoseed.images import open_image
from cytoseed.napari_plugin import reader, sample_data
from cytoseed.results import Result, layers

PACKAGE = Path(reader.__file__).parent


@pytest.fixture(scope="module")
def result():
    """One hundred squares in 200 x 210 px, of which each label is 3 more than the one before."""
    labels = np.zeros((200, 210), np.int32)
    for number in range(100):
        y, x = 20 * (number // 10) + 2, 20 * (number % 10) + 3
        labels[y : y + 9, x : x + 5 + number % 9] = 3 * number + 1
    image = np.stack([labels % 251, labels % 199]).astype(np.uint16)
    return Result.from_labels(labels, image, channel_names=("DAPI", "CD3"), pixel_size_um=0.5, source="a.tif")


def test_the_manifest_names_what_there_is():
    project = tomllib.loads((PACKAGE.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"cytoseed": "cytoseed.napari_plugin:napari.yaml"}
    manifest = yaml.safe_load((PACKAGE / "napari.yaml").read_text(encoding="utf-8"))
    found = manifest["contributions"]
    for command in found["commands"]:
        module, name = command["python_name"].split(":")
        text = (PACKAGE / f"{module.removeprefix('cytoseed.napari_plugin.')}.py").read_text(encoding="utf-8")
        assert name in [getattr(node, "name", "") for node in ast.parse(text).body]
    used = [each["command"] for kind in ("widgets", "readers", "sample_data") for each in found[kind]]
    assert sorted(used) == sorted(command["id"] for command in found["commands"])


@pytest.mark.parametrize("file", ["objects", "labels"])
def test_labels_read_from_a_file_have_their_table_and_scale(tmp_path, result, file):
    files = dict(
        zip(("objects", "labels", "table"), result.save(tmp_path, ["objects", "labels", "table"]), strict=False)
    )
    read = reader.get_reader(str(files[file]))
    [(labels, attributes, kind)] = read(str(files[file]))
    np.testing.assert_array_equal(labels, result.labels)
    assert (kind, tuple(attributes["scale"]), attributes["units"]) == ("labels", (0.5, 0.5), ("µm", "µm"))
    assert attributes["features"]["index"].tolist() == list(range(1, 300, 3))
    np.testing.assert_allclose(attributes["features"]["area_um2"], result.table["area_um2"], rtol=1e-6)


def test_outlines_lie_around_the_pixels_of_their_objects(tmp_path, result):
    path, *_ = result.save(tmp_path, ["geojson.gz"])
    [(rings, attributes, kind)] = reader.read([str(path)])
    assert (kind, len(rings)) == ("shapes", 100)
    rows, columns = np.nonzero(result.labels == 1)
    assert rings[0].min(axis=0).tolist() == [rows.min() - 0.5, columns.min() - 0.5]
    assert rings[0].max(axis=0).tolist() == [rows.max() + 0.5, columns.max() + 0.5]
    assert attributes["features"]["label"].tolist() == list(range(1, 300, 3))
    assert reader.get_reader("other.png") is None


def test_levels_of_a_large_image_are_read_where_they_are_shown(tmp_path, result, monkeypatch):
    pytest.importorskip("dask.array")
    monkeypatch.setattr(layers, "_WHOLE_PX", 0)
    monkeypatch.setattr(layers, "_CHUNK_PX", 64)
    monkeypatch.setattr("cytoseed.results.pyramid._SMALLEST_LARGE_PX", 60)
    path, *_ = result.save(tmp_path, ["objects"])
    [(levels, *_)] = reader.read(str(path))
    assert [level.shape for level in levels] == [(200, 210), (100, 105), (50, 53)]
    np.testing.assert_array_equal(levels[0][10:90, 20:100].compute(), result.labels[10:90, 20:100])
    np.testing.assert_array_equal(np.asarray(levels[1]), result.labels[1::2, 1::2])


def test_an_image_comes_in_its_own_levels_and_an_overview(tmp_path, monkeypatch):
    pytest.importorskip("dask.array")
    rng = np.random.default_rng(0)
    grey, colours = rng.integers(0, 900, (2, 200, 210), np.uint16), rng.integers(0, 256, (200, 210, 3), np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tif:
        tif.write(grey, tile=(64, 64), subifds=1, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3"]}})
        tif.write(grey[:, ::2, ::2], tile=(64, 64), subfiletype=1)
    tifffile.imwrite(tmp_path / "b.tif", colours, photometric="rgb")
    labels, shown = np.zeros((200, 210), np.int32), {}
    for name in ("a.ome.tif", "b.tif"):
        image = open_image(tmp_path / name)
        result = Result.from_labels(labels, image.read(), channel_names=image.channel_names, source=name)
        result = replace(result, find_image=lambda image=image: image)
        whole = layers.image_layers(result)
        with monkeypatch.context() as small:
            small.setattr(layers, "_WHOLE_PX", 0)
            small.setattr(layers, "_CHUNK_PX", 64)
            small.setattr(layers, "_OVERVIEW_PX", 128)
            shown[name] = list(zip(whole, layers.image_layers(result), strict=True))
    for (pixels, attributes, _), (levels, *_) in (pair for pairs in shown.values() for pair in pairs):
        np.testing.assert_array_equal(np.asarray(levels[0]), pixels)
        assert attributes["name"] in ("DAPI", "CD3", "b.tif")
        assert levels[1].shape[:2] == (100, 105)
    np.testing.assert_array_equal(np.asarray(shown["a.ome.tif"][1][1][0][1]), grey[1, ::2, ::2])
    np.testing.assert_array_equal(shown["b.tif"][0][0][0], colours)
    np.testing.assert_allclose(shown["b.tif"][0][1][0][1][0, 0], colours[:2, :2].mean((0, 1)), atol=0.5)


def test_sample_images_have_a_layer_per_channel_and_their_scale():
    [(section, attributes, _)] = sample_data.section()
    assert (section.shape, "scale" in attributes) == ((512, 512, 3), False)
    drawn = sample_data.multiplex()
    assert [each["name"] for _, each, _ in drawn] == ["DAPI", "CD45", "PanCK"]
    assert {tuple(each["scale"]) for _, each, _ in [*drawn, *sample_data.fluorescence()]} == {(0.5,) * 2, (0.325,) * 2}
