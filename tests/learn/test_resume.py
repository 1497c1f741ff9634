"""Interrupted trainings end as uninterrupted ones do."""

from __future__ import annotations

import dataclasses
import errno
import os
import pickle

import pytest
import torch
from tiny_training import CONFIG, MODEL, Killed, assert_same_training, killed_at, logged

from cytoseed.learn import checkpoint
from cytoseed.learn import train as training
from cytoseed.learn.checkpoint import read_checkpoint, write_checkpoint
from cytoseed.learn.train import train


@pytest.mark.parametrize("steps", [(2,), (4,), (6,), (4, 8)])
def test_a_killed_training_goes_on_as_if_nothing_had_been(samples, undisturbed, tmp_path, steps):
    """Checkpoints are made at 3, 6 and 8: what was done after the last one is done again."""
    folder = tmp_path / "killed"
    for step in steps:
        with pytest.raises(Killed):
            train(samples, MODEL, CONFIG, folder, "cpu", resume=True, progress=killed_at(step))
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)


def test_checkpoints_do_not_wait_for_a_validation(samples, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu", progress=killed_at(6))
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 4
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)


def test_a_kill_while_saving_leaves_the_checkpoint_before(samples, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "killed"
    write = checkpoint.write_bytes

    def half(path, content):
        if (folder / "checkpoint.pt").exists():
            path.with_name("beside").write_bytes(content[: len(content) // 2])
            raise Killed
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", half)
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


def test_a_folder_that_holds_a_training_is_left_alone(samples, undisturbed):
    before = (undisturbed / "log.jsonl").read_bytes()
    with pytest.raises(ValueError, match="undisturbed' holds a training run; continue it with --resume"):
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


def test_resuming_with_more_memory_or_patience_is_allowed(samples, undisturbed, tmp_path):
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, folder, "cpu", progress=killed_at(4))
    config = dataclasses.replace(CONFIG, memory_gb=0, patience=9)
    train(samples, MODEL, config, folder, "cpu", resume=True)
    assert logged(folder) == logged(undisturbed)


@pytest.mark.parametrize("change", [{"dataset": "others"}, {"licence": "CC-BY-NC-4.0"}])
def test_resuming_with_other_images_is_refused(samples, undisturbed, change):
    """The models that a training saves name what they learnt from, and under which licence."""
    with pytest.raises(ValueError, match=r"other images to validate with \(1, now 2\)"):
        train(samples._replace(val=samples.train), MODEL, CONFIG, undisturbed, "cpu", resume=True)
    others = samples._replace(train=tuple(dataclasses.replace(one, **change) for one in samples.train))
    with pytest.raises(ValueError, match=r"other images to learn from \(2, now 2\), or under other licences"):
        train(others, MODEL, CONFIG, undisturbed, "cpu", resume=True)


class Pickled:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


REFUSED = "checkpoint .* is damaged, cut short or not one of cytoseed, so the training cannot be continued from it"


def test_a_checkpoint_that_is_none_is_refused_in_one_sentence(samples, undisturbed, tmp_path):
    path = tmp_path / "run" / "checkpoint.pt"
    path.parent.mkdir()
    whole = read_checkpoint(undisturbed / "checkpoint.pt", torch.device("cpu"))
    content = (undisturbed / "checkpoint.pt").read_bytes()
    trap = Pickled(tmp_path / "trap")

    def saved(state):
        write_checkpoint(path, state)
        return path.read_bytes()

    cut = [content[:kept] for kept in (0, 1, 100, len(content) // 2, len(content) - 34, len(content) - 1)]
    foreign = [saved(state) for state in ({"x": 1}, {**whole, "model": {}}, {**whole, "settings": 5}, {"model": trap})]
    torch.save([1], path)
    for bad in (*cut, *foreign, path.read_bytes(), pickle.dumps(trap), b"text"):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=REFUSED) as caught:
            train(samples, MODEL, CONFIG, path.parent, "cpu", resume=True)
        assert caught.value.__cause__ is None
        assert path.read_bytes() == bad
    assert not (tmp_path / "trap").exists()


def test_any_changed_byte_of_a_checkpoint_is_noticed(undisturbed, tmp_path):
    content, path = (undisturbed / "checkpoint.pt").read_bytes(), tmp_path / "checkpoint.pt"
    for place in {*range(0, len(content), len(content) // 9), *range(len(content) - 57, len(content), 2)}:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=REFUSED):
            read_checkpoint(path, torch.device("cpu"))


def test_a_checkpoint_of_an_earlier_version_is_continued(undisturbed, tmp_path):
    old, new = tmp_path / "old.pt", undisturbed / "checkpoint.pt"
    torch.save(torch.load(new, weights_only=True), old)
    assert read_checkpoint(old, torch.device("cpu"))["step"] == read_checkpoint(new, torch.device("cpu"))["step"]


@pytest.mark.parametrize("line", [b"garbage", b"5", b'{"a": 1}', b"\xff"])
def test_a_log_that_no_training_wrote_is_named(samples, tmp_path, line):
    with pytest.raises(Killed):
        train(samples, MODEL, CONFIG, tmp_path / "run", "cpu", progress=killed_at(4))
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=r"log\.jsonl holds a line that no training wrote; move the file away"):
        train(samples, MODEL, CONFIG, tmp_path / "run", "cpu", resume=True)
    assert log.read_bytes() == line + b"\n"


def test_a_full_disk_is_reported_with_the_remedy(samples, undisturbed, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_bytes", full)
    with pytest.raises(OSError, match=r"run: no room left on its disk; make room, then continue with --resume"):
        train(samples, MODEL, CONFIG, folder, "cpu")
    monkeypatch.undo()
    monkeypatch.setattr(training, "_LOG_EVERY", 2)
    train(samples, MODEL, CONFIG, folder, "cpu", resume=True)
    assert_same_training(undisturbed, folder)
