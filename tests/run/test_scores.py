"""Scores: NumPy's evidence, one value on every path, objects below a limit left out, and a fit that is calibrated."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bright import bright_config, bright_segmenter
from cytoseed.core.score import object_evidence, scores_of
from cytoseed.learn.calibrate import Judged, calibration_error, fit_calibration, judge_objects, reliability
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import Model
from cytoseed.run.api import segment
from same import assert_same_objects

CALIBRATION = ((-8.0, 6.0, 9.0),)
MODEL = Model(dataclasses.replace(bright_config(), score_calibration=CALIBRATION), bright_segmenter())
TILES = {"tile_size_px": 128, "skip_background": False}


def scene(seed: int = 0) -> np.ndarray:
    """Discs of all brightnesses, so that the model is sure of some only, and one across a border of tiles."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:330, :290]
    image = np.full((330, 290), 10, np.uint8)
    for y, x in [(128, 60), (130, 132), *rng.uniform(0, (330, 290), (40, 2))]:
        image[(rows - y) ** 2 + (columns - x) ** 2 < rng.uniform(3, 8) ** 2] = rng.integers(140, 250)
    image[0, 0], image[-1, -1] = 0, 255
    return image


def test_evidence_is_the_highest_seed_and_the_mean_logit() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (7, 9)).astype(np.int32)
    labels[labels == 3] = 0
    seed_map, logits = rng.random((2, 7, 9)).astype(np.float32)
    logits[2, :4] = -np.inf  # a hole that was filled
    found = object_evidence(*map(torch.from_numpy, (labels, seed_map, logits)), 4).numpy()
    for number in (1, 2, 4):
        own = labels == number
        finite = own & np.isfinite(logits)
        np.testing.assert_allclose(found[number], [seed_map[own].max(), logits[finite].mean()], rtol=1e-6)
    scores = scores_of(torch.from_numpy(found), [0.5, 1, 2]).numpy()
    assert np.isnan(scores[[0, 3]]).all()
    assert scores[1] == pytest.approx(1 / (1 + np.exp(-(0.5 + found[1, 0] + 2 * found[1, 1]))), abs=1e-4)


@pytest.mark.parametrize("settings", [{"pixel_size_um": 0.9}, {"pixel_size_um": 0.6}, {"expand_um": 3}])
def test_tiles_have_the_scores_of_one_pass(settings: dict[str, float]) -> None:
    given = {"pixel_size_um": 0.5, **settings}
    whole, tiles = segment(scene(), MODEL, **given), segment(scene(), MODEL, **given, **TILES)
    planes = [each.labels.reshape(-1, *each.shape[1:]) for each in (whole, tiles)]
    number = np.zeros(tiles.count + 1, np.int64)
    number[planes[1]] = planes[0]
    key = ["target", "id"] if "target" in whole.table else ["id"]
    once = whole.table.set_index(key)["score"]
    parts = tiles.table.assign(id=number[tiles.table["id"]]).set_index(key)["score"]
    pd.testing.assert_series_equal(parts.sort_index(), once.sort_index(), atol=1e-4)
    assert once.between(0, 1).all()
    assert once.max() - once.min() > 0.3
    if "target" in whole.table:
        assert (once["cells"] == once["nuclei"]).all(), "a grown cell has the score of its nucleus"


@pytest.mark.parametrize("settings", [{}, {"expand_um": 3}, TILES])
def test_objects_of_a_lower_score_are_left_out(settings: dict[str, float], tmp_path: Path) -> None:
    image = scene(1)
    every = segment(image, MODEL, pixel_size_um=0.5, **settings)
    sure = segment(image, MODEL, pixel_size_um=0.5, min_score=0.6, **settings)
    table = every.table
    kept = table.loc[table["score"] >= 0.6, "id"].unique()
    assert 5 < len(kept) == sure.count < every.count
    nuclei = [each.labels if each.labels.ndim == 2 else each.labels[0] for each in (every, sure)]
    assert_same_objects(np.where(np.isin(nuclei[0], kept), nuclei[0], 0), nuclei[1])
    assert (sure.settings["min_score"], "min_score" in every.settings) == (0.6, False)
    (path, *_) = sure.save(tmp_path, ["geojson", "parquet"])
    rows = pd.read_parquet(tmp_path / "array.parquet")
    assert rows["score"].min() >= 0.6
    numbers = [each["properties"]["measurements"] for each in json.loads(path.read_text())["features"]]
    name = "Nucleus: score" if "expand_um" in settings else "score"
    assert min(each[name] for each in numbers) == rows["score"].min()


def test_a_fit_is_calibrated_and_a_made_truth_is_found() -> None:
    rng = np.random.default_rng(2)
    evidence = np.column_stack([rng.uniform(0.5, 1, 20_000), rng.normal(2, 1, 20_000)])
    chance = 1 / (1 + np.exp(-(-4 + 2 * evidence[:, 0] + 1.5 * evidence[:, 1])))
    judged = Judged(evidence, rng.random(len(chance)) < chance)
    calibration = fit_calibration(judged)
    np.testing.assert_allclose(calibration, [-4, 2, 1.5], atol=0.35)
    bins = reliability(judged.scores(calibration), judged.is_right)
    assert sum(each.objects for each in bins) == 20_000
    assert calibration_error(bins) < 0.02
    assert calibration_error(reliability(judged.scores((0, 0, 1)), judged.is_right)) > 0.05, "not calibrated"
    with pytest.raises(ValueError, match="all right or all wrong"):
        fit_calibration(Judged(evidence, np.ones(20_000, bool)))


def test_objects_are_judged_by_their_masks(tmp_path: Path) -> None:
    import imagecodecs

    image = scene(3)
    labels = segment(image, MODEL, pixel_size_um=0.5).labels
    wrong = labels[128, 60]
    mask = np.where(labels == wrong, 0, labels).astype(np.uint16)
    for name, pixels in {"image": image, "mask": mask}.items():
        (tmp_path / f"{name}.png").write_bytes(imagecodecs.png_encode(pixels))
    sample = Sample("a", "a", "grey", "val", tmp_path / "image.png", tmp_path / "mask.png", 0.5)
    judged = judge_objects(MODEL, [sample], "cpu")
    assert np.flatnonzero(~judged.is_right).tolist() == [wrong - 1]
    table = segment(image, MODEL, pixel_size_um=0.5).table
    np.testing.assert_array_equal(judged.scores(CALIBRATION[0]), table["score"])
