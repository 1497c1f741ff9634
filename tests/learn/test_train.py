"""Trainings of a few steps on three small images: repeatable, resumable, and what they leave behind."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cytoseed.core.model import Segmenter
from cytoseed.learn import train as training
from cytoseed.learn.evaluate import evaluate_model
from cytoseed.learn.samples import Sample, TrainValSplit
from cytoseed.learn.train import TrainProgress, train
from cytoseed.models.weights import Model, load_model
from cytoseed.run.api import segment
from cytoseed.settings import DatasetNote, ModelConfig, SegmentOptions, TrainConfig

MODEL = ModelConfig("tiny", positional_dims=2, conditional_dims=1, classifier_widths=(3,))
CONFIG = TrainConfig(
    steps=8, pretrain_steps=2, batch_size=2, crop_px=32, validate_every=3, max_seeds=5, window_px=16, seed=3
)


class Killed(BaseException):
    """Stands for whatever ends a training from outside."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> TrainValSplit:
    """Two images to learn from and one to validate with: bright discs, 48 x 48."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    made = []
    for name, split in (("a", "train"), ("b", "train"), ("c", "val")):
        mask = np.zeros((48, 48), np.uint8)
        for number, (row, column) in enumerate([(10, 10), (12, 34), (34, 14), (36, 37)], start=1):
            mask[(rows - row) ** 2 + (columns - column) ** 2 <= rng.integers(20, 50)] = number
        pixels = np.where(mask > 0, 180, 40) + rng.integers(-20, 20, mask.shape)
        paths = folder / f"{name}.png", folder / f"{name}_masks.png"
        for path, values in zip(paths, (pixels, mask), strict=True):
            assert cv2.imwrite(str(path), values.astype(np.uint8))
        made.append(Sample(name, "discs", "fluorescence", split, *paths))
    return TrainValSplit(tuple(made[:2]), tuple(made[2:]))


@pytest.fixture(autouse=True)
def log_every_second_step(monkeypatch):
    monkeypatch.setattr(training, "_LOG_EVERY", 2)


@pytest.fixture(scope="module")
def undisturbed(samples, tmp_path_factory) -> Path:
    """The folder of a training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("trained") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_LOG_EVERY", 2)
        train(samples, MODEL, CONFIG, folder, "cpu")
    return folder


def stage(folder: Path) -> dict:
    """Settings of the last stage behind a saved model."""
    return json.loads((folder / "config.json").read_text())["recipe"]["stages"][-1]


def logged(folder: Path) -> list[dict]:
    """The log's lines without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("crops_per_second", "seconds")} for line in lines]


def flat(state, name="") -> dict:
    """Every leaf of a checkpoint by its path."""
    if isinstance(state, (dict, list, tuple)):
        pairs = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, part in pairs for path, leaf in flat(part, f"{name}/{key}").items()}
    return {name: state}


def assert_same_training(one: Path, two: Path) -> None:
    assert logged(one) == logged(two)
    first, second = (flat(torch.load(folder / "checkpoint.pt", weights_only=True)) for folder in (one, two))
    assert first.keys() == second.keys()
    for path, leaf in first.items():
        same = torch.equal(leaf, second[path]) if isinstance(leaf, torch.Tensor) else leaf == second[path]
        assert same, path
    for name in ("best", "last"):
        weights = [(folder / name / "model.safetensors").read_bytes() for folder in (one, two)]
        assert weights[0] == weights[1]


def killed_at(step: int):
    def report(progress: TrainProgress) -> None:
        if progress.step >= step:
            raise Killed

    return report


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


def test_equal_seeds_train_equal_models(samples, undisturbed, tmp_path):
    train(samples, MODEL, CONFIG, tmp_path / "again", "cpu")
    assert_same_training(undisturbed, tmp_path / "again")


def test_another_seed_trains_another_model(samples, undisturbed, tmp_path):
    train(samples, MODEL, dataclasses.replace(CONFIG, seed=4, steps=2), tmp_path / "other", "cpu")
    assert logged(tmp_path / "other")[0]["loss"] != logged(undisturbed)[0]["loss"]


@pytest.mark.parametrize("steps", [(2,), (4,), (6,), (4, 8)])
def test_a_killed_training_goes_on_as_if_nothing_had_been(samples, undisturbed, tmp_path, steps):
    """Checkpoints are made at 3, 6 and 8: what was done after the last one is done again."""
    folder = tmp_path / "killed"
    for step in steps:
        with pytest.raises(Killed):
            train(samples, MODEL, CONFIG, folder, "cpu", resume=True, progress=killed_at(step))
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)


def test_a_kill_while_saving_leaves_the_checkpoint_before(samples, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    save = torch.save

    def half(state, path):
        if state["step"] < 6:
            return save(state, path)
        Path(path).write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu")
    monkeypatch.undo()
    monkeypatch.setattr(training, "_LOG_EVERY", 2)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 3
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)


def test_half_a_line_at_the_end_of_the_log_does_no_harm(samples, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu", progress=killed_at(4))
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "ra')
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)


def test_a_training_that_is_done_stays_as_it_is(samples, undisturbed):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.suffix in (".safetensors", ".jsonl")}
    done = train(samples, MODEL, CONFIG, undisturbed, "cpu", resume=True)
    assert done.folder == undisturbed / "best"
    assert done.best_step in (3, 6, 8)
    assert {path: path.read_bytes() for path in before} == before


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


def test_progress_is_reported(samples, tmp_path):
    seen: list[TrainProgress] = []
    config = dataclasses.replace(CONFIG, steps=5, validate_every=2)
    train(samples, MODEL, config, tmp_path / "out", "cpu", progress=seen.append)
    assert [(progress.step, progress.steps) for progress in seen] == [(2, 5), (4, 5), (5, 5)]
    assert np.isnan(seen[0].best_f1_mean)
    assert 0 <= seen[1].best_f1_mean <= 1
    assert all(progress.crops_per_second > 0 for progress in seen)


def test_the_loss_falls(samples, tmp_path):
    config = dataclasses.replace(CONFIG, pretrain_steps=0, learning_rate=5e-3, optimizer="adam", augment="minimal")
    train(samples, MODEL, config, tmp_path / "out", "cpu")
    losses = [line["seed"] for line in logged(tmp_path / "out") if "seed" in line]
    assert losses[-1] < 0.8 * losses[0]


def test_a_folder_that_holds_a_training_is_left_alone(samples, undisturbed):
    before = (undisturbed / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match="undisturbed' holds a training already; continue it with --resume"):
        train(samples, MODEL, CONFIG, undisturbed, "cpu")
    assert (undisturbed / "log.jsonl").read_bytes() == before


def test_resuming_with_other_settings_names_them(samples, undisturbed):
    before = (undisturbed / "log.jsonl").read_bytes()
    config = dataclasses.replace(CONFIG, steps=16, scale_range=(0.5, 3.0))
    model = dataclasses.replace(MODEL, description="another " * 50)
    with pytest.raises(ValueError, match="was made with other settings") as caught:
        train(samples, model, config, undisturbed, "cpu", resume=True)
    message = str(caught.value)
    assert "steps was 8, now 16" in message
    assert "scale_range was [0.5, 2.0], now [0.5, 3.0]" in message
    assert "description was , now another another" in message
    assert "batch_size" not in message
    assert len(message) < 500
    assert (undisturbed / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_splits_are_needed(samples, tmp_path, split):
    with pytest.raises(ValueError, match=f"no samples with split '{split}'"):
        train(samples._replace(**{split: ()}), MODEL, CONFIG, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_two_targets_are_refused(samples, tmp_path):
    """A sample has one mask."""
    model = dataclasses.replace(MODEL, targets=("nuclei", "cells"))
    with pytest.raises(ValueError, match=r"targets is \('nuclei', 'cells'\); training takes one"):
        train(samples, model, CONFIG, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


class TwoChannels(Sample):
    """A sample that no model of three channels takes."""

    def read(self):
        return np.zeros((2, 48, 48), np.uint8), np.zeros((48, 48), np.int32)


def test_images_that_do_not_fit_leave_no_folder(samples, tmp_path):
    broken = TwoChannels("two", "discs", "fluorescence", "train", Path("two.tif"), Path("two_masks.tif"))
    with pytest.raises(ValueError, match=r"two.tif has 2 channels; the model takes 3, or 1"):
        train(samples._replace(train=(broken,)), MODEL, CONFIG, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


def test_training_goes_on_from_the_weights_of_a_model(samples, tmp_path):
    torch.manual_seed(99)
    notes = (DatasetNote("elsewhere", "CC0-1.0", images=9), DatasetNote("discs", "CC-BY-4.0", "here", 1))
    start = Model(dataclasses.replace(MODEL, trained_on=notes), Segmenter(MODEL).eval())
    before = {name: value.clone() for name, value in start.segmenter.state_dict().items()}
    config = dataclasses.replace(CONFIG, steps=1, learning_rate=1e-9, average_decay=0.0, optimizer="adam")
    done = train(samples, start, config, tmp_path / "out", "cpu")
    model = load_model(done.folder)
    for name, parameter in model.segmenter.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name], atol=1e-3, rtol=1e-3)
    for name, value in start.segmenter.state_dict().items():
        assert torch.equal(value, before[name])  # the model given is not changed
    assert set(load_model(tmp_path / "out" / "last").config.trained_on) == {
        notes[0],
        dataclasses.replace(notes[1], images=2),
    }


def test_the_start_is_said_to_have_learnt_nothing_new(samples, tmp_path):
    """Where it stays the best: a learning rate that wrecks the weights."""
    start = load_model("nuclei")
    config = dataclasses.replace(CONFIG, steps=2, learning_rate=10.0, average_decay=0.0, validate_every=2)
    done = train(samples, start, config, tmp_path / "out", "cpu")
    assert done.best_step == 0
    assert load_model(done.folder).config.trained_on == start.config.trained_on


def taught(**settings) -> Model:
    torch.manual_seed(98)
    config = dataclasses.replace(MODEL, name="teacher", **settings)
    return Model(config, Segmenter(config).eval())


def test_a_teacher_pulls_fields_towards_its_own(samples, tmp_path):
    teacher = taught(network="slim")
    before = {name: value.clone() for name, value in teacher.segmenter.state_dict().items()}
    config = dataclasses.replace(CONFIG, steps=30, pretrain_steps=0, learning_rate=5e-3, validate_every=100)
    config = dataclasses.replace(config, seed_weight=0.0, instance_weight=0.0, augment="minimal")
    train(samples, MODEL, config, tmp_path / "out", "cpu", teacher=teacher)
    losses = [line["loss"] for line in logged(tmp_path / "out") if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    for name, value in teacher.segmenter.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_new_network_takes_over_its_teachers_classifiers(samples, tmp_path):
    teacher = taught()
    config = dataclasses.replace(CONFIG, steps=1, learning_rate=1e-9, average_decay=0.0, optimizer="adam")
    train(samples, MODEL, config, tmp_path / "out", "cpu", teacher=teacher)
    own = load_model(tmp_path / "out" / "last").segmenter
    for name, value in teacher.segmenter.classifiers.state_dict().items():
        torch.testing.assert_close(own.classifiers.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(own.network.head.weight, teacher.segmenter.network.head.weight, atol=1e-2)


def test_a_killed_training_goes_on_with_its_teacher_only(samples, tmp_path):
    teacher = taught()
    train(samples, MODEL, CONFIG, tmp_path / "whole", "cpu", teacher=teacher)
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, tmp_path / "killed", "cpu", progress=killed_at(4), teacher=teacher)
    for other in (None, Model(MODEL, Segmenter(MODEL).eval())):
        with pytest.raises(ValueError, match="was made with another teacher, or with none"):
            train(samples, MODEL, CONFIG, tmp_path / "killed", "cpu", resume=True, teacher=other)
    train(samples, MODEL, CONFIG, tmp_path / "killed", "cpu", resume=True, teacher=teacher)
    assert_same_training(tmp_path / "whole", tmp_path / "killed")


def test_a_teachers_data_and_licence_stay_behind_the_weights(samples, tmp_path):
    note = DatasetNote("elsewhere", "CC-BY-NC-4.0", images=9)
    teacher = taught(trained_on=(note,), licence="CC-BY-NC-4.0")
    config = dataclasses.replace(CONFIG, steps=1)
    train(samples, MODEL, config, tmp_path / "out", "cpu", teacher=teacher)
    made = load_model(tmp_path / "out" / "last").config
    assert note in made.trained_on
    assert {one.name for one in made.trained_on} == {"elsewhere", "discs"}
    assert made.licence == "CC-BY-NC-4.0"
    assert made.stages[-1]["teacher"] == "teacher"


def test_a_teacher_of_other_fields_is_refused(samples, tmp_path):
    with pytest.raises(ValueError, match=r"positional_dims is 2, and the teacher's 3"):
        train(samples, MODEL, CONFIG, tmp_path / "out", "cpu", teacher=taught(positional_dims=3))
    assert not (tmp_path / "out").exists()


def test_a_configuration_names_the_data_of_its_own_training_only(samples, tmp_path):
    notes = (DatasetNote("elsewhere", "CC0-1.0", images=9), DatasetNote("discs", "CC-BY-4.0", "here", 1))
    config = dataclasses.replace(CONFIG, steps=1)
    done = train(samples, dataclasses.replace(MODEL, trained_on=notes), config, tmp_path / "out", "cpu")
    assert load_model(done.folder).config.trained_on == (DatasetNote("discs", "CC-BY-4.0", "here", 2),)


@pytest.mark.parametrize(
    ("dataset", "licences", "expected"),
    [
        ("kumar_train16", ("", ""), "CC-BY-NC-SA-4.0"),  # known by name
        ("mine", ("CC-BY-NC-4.0", "CC-BY-NC-4.0"), "CC-BY-NC-4.0"),
        ("mine", ("CC0-1.0", "cc_by_nc"), "cc_by_nc"),
        ("mine", ("CC0-1.0", "for non-commercial use only"), "for non-commercial use only"),
        ("mine", ("CC0-1.0", "CC0-1.0"), "Apache-2.0"),
        ("mine", ("CC0-1.0", ""), "not stated"),
        ("dsb2018", ("CC-BY-NC-4.0", ""), "CC-BY-NC-4.0"),  # what the table states goes before what is known
    ],
)
def test_weights_carry_the_strictest_licence_of_their_data(samples, tmp_path, dataset, licences, expected):
    pairs = zip(samples.train, licences, strict=True)
    own = tuple(dataclasses.replace(sample, dataset=dataset, licence=licence) for sample, licence in pairs)
    config = dataclasses.replace(CONFIG, steps=1)
    done = train(samples._replace(train=own), MODEL, config, tmp_path / "out", "cpu")
    assert load_model(done.folder).config.licence == expected


def test_a_non_commercial_model_stays_so(samples, tmp_path):
    config = dataclasses.replace(MODEL, licence="CC-BY-NC-4.0")
    start = Model(config, Segmenter(config).eval())
    train(samples, start, dataclasses.replace(CONFIG, steps=1), tmp_path / "out", "cpu")
    assert load_model(tmp_path / "out" / "last").config.licence == "CC-BY-NC-4.0"


def test_the_folders_above_the_output_are_made(samples, tmp_path):
    train(samples, MODEL, dataclasses.replace(CONFIG, steps=1), tmp_path / "not" / "there" / "yet", "cpu")
    assert (tmp_path / "not" / "there" / "yet" / "best").is_dir()


def test_resuming_with_more_memory_or_patience_is_allowed(samples, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu", progress=killed_at(4))
    config = dataclasses.replace(CONFIG, memory_gb=0, patience=9)
    train(samples, MODEL, config, folder, "cpu", resume=True)
    assert logged(folder) == logged(undisturbed)


def test_resuming_with_other_images_to_validate_with_is_refused(samples, undisturbed):
    with pytest.raises(ValueError, match=r"other images to validate with \(1, now 2\)"):
        train(samples._replace(val=samples.train), MODEL, CONFIG, undisturbed, "cpu", resume=True)


@pytest.mark.parametrize("change", [{"dataset": "others"}, {"licence": "CC-BY-NC-4.0"}])
def test_resuming_with_other_images_to_learn_from_is_refused(samples, tmp_path, change):
    """The models it saves name what they learnt from, and under which licence."""
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu", progress=killed_at(4))
    others = samples._replace(train=tuple(dataclasses.replace(one, **change) for one in samples.train))
    with pytest.raises(ValueError, match=r"other images to learn from \(2, now 2\), or under other licences"):
        train(others, MODEL, CONFIG, folder, "cpu", resume=True)


def test_what_is_validated_is_what_is_saved(samples, undisturbed):
    """Weights are kept in half precision, and scored so."""
    figures = evaluate_model(load_model(undisturbed / "last"), samples.val, SegmentOptions(device="cpu")).accuracies
    assert figures[-1].f1_mean == logged(undisturbed)[-1]["f1_mean"]


def test_what_is_kept_is_never_worse_than_the_start(samples, tmp_path):
    """A learning rate that wrecks the weights: the start stays the best, and patience ends the training."""
    start = load_model("nuclei")
    config = dataclasses.replace(
        CONFIG, steps=30, pretrain_steps=0, learning_rate=3.0, validate_every=2, patience=2, average_decay=0.0
    )
    done = train(samples, start, config, tmp_path / "out", "cpu")
    assert (done.best_step, done.before) == (0, done.after)
    assert done.best_f1_mean > 0
    assert [line["step"] for line in logged(tmp_path / "out") if "f1_mean" in line] == [0, 2, 4]
    for name, value in load_model(done.folder).segmenter.state_dict().items():
        assert torch.equal(value, start.segmenter.state_dict()[name])
    again = train(samples, start, config, tmp_path / "out", "cpu", resume=True)
    assert again == done


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
        {"optimizer": "adam"},
        {"augment": "minimal"},
        {"network": "paper"},
        {"precision": "bfloat16"},
        {"synthetic_stain_share": 1.0},
        {"balance": "image", "pretrain_steps": 0, "window_px": 64},
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


def test_training_does_without_tensorboard(samples, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(samples, MODEL, dataclasses.replace(CONFIG, steps=1), tmp_path / "out", "cpu")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["best", "checkpoint.pt", "last", "log.jsonl"]
