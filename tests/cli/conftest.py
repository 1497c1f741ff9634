"""The command line with models that find bright objects."""

import pytest
import torch
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.cli.main import app
from cytoseed.core.model import Segmenter
from cytoseed.models.weights import save_model
from cytoseed.settings import ModelConfig
from scenes import write_image


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_model(bright_segmenter(1), bright_config(1), folder / "grey")
    save_model(bright_segmenter(3), bright_config(3), folder / "colour")
    torch.manual_seed(0)
    untrained = ModelConfig("untrained")
    save_model(Segmenter(untrained), untrained, folder / "untrained")
    return folder


@pytest.fixture
def run(models, monkeypatch):
    monkeypatch.setenv("CYTOSEED_MODELS", str(models))

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def segment(run, tmp_path):
    """Run `cytoseed segment` with the grey model into tmp_path/out."""

    def invoke(*arguments, model="grey"):
        return run("segment", *arguments, "--model", model, "--output", tmp_path / "out")

    return invoke


@pytest.fixture
def image(tmp_path):
    return write_image(tmp_path / "in" / "scene.tif")
