"""The package for bioimage.io, tested by bioimageio.core itself with each of its weights."""

import importlib.util
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from java_rules import read_as_qupath

from cytoseed.export import bioimageio
from cytoseed.export import onnx as onnx_export
from cytoseed.export.bioimageio import build_segmenter, to_bioimageio
from cytoseed.export.sample import preprocess
from same import assert_same_objects

for _name in ("bioimageio.core", "onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(_name, reason="needs the extras bioimageio and onnx")

pytestmark = (
    pytest.mark.filterwarnings(  # files that bioimageio.spec leaves open; what the exporter deprecates of itself
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
    )
)


@pytest.fixture(scope="module")
def folder(pair_model, pair_onnx, tmp_path_factory):
    """The package, with the ONNX file that the other tests use."""

    def copy(model, path, normalised):
        assert model is pair_model
        assert normalised
        return Path(shutil.copy(pair_onnx, path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_export, "to_onnx", copy)
        return to_bioimageio(pair_model, tmp_path_factory.mktemp("bioimageio"))


@pytest.fixture(scope="module")
def rdf(folder):
    return yaml.safe_load((folder / "rdf.yaml").read_text())


def test_bioimageio_core_tests_it_green(folder):
    """Each kind of weights gives the test output, and runs in images of other sizes."""
    from bioimageio.core import test_model as run_tests

    summary = run_tests(folder.with_name("bright-0.1.0.zip"), devices=["cpu"])
    assert summary.status == "passed", summary.format()
    named = {"/".join(map(str, detail.loc)) for detail in summary.details}
    assert named >= {"weights/onnx", "weights/pytorch_state_dict", "weights/torchscript"}


def test_all_weights_find_what_the_model_finds(folder, rdf, pair_model):
    import onnxruntime

    image = preprocess(np.load(folder / "test_input.npy"))
    with torch.inference_mode():
        own = pair_model.segmenter(torch.from_numpy(image)).numpy()
    assert own.max() > 10
    assert_same_objects(np.load(folder / "test_output.npy"), own)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert_same_objects(session.run(None, {session.get_inputs()[0].name: image})[0], own)
    module = build_segmenter(**rdf["weights"]["pytorch_state_dict"]["architecture"]["kwargs"]).eval()
    module.load_state_dict(torch.load(folder / "weights.pth", weights_only=True))
    with torch.inference_mode():
        assert_same_objects(module(torch.from_numpy(image)).numpy(), own)


def test_what_is_said_of_weights(folder, rdf):
    import onnx

    weights = rdf["weights"]
    assert set(weights) == {"onnx", "pytorch_state_dict", "torchscript"}
    assert [weights[kind].get("parent") for kind in sorted(weights)] == [
        "pytorch_state_dict",
        None,
        "pytorch_state_dict",
    ]
    [used] = [entry.version for entry in onnx.load(folder / "model.onnx").opset_import if entry.domain == ""]
    assert weights["onnx"]["opset_version"] == used
    architecture = weights["pytorch_state_dict"]["architecture"]
    assert architecture["import_from"] == bioimageio.__name__
    assert getattr(bioimageio, architecture["callable"]) is build_segmenter
    assert "recipe" not in architecture["kwargs"]


def test_folder_and_zip_are_one(folder):
    with zipfile.ZipFile(folder.with_name("bright-0.1.0.zip")) as archive:
        assert sorted(archive.namelist()) == sorted(path.name for path in folder.iterdir())
        assert all(archive.read(name) == (folder / name).read_bytes() for name in archive.namelist())


def test_qupath_can_read_it_too(folder):
    assert read_as_qupath(folder).channels == 1


def test_arguments_that_no_model_has():
    with pytest.raises(ValueError, match="ModelConfig has no setting 'widths'"):
        build_segmenter(name="bright", widths=3)


@pytest.mark.parametrize(("package", "extra"), [("bioimageio", "bioimageio"), ("onnx", "onnx"), ("onnxscript", "onnx")])
def test_a_missing_package_is_named(grey_model, tmp_path, monkeypatch, package, extra):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else real(name))
    with pytest.raises(
        ModuleNotFoundError, match=rf"needs {package}, which is not installed: pip install 'cytoseed\[{extra}\]'"
    ):
        to_bioimageio(grey_model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_definition_does_not_allow(folder, tmp_path):
    text = (folder / "rdf.yaml").read_text()
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "rdf.yaml").write_text(text.replace('license: "Apache-2.0"', 'license: "None-Such-1.0"'))
    with pytest.raises(ValueError, match=r"bioimageio.spec does not accept the model's description: "):
        bioimageio._validate(tmp_path / "rdf.yaml")
