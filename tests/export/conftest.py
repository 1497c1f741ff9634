"""Models for export, and their exported files: each is made once per run of the tests, because ONNX takes a minute."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from packed import small_model

from cytoseed.export.qupath import to_qupath
from cytoseed.export.torchscript import open_torchscript, to_torchscript
from cytoseed.models.weights import Model


@pytest.fixture(scope="session")
def grey_model() -> Model:
    return small_model()


@pytest.fixture(scope="session")
def colour_model() -> Model:
    return small_model(3)


@pytest.fixture(scope="session")
def pair_model() -> Model:
    """Nuclei above 0.5 in cells above 0.2, in one channel."""
    model = small_model(targets=("nuclei", "cells"), seed_threshold=0.3)
    with torch.no_grad():
        model.segmenter.classifiers[1].layers[0].bias.fill_(-0.2)
    return model


@pytest.fixture(scope="session")
def exported_once(tmp_path_factory) -> Callable[..., Path]:
    """A function that writes a file once, also if several processes run the tests."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if folder.name.startswith("popen-") else folder

    def export(name: str, write: Callable[[Model, Path], object], model: Model) -> Path:
        with FileLock(shared / f"{name}.lock"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.getLogger("torch.__trace"), "handlers", [])  # pytest's, which slow the exporter
            if not (shared / name).exists():
                write(model, shared / name)
        return shared / name

    return export


@pytest.fixture(scope="session")
def nuclei_onnx(exported_once, nuclei) -> Path:
    """The bundled model, from raw images."""
    pytest.importorskip("onnxscript")
    from cytoseed.export.onnx import to_onnx

    return exported_once("nuclei.onnx", to_onnx, nuclei)


@pytest.fixture(scope="session")
def pair_onnx(exported_once, pair_model) -> Path:
    """Nuclei and cells, from normalised images."""
    pytest.importorskip("onnxscript")
    from cytoseed.export.onnx import to_onnx

    return exported_once("pair.onnx", lambda model, path: to_onnx(model, path, normalised=True), pair_model)


@pytest.fixture(scope="session")
def grey_file(grey_model, tmp_path_factory) -> Path:
    return to_torchscript(grey_model, tmp_path_factory.mktemp("grey") / "instanseg.pt")


@pytest.fixture(scope="session")
def grey(grey_file):
    return open_torchscript(grey_file)


@pytest.fixture(scope="session")
def colour(colour_model, tmp_path_factory):
    return open_torchscript(to_torchscript(colour_model, tmp_path_factory.mktemp("colour") / "instanseg.pt"))


@pytest.fixture(scope="session")
def pair(pair_folder):
    return open_torchscript(pair_folder / "instanseg.pt")


@pytest.fixture(scope="session")
def pair_folder(pair_model, tmp_path_factory) -> Path:
    return to_qupath(pair_model, tmp_path_factory.mktemp("pair"))
