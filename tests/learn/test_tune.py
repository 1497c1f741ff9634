"""The search for thresholds: on figures that are known, and through a model whose objects are."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from bright import bright_config, bright_segmenter
from cytoseed.core.model import Thresholds
from cytoseed.learn import tune as tuning
from cytoseed.learn.evaluate import accuracies_from_json, evaluate_model
from cytoseed.learn.samples import find_samples
from cytoseed.learn.tune import LEAST_GAIN, search, tune
from cytoseed.models.weights import Model, load_model, read_config, save_model

START = Thresholds(4, 0.5, 0.0, 0.5, 10)


def test_the_search_climbs_to_the_top():
    """Falls off with the distance from (3, 0.3, 0.75, 0.4, 0)."""

    def figure(t):
        far = abs(t.peak_radius_px - 3) / 10 + abs(t.seed_threshold - 0.3) + abs(t.mask_threshold - 0.75) / 4
        return 1 - (far + abs(t.agreement_iou - 0.4) + t.min_size_px / 100) / 4

    best = search(START, figure)
    assert best == Thresholds(3, 0.3, 0.75, 0.4, 0)


def test_gains_that_are_too_small_change_nothing():
    assert search(START, lambda _: 0.5) == START
    assert search(START, lambda t: 0.5 if t == START else 0.5 + 0.9 * LEAST_GAIN) == START


def test_of_equally_good_values_the_nearest_is_taken():
    best = search(START, lambda t: float(t.seed_threshold > 0.5) + float(t.peak_radius_px != 4))
    assert best == START._replace(seed_threshold=0.55, peak_radius_px=3)


@given(st.randoms(use_true_random=False))
def test_the_search_is_never_worse_and_always_ends(random):
    figures = {}

    def figure(t):
        return figures.setdefault(t, random.random())

    best = search(START, figure)
    assert best == START or figures[best] >= figures[START] + LEAST_GAIN
    replace(bright_config(), **best._asdict())  # within the range of settings


@pytest.fixture
def data(tmp_path):
    """Two images of bright nuclei (the masks) and crumbs of 16 and 12 px that are none; one at 0.25 µm a pixel."""
    lines = ["dataset,stem,split,modality,pixel_size_um"]
    for stem, size, crumb in (("a", "", 4), ("b", "0.25", 8)):
        side = 2 * crumb
        mask = np.zeros((8 * side, 10 * side), np.uint16)
        for number in range(3):
            mask[side : 3 * side, side + 3 * side * number : 3 * side + 3 * side * number] = number + 1
        image = 200 * (mask > 0).astype(np.uint8)
        for row in (4, 6):
            for column in range(3):
                image[row * side : row * side + crumb, column * 3 * side : column * 3 * side + crumb] = 180
        for kind, pixels in (("images", image), ("masks", mask)):
            (tmp_path / "data" / "cells" / kind).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(tmp_path / "data" / "cells" / kind / f"{stem}.tif", pixels)
        lines.append(f"cells,{stem},val,fluorescence,{size}")
    (tmp_path / "data" / "samples.csv").write_text("\n".join(lines))
    return tmp_path / "data"


@pytest.fixture
def model():
    return Model(bright_config(), bright_segmenter())


def test_crumbs_are_left_out_after_tuning(model, data, tmp_path):
    samples = find_samples(data)
    calls = []
    tuned = tune(model, samples, tmp_path / "out" / "better", "cpu", calls.append)
    assert tuned.folder == tmp_path / "out" / "better"
    assert tuned.before[-1].f1 == pytest.approx(2 * 6 / (6 + 6 + 12), abs=1e-4)
    assert tuned.after[-1].f1 == 1
    assert tuned.thresholds.min_size_px > 16
    assert tuned.thresholds._replace(min_size_px=4) == Thresholds(4, 0.5, 0.0, 0.5, 4)  # nothing else helps
    assert (calls[0].images_done, calls[1].images_done, calls[1].images, calls[1].tried) == (1, 2, 2, 0)
    assert math.isnan(calls[1].best_f1_mean)
    assert (calls[2].tried, calls[-1].best_f1_mean) == (1, pytest.approx(tuned.after[-1].f1_mean, abs=1e-4))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["better"]  # the fields are gone


@pytest.mark.parametrize("targets", [("nuclei",), ("nuclei", "cells")])
def test_the_figures_are_those_of_segment(data, tmp_path, targets):
    """Of two targets, one without masks is not scored."""
    model, samples = Model(bright_config(targets=targets), bright_segmenter(targets=targets)), find_samples(data)
    tuned = tune(model, samples, tmp_path / "better", "cpu")
    assert tuned.before == evaluate_model(model, samples).accuracies
    copy = load_model(tuned.folder)
    assert tuned.after == evaluate_model(copy, samples).accuracies
    assert accuracies_from_json(copy.config.figures["val"]) == tuned.after
    assert tuned.after[-1].f1 == 1


def test_the_copy_says_how_it_came_about(data, tmp_path):
    config = replace(bright_config(), figures={"test": {"f1": 0.5}}, recipe={"stages": [{"steps": 3}]})
    tuned = tune(Model(config, bright_segmenter()), find_samples(data), tmp_path / "better", "cpu")
    copy = read_config(tuned.folder)
    assert copy.name == "better"
    assert list(copy.figures) == ["val"]
    assert copy.figures["val"]["f1_mean"] == tuned.after[-1].f1_mean
    assert copy.figures["val"]["cells fluorescence"]["f1"] == tuned.after[0].f1
    first, last = copy.recipe["stages"]
    assert first == {"steps": 3}
    assert (last["tuned_from"], last["images"], last["datasets"]) == ("bright 0.1.0", 2, ["cells"])
    assert last["thresholds_before"]["min_size_px"] == 4
    changed = {"name", "version", "min_size_px", "figures", "recipe", "sha256"}
    same = {name: value for name, value in copy.to_dict().items() if name not in changed}
    assert same == {name: value for name, value in config.to_dict().items() if name not in changed}


@pytest.mark.parametrize("half", [True, False])
def test_weights_stay_the_same_to_the_bit(data, tmp_path, half):
    segmenter = bright_segmenter()
    with torch.no_grad():
        for tensor in segmenter.network.parameters():
            tensor.add_(1e-9 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))
    save_model(segmenter, bright_config(), tmp_path / "start", half=half)
    tune(load_model(tmp_path / "start"), find_samples(data), tmp_path / "better", "cpu")
    files = [tmp_path / folder / "model.safetensors" for folder in ("start", "better")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")
def test_samples_that_say_nothing_are_refused(model, data, tmp_path):
    with pytest.raises(ValueError, match="no true object"):
        tune(model, (), tmp_path / "better")
    for stem in "ab":
        path = data / "cells" / "masks" / f"{stem}.tif"
        tifffile.imwrite(path, np.zeros_like(tifffile.imread(path)))
    with pytest.raises(ValueError, match="no true object"):
        tune(model, find_samples(data), tmp_path / "better", "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_sample_that_cannot_be_segmented_is_named(model, data, tmp_path):
    image = data / "cells" / "images" / "b.tif"
    tifffile.imwrite(image, np.stack([tifffile.imread(image)] * 2), metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match=r"b: .*2 channels"):
        tune(model, find_samples(data), tmp_path / "better", "cpu")


@pytest.fixture
def command(run, data, tmp_path):
    model = save_model(bright_segmenter(), bright_config(), tmp_path / "models" / "grey")
    flags = ["--model", model, "--data", data, "--output", tmp_path / "better", "--device", "cpu"]
    return lambda *more: run("tune", *flags, *more)


@pytest.mark.parametrize("error", [OSError("4096 requested and 0 written"), OSError(28, os.strerror(28))])
def test_a_full_disk_is_reported_with_the_remedy(model, data, tmp_path, monkeypatch, error):
    monkeypatch.setattr(np, "save", Mock(side_effect=error))
    with pytest.raises(OSError, match=r"better: no room left on its disk; make room, or give fewer images"):
        tune(model, find_samples(data), tmp_path / "better", "cpu")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_command(command, tmp_path):
    done = command()
    assert done.exit_code == 0, done.output
    assert "2 images of split val" in done.stdout
    shown = [line.split() for line in done.stdout.splitlines()]
    (sizes,) = [line for line in shown if line[:1] == ["min_size_px"]]
    assert (sizes[1], sizes[3]) == ("4", "changed")
    (figures,) = [line for line in shown if line[:3] == ["all:", "mean", "F1"]]
    assert float(figures[4]) > float(figures[3])
    assert json.loads((tmp_path / "better" / "config.json").read_text())["min_size_px"] == int(sizes[2])
    again = command()
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr
    assert command("--overwrite").exit_code == 0


def test_the_command_takes_all_images_where_none_is_marked(command, data):
    table = data / "samples.csv"
    table.write_text(table.read_text().replace(",val,", ",test,"))
    wrong = command()
    assert wrong.exit_code == 2
    assert "no sample of split 'val', only of test" in wrong.stderr
    table.write_text(table.read_text().replace(",test,", ",,"))
    done = command()
    assert done.exit_code == 0
    assert "in the data, since none is marked as val" in done.stdout


def test_thresholds_that_cost_f1_count_for_nothing(monkeypatch, model, tmp_path):
    own = Thresholds(**{name: getattr(model.config, name) for name in Thresholds._fields})

    def evaluate(_, thresholds):
        changed = thresholds != own
        return SimpleNamespace(
            pooled=SimpleNamespace(f1=0.8 - 0.01 * changed, f1_mean=0.7 + 0.1 * changed), accuracies=()
        )

    monkeypatch.setattr(tuning._Trials, "run_network", lambda *_: None)
    monkeypatch.setattr(tuning._Trials, "evaluate", evaluate)
    assert tune(model, (), tmp_path / "out", "cpu").thresholds == own
