"""`export_model`: checked before it is moved into place, refused with a remedy, nothing lost."""

import dataclasses
import shutil

import pytest
import torch
from packed import small_model
from typer.testing import CliRunner

from bright import bright_config, bright_segmenter
from cytoseed.cli.main import app
from cytoseed.export import package
from cytoseed.export.check import Agreement
from cytoseed.export.package import TARGETS, export_model
from cytoseed.export.torchscript import open_torchscript
from cytoseed.models.weights import save_model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def quick(monkeypatch, grey_file, pair_folder):
    """Targets that copy what was exported before."""

    def write_package(_model, folder):
        shutil.copytree(pair_folder, folder / pair_folder.name)
        shutil.copy(pair_folder.with_name("bright-0.1.0.zip"), folder)

    def write_file(_model, folder):
        shutil.copy(grey_file, folder / "bright.pt")

    for name, write in (("torchscript", write_file), ("qupath", write_package)):
        monkeypatch.setitem(package.TARGETS, name, TARGETS[name]._replace(write=write))


@pytest.fixture
def unchecked(monkeypatch):
    monkeypatch.setattr(package, "check_files", lambda *_: Agreement(1, 1, 0))


def test_an_exported_file_is_checked_and_finds_the_same_objects(grey_model, tmp_path):
    exported = export_model(grey_model, "torchscript", tmp_path / "new" / "folder")
    assert exported.paths == (tmp_path / "new" / "folder" / "bright.pt",)
    assert exported.agreement.files == 1
    assert exported.agreement.objects > 10
    assert exported.agreement.differing_px == 0
    image = torch.rand(1, 1, 50, 60)
    assert torch.equal(open_torchscript(exported.paths[0])(image)[0], grey_model.segmenter(image)[0].float())
    assert names(tmp_path / "new" / "folder") == ["bright.pt"]


@pytest.mark.usefixtures("quick")
def test_a_file_that_finds_other_objects_is_refused_and_nothing_is_lost(tmp_path):
    other = small_model()
    with torch.no_grad():
        other.segmenter.classifiers[0].layers[0].bias.fill_(-0.9)
    (tmp_path / "bright.pt").write_bytes(b"mine")
    with pytest.raises(RuntimeError, match=r"bright\.pt on a section: finds \d+ objects"):
        export_model(other, "torchscript", tmp_path, overwrite=True)
    assert (tmp_path / "bright.pt").read_bytes() == b"mine"
    assert names(tmp_path) == ["bright.pt"]


def test_a_target_that_writes_nothing_to_check_is_refused(grey_model, tmp_path, monkeypatch):
    monkeypatch.setitem(package.TARGETS, "torchscript", TARGETS["torchscript"]._replace(write=lambda *_: None))
    with pytest.raises(RuntimeError, match="no TorchScript or ONNX file"):
        export_model(grey_model, "torchscript", tmp_path)


@pytest.mark.usefixtures("quick", "unchecked")
def test_existing_files_stay_unless_overwritten(grey_model, grey_file, tmp_path):
    (tmp_path / "bright.pt").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"bright\.pt exists already; give --overwrite"):
        export_model(grey_model, "torchscript", tmp_path)
    with pytest.raises(FileExistsError, match=r"bright\.pt is a file; give a folder"):
        export_model(grey_model, "torchscript", tmp_path / "bright.pt", overwrite=True)
    assert (tmp_path / "bright.pt").read_bytes() == b"mine"
    export_model(grey_model, "torchscript", tmp_path, overwrite=True)
    assert (tmp_path / "bright.pt").read_bytes() == grey_file.read_bytes()


@pytest.mark.usefixtures("quick", "unchecked")
def test_an_existing_package_is_replaced_as_a_whole(pair_model, tmp_path):
    place = tmp_path / "bright-0.1.0"
    place.mkdir()
    (place / "left over").write_text("")
    exported = export_model(pair_model, "qupath", tmp_path, overwrite=True)
    assert exported.paths == (place, tmp_path / "bright-0.1.0.zip")
    assert (place / "instanseg.pt").exists()
    assert not (place / "left over").exists()
    assert names(tmp_path) == ["bright-0.1.0", "bright-0.1.0.zip"]


def test_a_package_that_is_missing_is_named_with_its_extra(grey_model, tmp_path, monkeypatch):
    monkeypatch.setattr(package, "find_spec", lambda name: None if name == "onnxscript" else object())
    for target, extra in (("onnx", "onnx"), ("bioimageio", "bioimageio,onnx")):
        with pytest.raises(ModuleNotFoundError, match=rf"'{target}' needs the package onnxscript.*cytoseed\[{extra}\]"):
            export_model(grey_model, target, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def run_command(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_the_command_prints_paths_and_the_check(tmp_path):
    save_model(bright_segmenter(), dataclasses.replace(bright_config(), licence="CC-BY-NC-4.0"), tmp_path / "bright")
    arguments = (tmp_path / "bright", "--to", "torchscript", "--output", tmp_path / "out")
    done = run_command(*arguments)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "out" / "bright.pt") in done.stdout
    assert "checked: 1 file reopened, the same objects as the model" in done.stdout
    assert "non-commercial use only" in done.stderr
    again = run_command(*arguments)
    assert again.exit_code == 1
    assert "--overwrite" in again.stderr


@pytest.mark.parametrize(
    ("model", "target", "message"),
    [
        ("nuclei", "fiji", "target is 'fiji'; it must be one of qupath, onnx, torchscript, bioimageio"),
        ("none such", "onnx", "there is no model 'none such'"),
    ],
)
def test_the_command_refuses_before_it_writes(model, target, message, tmp_path):
    done = run_command(model, "--to", target, "--output", tmp_path / "out")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()
