"""Trainings of a few steps on three small images: what they do and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from unittest.mock import Mock

import numpy as np
import pytest
import tifffile
import torch
from tiny_training import CONFIG, MODEL, logged, stage

from cytoseed.learn.evaluate import evaluate_model
from cytoseed.learn.train import train
from cytoseed.learn.train_log import TrainLog
from cytoseed.models.weights import load_model
from cytoseed.run.api import segment
from cytoseed.settings import DatasetNote, SegmentOptions


def test_the_log_holds_losses_and_figures(undisturbed):
    lines = logged(undisturbed)
    losses = [line for line in lines if "loss" in line]
    figures = [line for line in lines if "f1_mean" in line]
    assert [line["step"] for line in losses] == [2, 4, 6, 8]
    assert [line["step"] for line in figures] == [3, 6, 8]
    for line in losses:
        assert line["loss"] == pytest.approx(line["seed"] + 1.5 * line["instance"], rel=1e-5)
        assert line["rate"] <= CONFIG.learning_rate
    assert all(set(line) == {"step", "f1", "f1_mean", "aji", "discs fluorescence"} for line in figures)


def test_the_best_step_is_the_one_with_the_best_figure(samples, undisturbed):
    done = train(samples, MODEL, CONFIG, undisturbed, "cpu", resume=True)
    figures = {line["step"]: line["f1_mean"] for line in logged(undisturbed) if "f1_mean" in line}
    assert done.best_f1_mean == max(figures.values()) == done.after[-1].f1_mean
    assert done.before == ()
    assert figures[done.best_step] == max(figures.values())
    config = json.loads((undisturbed / "best" / "config.json").read_text())
    assert stage(undisturbed / "best")["step"] == done.best_step
    assert stage(undisturbed / "last")["step"] == 8
    assert config["figures"]["val"]["f1_mean"] == figures[done.best_step]


@pytest.mark.parametrize("name", ["best", "last"])
def test_its_models_load_and_segment(samples, undisturbed, name):
    model = load_model(undisturbed / name)
    assert stage(undisturbed / name)["steps"] == 8
    assert stage(undisturbed / name)["device"] == "cpu"
    assert model.config.trained_on == (DatasetNote("discs", "not stated", images=2),)
    labels = segment(samples.val[0].image_path, model, device="cpu").labels
    assert labels.shape == (48, 48)
    assert labels.dtype == np.int32


def test_the_loss_falls(samples, tmp_path):
    config = dataclasses.replace(CONFIG, pretrain_steps=0, learning_rate=5e-3, optimizer="adam", augment="minimal")
    seen = []
    train(samples, MODEL, config, tmp_path / "out", "cpu", progress=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(2, 8), (4, 8), (6, 8), (8, 8)]
    assert np.isnan(seen[0].best_f1_mean)
    assert 0 <= seen[2].best_f1_mean <= 1
    losses = [line["seed"] for line in logged(tmp_path / "out") if "seed" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_both_splits_are_needed(samples, tmp_path):
    for given, message in (
        (samples._replace(train=()), "no samples with split 'train'"),
        (samples._replace(val=()), "no samples with split 'val'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(given, MODEL, CONFIG, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")
def test_masks_without_any_object_are_refused(samples, tmp_path):
    tifffile.imwrite(tmp_path / "empty.tif", np.zeros((48, 48), np.uint8))
    empty = tuple(dataclasses.replace(one, mask_path=tmp_path / "empty.tif") for one in samples.train)
    with pytest.raises(ValueError, match="the masks to train on hold no objects; outline the nuclei"):
        train(samples._replace(train=empty), MODEL, CONFIG, tmp_path / "out", "cpu")


def test_what_is_validated_is_what_is_saved(samples, undisturbed):
    """Weights are kept in half precision, and scored so."""
    figures = evaluate_model(load_model(undisturbed / "last"), samples.val, SegmentOptions(device="cpu")).accuracies
    assert figures[-1].f1_mean == logged(undisturbed)[-1]["f1_mean"]


@pytest.mark.parametrize("decay", [0.0, 0.998])
def test_the_average_follows_the_weights(samples, tmp_path, decay):
    train(samples, MODEL, dataclasses.replace(CONFIG, steps=3, average_decay=decay), tmp_path / "out", "cpu")
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    same = [torch.equal(state["average"][name], value) for name, value in state["model"].items()]
    assert all(same) == (decay == 0)
    counts = [value for name, value in state["average"].items() if name.endswith("num_batches_tracked")]
    assert {count.item() for count in counts} == {3}


@pytest.mark.parametrize(
    "given",
    [
        {"optimizer": "adam", "augment": "minimal"},
        {"network": "paper", "precision": "bfloat16"},
        {"synthetic_stain_share": 1.0, "balance": "image", "pretrain_steps": 0, "window_px": 64},
    ],
    ids=str,
)
def test_every_kind_of_training_runs(samples, tmp_path, given):
    model = dataclasses.replace(MODEL, network=given.get("network", "lite"))
    settings = {name: value for name, value in given.items() if name != "network"}
    train(samples, model, dataclasses.replace(CONFIG, steps=2, **settings), tmp_path / "out", "cpu")
    assert np.isfinite(logged(tmp_path / "out")[0]["loss"])


def test_tensorboard_sees_the_losses(samples, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(samples, MODEL, dataclasses.replace(CONFIG, steps=2), tmp_path / "out", "cpu")
    assert len(list((tmp_path / "out").glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(tmp_path / "out")).Reload()
    (point,) = events.Scalars("loss")
    assert point.step == 2
    assert point.value == pytest.approx(logged(tmp_path / "out")[0]["loss"], rel=1e-5)


def test_a_full_disk_in_tensorboards_thread_is_an_error_of_the_log(tmp_path, monkeypatch):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer", reason="tensorboard is not installed")
    hook, log = threading.excepthook, TrainLog(tmp_path, 0)
    monkeypatch.setattr(writer.RecordWriter, "write", Mock(side_effect=OSError(28, "No space left on device")))

    def write_for_two_seconds():
        for _ in range(200):
            log.write({"step": 1, "loss": 0.5})
            time.sleep(0.01)

    with pytest.raises(OSError, match="No space left"):
        write_for_two_seconds()
    with pytest.raises(OSError, match="No space left"):
        log.close()
    assert threading.excepthook is hook


def test_training_does_without_tensorboard(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(samples, MODEL, dataclasses.replace(CONFIG, steps=1), tmp_path / "out", "cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best", "checkpoint.pt", "last", "log.jsonl"]
