"""Trainings that start from another model or have a teacher, and the licence of what they make."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tiny_training import CONFIG, MODEL, Killed, assert_same_training, killed_at, logged

from cytoseed.core.model import Segmenter
from cytoseed.learn.train import train
from cytoseed.models.weights import Model, load_model
from cytoseed.settings import DatasetNote


@pytest.mark.parametrize(
    ("dataset", "licences", "expected"),
    [
        ("kumar_train16", ("", ""), "CC-BY-NC-SA-4.0"),  # known by name
        ("mine", ("CC-BY-NC-4.0", "CC-BY-NC-4.0"), "CC-BY-NC-4.0"),
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
    trained_on = load_model(tmp_path / "out" / "last").config.trained_on
    assert set(trained_on) == {notes[0], dataclasses.replace(notes[1], images=2)}


def test_what_is_kept_is_never_worse_than_the_start(samples, tmp_path):
    """A learning rate that wrecks the weights: the start stays the best, and patience ends the training."""
    start = load_model("nuclei")
    config = dataclasses.replace(CONFIG, steps=30, pretrain_steps=0, learning_rate=3.0, average_decay=0.0)
    config = dataclasses.replace(config, validate_every=2, patience=2)
    done = train(samples, start, config, tmp_path / "out", "cpu")
    assert (done.best_step, done.before) == (0, done.after)
    assert done.best_f1_mean > 0
    assert [line["step"] for line in logged(tmp_path / "out") if "f1_mean" in line] == [0, 2, 4]
    assert load_model(done.folder).config.trained_on == start.config.trained_on
    for name, value in load_model(done.folder).segmenter.state_dict().items():
        assert torch.equal(value, start.segmenter.state_dict()[name])
    again = train(samples, start, config, tmp_path / "out", "cpu", resume=True)
    assert again == done


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
