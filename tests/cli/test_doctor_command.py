"""`cytoseed doctor`: facts on the installation, and faults that it finds."""

import json
from importlib import metadata

import pytest

from cytoseed import __version__
from cytoseed.cli import doctor_command


@pytest.fixture
def small(monkeypatch):
    """Four drawn nuclei, and no further models."""
    monkeypatch.setattr(doctor_command, "_ROWS", 2)
    monkeypatch.setattr(doctor_command, "_models", lambda _: {"nuclei": "0.1.0"})


@pytest.mark.usefixtures("small")
def test_the_block_for_a_bug_report(run, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = run("doctor")
    assert done.exit_code == 0, done.output
    lines = {line[:12].rstrip(): line[12:] for line in done.stdout.splitlines()}
    assert lines["cytoseed"] == __version__
    assert f"torch {metadata.version('torch')}" in lines["packages"]
    assert "OMP_NUM_THREADS=1" in lines["variables"]
    assert lines["test cpu"].startswith("4 of 4 nuclei in ")
    assert lines["result"] == "everything works"


@pytest.mark.usefixtures("small")
def test_json_names_what_extras_lack(run, monkeypatch):
    version = metadata.version

    def without_onnx(name):
        if name == "onnxscript":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_onnx)
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["missing_for_extras"]["onnx"] == ["onnxscript"]
    assert facts["missing_for_extras"]["view"] == []
    assert "dev" not in facts["missing_for_extras"]
    [test] = [test for test in facts["self_test"] if test["device"] == "cpu"]
    assert test["found"] == test["objects"] == 4
    assert facts["faults"] == []


def test_a_package_that_cannot_be_imported_is_named(run, monkeypatch):
    load = doctor_command.import_module

    def broken(name):
        if name == "cv2":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return load(name)

    monkeypatch.setattr(doctor_command, "import_module", broken)
    done = run("doctor")
    assert done.exit_code == 1
    assert "package opencv-python-headless cannot be imported: libGL.so.1: cannot open" in done.stdout


def test_a_test_that_fails_and_a_damaged_model_end_with_1(run, models, monkeypatch, tmp_path):
    monkeypatch.setattr(doctor_command, "_ROWS", 2)
    monkeypatch.setattr(doctor_command, "_RADIUS_PX", 0)  # nothing that looks like a nucleus
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "config.json").write_bytes((models / "grey" / "config.json").read_bytes().replace(b"bright", b"cut"))
    (folder / "model.safetensors").write_bytes((models / "grey" / "model.safetensors").read_bytes()[:-4])
    monkeypatch.setenv("CYTOSEED_MODELS", str(tmp_path))
    done = run("doctor")
    assert done.exit_code == 1
    assert "of 4 drawn nuclei are found" in done.stdout
    assert str(folder / "model.safetensors") in done.stdout
