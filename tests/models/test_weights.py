"""Models as folders: what is written is read back, and what is broken is refused with its reason."""

import dataclasses
import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import list_models, load_model, read_config, save_model
from cytoseed.settings import DatasetNote, ModelConfig

CONFIG = ModelConfig(
    name="tiny",
    channels=1,
    description="Random weights.",
    trained_on=(DatasetNote("none", "CC0"),),
    figures={"set": {"f1": 0.5}},
)


@pytest.fixture(scope="module")
def segmenter():
    torch.manual_seed(0)
    return Segmenter(CONFIG).eval()


@pytest.fixture
def folder(segmenter, tmp_path):
    return save_model(segmenter, CONFIG, tmp_path / "tiny")


def edit_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_full_precision_is_read_back_exactly(segmenter, tmp_path):
    model = load_model(save_model(segmenter, CONFIG, tmp_path / "new" / "tiny", half=False))
    wanted = segmenter.state_dict()
    found = model.segmenter.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert not model.segmenter.training
    assert dataclasses.replace(model.config, sha256="") == CONFIG
    assert len(model.config.sha256) == 64


def test_half_precision_keeps_vectors_and_integers(segmenter, folder):
    wanted = segmenter.state_dict()
    found = load_model(folder).segmenter.state_dict()
    on_disk = load_file(folder / "model.safetensors")
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        if tensor.is_floating_point() and tensor.ndim >= 2:
            assert on_disk[name].dtype == torch.float16
            assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e-6)
        else:
            assert torch.equal(found[name], tensor)


def test_a_tensor_too_large_for_half_stays_whole(tmp_path):
    large = Segmenter(CONFIG)
    name, weight = next((n, p) for n, p in large.named_parameters() if p.ndim >= 2)
    with torch.no_grad():
        weight.fill_(1e6)
    model = load_model(save_model(large, CONFIG, tmp_path / "large"))
    assert model.segmenter.state_dict()[name].max() == 1e6


def test_saving_leaves_two_files_and_replaces_the_old(segmenter, folder):
    save_model(segmenter, dataclasses.replace(CONFIG, version="2.0"), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert load_model(folder).config.version == "2.0"


def test_a_default_of_double_precision_changes_nothing():
    """It holds for the whole process, and another package may set it."""
    model = load_model("nuclei")
    image = torch.rand(1, 3, 150, 150)
    with torch.no_grad():
        wanted = model.segmenter(image)
        torch.set_default_dtype(torch.float64)
        try:
            again = load_model("nuclei")
            assert all(value.dtype == torch.float32 for value in again.segmenter.parameters())
            assert torch.equal(model.segmenter(image), wanted)
            assert torch.equal(again.segmenter(image), wanted)
        finally:
            torch.set_default_dtype(torch.float32)


def test_models_are_found_by_name_in_the_folders_of_the_variable(folder, monkeypatch):
    monkeypatch.setenv("CYTOSEED_MODELS", str(folder.parent))
    assert load_model("tiny").config.name == "tiny"
    assert "tiny" in [config.name for config in list_models()]
    with pytest.raises(ValueError, match=r"no model 'nucleus'.*tiny.*CYTOSEED_MODELS"):
        load_model("nucleus")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere", FileNotFoundError, "there is no model"),
        ("model.safetensors", ValueError, "give the folder that holds it"),
        *[(name, ValueError, "is a pickle, which can run any code") for name in ("a.pt", "a.pth", "a.ckpt")],
    ],
)
def test_paths_that_are_refused(folder, name, error, message):
    with pytest.raises(error, match=message):
        load_model(folder / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_folder_without_a_file_names_it(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}"):
        load_model(folder)


def test_a_changed_file_fails_its_checksum(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="SHA-256"):
        load_model(folder)


def test_tensors_that_do_not_fit_are_named(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name, *others = tensors
    edit_config(folder, sha256="")
    for changed, message in (
        ({other: tensors[other] for other in others}, f"lacks the tensor '{name}'"),
        ({**tensors, "surplus": torch.zeros(1)}, "has a tensor 'surplus' that the architecture lacks"),
        ({**tensors, name: torch.zeros(3, 1)}, rf"the tensor '{name}' with shape \(3, 1\), where the architecture has"),
    ):
        save_file(changed, path)
        with pytest.raises(ValueError, match=message):
            load_model(folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_model(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": ', "is not valid JSON"),
        ("[]", "holds a list"),
        ('{"name": "a", "colour": "red"}', "'colour'"),
        ('{"name": "a", "channels": 0}', "channels is 0"),
        ('{"channels": 1}', "name"),
    ],
)
def test_an_invalid_configuration_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        read_config(tmp_path)


def test_listing_needs_no_torch():
    code = (
        "import sys; from cytoseed.models.weights import list_models; list_models();"
        "print([name for name in ('torch', 'numpy', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_bundled_model_loads():
    for config in list_models():
        assert load_model(config.name).config == config


@pytest.mark.parametrize(
    "claim",
    [
        {"channels": 2**62},
        {"channels": 10**7},
        {"classifier_widths": [10**8, 10**8]},
        {"conditional_dims": 10**8},
        {"max_window_px": 1 << 40},
    ],
    ids=["overflow", "channels", "widths", "dims", "window"],
)
def test_a_configuration_that_claims_a_large_network_takes_no_memory(folder, claim):
    edit_config(folder, **claim)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"(model\.safetensors|config\.json).*(tensor|max_window_px|too large)"):
        load_model(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
