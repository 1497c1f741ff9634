"""The package for bioimage.io, tested by bioimageio.core itself with each of its weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from java_rules import read_as_qupath

from cytoseed.export import bioimageio
from cytoseed.export.bioimageio import build_segmenter, to_bioimageio
from cytoseed.export.sample import preprocess
from same import assert_same_objects

for _name in ("bioimageio.core", "onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(_name, reason="needs the extras bioimageio and onnx")

pytestmark = pytest.mark.filterwarnings(  # bioimageio.spec leaves files open; the exporter deprecates parts of itself
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(scope="module")
def folder(pair_model, pair_onnx, tmp_path_factory):
    """The package, with the ONNX file that the other tests use."""

    def copy(model, path, normalised):
        assert model is pair_model
        assert normalised
        return Path(shutil.copy(pair_onnx, path))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bioimageio, "to_onnx", copy)
        return to_bioimageio(pair_model, tmp_path_factory.mktemp("bioimageio"))


@torch.inference_mode()
def test_bioimageio_core_accepts_it(folder, pair_model):
    """Each kind of weights gives the test output, which is the model's own, and runs on images of other sizes."""
    from bioimageio.core import test_model as run_tests

    summary = run_tests(folder.with_name("bright-0.1.0.zip"), devices=["cpu"])
    assert summary.status == "passed", summary.format()
    named = {"/".join(map(str, detail.loc)) for detail in summary.details}
    assert named >= {"weights/onnx", "weights/pytorch_state_dict", "weights/torchscript"}
    own = pair_model.segmenter(torch.from_numpy(preprocess(np.load(folder / "test_input.npy"))))
    assert own.max() > 10
    assert_same_objects(np.load(folder / "test_output.npy"), own)


def test_entries_of_weights(folder):
    import onnx

    weights = yaml.safe_load((folder / "rdf.yaml").read_text())["weights"]
    parents = {kind: entry.get("parent") for kind, entry in weights.items()}
    assert parents == {"onnx": "pytorch_state_dict", "pytorch_state_dict": None, "torchscript": "pytorch_state_dict"}
    [used] = [entry.version for entry in onnx.load(folder / "model.onnx").opset_import if entry.domain == ""]
    assert weights["onnx"]["opset_version"] == used
    assert "recipe" not in weights["pytorch_state_dict"]["architecture"]["kwargs"]


def test_qupath_can_read_it_too(folder):
    assert read_as_qupath(folder).channels == 1


def test_an_unknown_argument_is_refused():
    with pytest.raises(ValueError, match="ModelConfig has no setting 'widths'"):
        build_segmenter(name="bright", widths=3)


def test_a_description_that_the_definition_rejects(folder, tmp_path):
    text = (folder / "rdf.yaml").read_text()
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "rdf.yaml").write_text(text.replace("license: Apache-2.0", "license: None-Such-1.0"))
    with pytest.raises(ValueError, match=r"bioimageio.spec does not accept the model's description: "):
        bioimageio._validate(tmp_path / "rdf.yaml")
