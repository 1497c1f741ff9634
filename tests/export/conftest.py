"""Models for packing."""

import pytest
import torch
from packed import small_model

from cytoseed.export.torchscript import open_torchscript, to_torchscript
from cytoseed.models.weights import Model


@pytest.fixture(scope="session")
def grey_model() -> Model:
    """Nuclei in one channel."""
    return small_model()


@pytest.fixture(scope="session")
def colour_model() -> Model:
    """Nuclei in three channels."""
    return small_model(3)


@pytest.fixture(scope="session")
def pair_model() -> Model:
    """Nuclei above 0.5 in cells above 0.2, in one channel."""
    model = small_model(targets=("nuclei", "cells"), seed_threshold=0.3)
    with torch.no_grad():
        model.segmenter.classifiers[1].layers[0].bias.fill_(-0.2)
    return model


@pytest.fixture(scope="session")
def grey(grey_model, tmp_path_factory):
    return open_torchscript(to_torchscript(grey_model, tmp_path_factory.mktemp("grey") / "instanseg.pt"))


@pytest.fixture(scope="session")
def colour(colour_model, tmp_path_factory):
    return open_torchscript(to_torchscript(colour_model, tmp_path_factory.mktemp("colour") / "instanseg.pt"))


@pytest.fixture(scope="session")
def pair(pair_model, tmp_path_factory):
    return open_torchscript(to_torchscript(pair_model, tmp_path_factory.mktemp("pair") / "instanseg.pt"))
