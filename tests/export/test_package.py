"""Packing a model: checked before it is put into place, refused with a remedy, nothing lost."""

import dataclasses

import pytest
import torch
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.cli import export_command as exporting
from cytoseed.cli.main import app
from cytoseed.export import package
from cytoseed.export.package import TARGETS, export_model
from cytoseed.models.weights import Model, save_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TorchScript


@pytest.fixture(scope="module")
def bright() -> Model:
    segmenter = bright_segmenter()
    segmenter.windows = segmenter.windows[:2]
    return Model(bright_config(), segmenter)


def other_than(model: Model) -> Model:
    """A model that finds other objects."""
    segmenter = bright_segmenter()
    with torch.no_grad():
        segmenter.classifiers[0].layers[0].bias.fill_(-0.9)
    return Model(model.config, segmenter)


def test_what_is_written_is_reopened_and_opens(bright, tmp_path):
    exported = export_model(bright, "torchscript", tmp_path / "new" / "folder")
    assert exported.paths == (tmp_path / "new" / "folder" / "bright.pt",)
    assert exported.agreement.files == 1
    assert exported.agreement.objects > 10
    assert exported.agreement.differing_px == 0
    image = torch.rand(1, 1, 50, 60)
    module = torch.jit.load(str(exported.paths[0]))
    assert torch.equal(module(image)[0], bright.segmenter(image)[0].float())
    assert [path.name for path in exported.paths[0].parent.iterdir()] == ["bright.pt"]


def test_a_file_that_finds_other_objects_is_refused_and_nothing_is_lost(bright, tmp_path, monkeypatch):
    export_model(bright, "torchscript", tmp_path)
    before = (tmp_path / "bright.pt").read_bytes()
    wrong = TARGETS["torchscript"]._replace(write=lambda model, folder: real(other_than(model), folder))
    real = TARGETS["torchscript"].write
    monkeypatch.setitem(package.TARGETS, "torchscript", wrong)
    with pytest.raises(RuntimeError, match=r"bright\.pt on a section: finds \d+ objects"):
        export_model(bright, "torchscript", tmp_path, overwrite=True)
    assert (tmp_path / "bright.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bright.pt"]


def test_a_target_that_writes_nothing_to_check_is_refused(bright, tmp_path, monkeypatch):
    monkeypatch.setitem(package.TARGETS, "torchscript", TARGETS["torchscript"]._replace(write=lambda *_: None))
    with pytest.raises(RuntimeError, match="no TorchScript or ONNX file"):
        export_model(bright, "torchscript", tmp_path)


def test_what_is_there_stays_unless_overwritten(bright, tmp_path):
    (tmp_path / "bright.pt").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"bright\.pt exists already; give --overwrite"):
        export_model(bright, "torchscript", tmp_path)
    assert (tmp_path / "bright.pt").read_bytes() == b"mine"
    export_model(bright, "torchscript", tmp_path, overwrite=True)
    assert (tmp_path / "bright.pt").read_bytes() != b"mine"


def test_a_file_in_place_of_the_folder_is_told(bright, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        export_model(bright, "torchscript", tmp_path / "file")


def test_a_folder_is_replaced_whole(bright, tmp_path):
    first = export_model(bright, "qupath", tmp_path)
    (first.paths[0] / "left over").write_text("")
    again = export_model(bright, "qupath", tmp_path, overwrite=True)
    assert again.paths == first.paths
    assert not (first.paths[0] / "left over").exists()
    assert (first.paths[0] / "instanseg.pt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bright-0.1.0", "bright-0.1.0.zip"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_whatever_has_the_folders_name_is_replaced(bright, tmp_path, kind):
    place, elsewhere = tmp_path / "out" / "bright-0.1.0", tmp_path / "elsewhere"
    place.parent.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("")
    if kind == "file":
        place.write_text("")
    else:
        place.symlink_to(elsewhere)
    export_model(bright, "qupath", tmp_path / "out", overwrite=True)
    assert (place / "instanseg.pt").exists()
    assert not place.is_symlink()
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
    assert sorted(path.name for path in place.parent.iterdir()) == ["bright-0.1.0", "bright-0.1.0.zip"]


def test_an_unknown_target_names_the_known(bright, tmp_path):
    with pytest.raises(ValueError, match=r"target is 'fiji'; .*qupath, onnx, torchscript, bioimageio"):
        export_model(bright, "fiji", tmp_path)


def test_a_package_that_is_missing_is_named_with_its_extra(bright, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ModuleNotFoundError, match=r"'onnx' needs the package onnxscript.*cytoseed\[onnx\]"):
        export_model(bright, "onnx", tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_it_wrote_and_how_it_was_checked(tmp_path):
    save_model(bright_segmenter(), dataclasses.replace(bright_config(), licence="CC-BY-NC-4.0"), tmp_path / "bright")
    arguments = ["export", str(tmp_path / "bright"), "--to", "torchscript", "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "out" / "bright.pt") in done.stdout
    assert "checked: 1 file reopened, the same objects as the model" in done.stdout
    assert "non-commercial use only" in done.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(("model", "target"), [("nuclei", "fiji"), ("none such", "onnx")])
def test_the_command_refuses_before_it_works(model, target, tmp_path):
    done = CliRunner().invoke(app, ["export", model, "--to", target, "--output", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "error: " in done.stderr
    assert not (tmp_path / "out").exists()


def test_no_heavy_library_is_imported_for_help():
    assert "torch" not in vars(exporting)
