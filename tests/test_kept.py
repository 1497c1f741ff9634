"""Results and a model that cytoseed 0.1 wrote are still read, and a segmentation with that model gives its objects.

`tests/kept/0.1` was written by cytoseed 0.1.0 and never changes: `stained` in one pass with the bundled model `nuclei`
and `--pixel-size 0.5`, `slide` with `--model model --tile-size 128`. Both images are drawn. The kept model finds bright
blobs: nuclei in the first channel, cells in the second. Its weights are nearly all 0, and kept packed by gzip.
"""

import dataclasses
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

import cytoseed
from same import assert_same_objects

KEPT = Path(__file__).parent / "kept" / "0.1"
STEMS = {"stained": 16, "slide": 25}  # and how many objects they have


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    packed = (KEPT / "model" / "model.safetensors.gz").read_bytes()
    (folder / "model.safetensors").write_bytes(gzip.decompress(packed))
    (folder / "config.json").write_bytes((KEPT / "model" / "config.json").read_bytes())
    return folder


def run(*arguments):
    subprocess.run([sys.executable, "-m", "cytoseed", *map(str, arguments)], check=True, capture_output=True)


def features(path):
    """Outlines and properties by id, and the measurements as a table."""
    found = json.loads(path.read_text(encoding="utf-8"))["features"]
    measured = pd.DataFrame([feature["properties"].pop("measurements") for feature in found])
    return {feature["id"]: feature for feature in found}, measured


@pytest.mark.parametrize("stem", STEMS)
def test_a_kept_result_opens_and_convert_gives_the_files_that_were_kept(stem, tmp_path):
    run("convert", KEPT / f"{stem}.objects.zip", "--format", "labels,geojson,table", "--output", tmp_path)
    labels, kept = (tifffile.imread(folder / f"{stem}.labels.tif") for folder in (tmp_path, KEPT))
    assert labels.dtype == kept.dtype
    np.testing.assert_array_equal(labels, kept)
    table, kept = (pd.read_csv(folder / f"{stem}.csv", float_precision="round_trip") for folder in (tmp_path, KEPT))
    pd.testing.assert_frame_equal(table, kept, rtol=1e-9)
    (outlines, measured), (kept, kept_measured) = (features(folder / f"{stem}.geojson") for folder in (tmp_path, KEPT))
    assert outlines == kept
    pd.testing.assert_frame_equal(measured, kept_measured, rtol=1e-9)
    record = json.loads((KEPT / f"{stem}.cytoseed.json").read_text(encoding="utf-8"))
    with cytoseed.open_result(KEPT / f"{stem}.objects.zip") as result:
        assert result.count == STEMS[stem] == labels.max()
        assert result.pixel_size_um == record["settings"]["pixel_size_um"] == 0.5
        assert dict(result.settings) == record["settings"]


def test_the_kept_model_opens_and_has_the_same_keys(model_folder):
    model = cytoseed.load_model(model_folder)
    config = json.loads((KEPT / "model" / "config.json").read_text(encoding="utf-8"))
    read = json.loads(json.dumps(dataclasses.asdict(model.config)))
    assert {name: read[name] for name in config} == config
    shapes = {name: "x".join(map(str, t.shape)) or "scalar" for name, t in model.segmenter.state_dict().items()}
    kept = dict(line.split() for line in (KEPT / "model" / "weights.txt").read_text().splitlines())
    assert shapes == kept


def test_the_kept_model_finds_the_kept_objects(model_folder, tmp_path):
    run("segment", KEPT / "slide.ome.tif", "--model", model_folder, "--tile-size", 128, "--output", tmp_path)
    written = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert written == {path.name for path in KEPT.glob("slide.*")} - {"slide.ome.tif"}
    for plane, like in zip(*(tifffile.imread(folder / "slide.labels.tif") for folder in (tmp_path, KEPT)), strict=True):
        assert_same_objects(plane, like, iou=0.9)
    table, kept = (pd.read_csv(folder / "slide.csv") for folder in (tmp_path, KEPT))
    assert list(table.columns)[: len(kept.columns)] == list(kept.columns), "new columns come behind"
    records = (json.loads((folder / "slide.cytoseed.json").read_text(encoding="utf-8")) for folder in (tmp_path, KEPT))
    new, old = (record["settings"] for record in records)
    assert new == old
