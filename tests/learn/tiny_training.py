"""Settings and comparisons of trainings of a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cytoseed.learn.settings import TrainConfig
from cytoseed.learn.train import TrainProgress
from cytoseed.settings import ModelConfig

MODEL = ModelConfig("tiny", positional_dims=2, conditional_dims=1, classifier_widths=(3,))
CONFIG = TrainConfig(
    steps=8, pretrain_steps=2, batch_size=2, crop_px=32, validate_every=3, max_seeds=5, window_px=16, seed=3
)


class Killed(BaseException):
    """Stands for whatever ends a training from outside."""


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
