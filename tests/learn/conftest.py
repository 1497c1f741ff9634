"""Three small images, a training on them, and commands."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_training import CONFIG, MODEL
from typer.testing import CliRunner

from cytoseed.cli.main import app
from cytoseed.learn import train as training
from cytoseed.learn.samples import Sample, TrainValSplit
from cytoseed.learn.train import train


@pytest.fixture(scope="session")
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


@pytest.fixture
def run():
    """Run a command of cytoseed."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def log_every_second_step(monkeypatch):
    monkeypatch.setattr(training, "_LOG_EVERY", 2)


@pytest.fixture(scope="session")
def undisturbed(samples, tmp_path_factory) -> Path:
    """The folder of a training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("trained") / "undisturbed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_LOG_EVERY", 2)
        train(samples, MODEL, CONFIG, folder, "cpu")
    return folder
