"""A model as ONNX: images of any size, raw or normalised, its metadata; and the network alone."""

import sys

import numpy as np
import pytest
import torch
from packed import small_model

from cytoseed import __version__
from cytoseed.core.prepare import normalise
from cytoseed.export.graph import trace
from cytoseed.export.onnx import network_to_onnx, to_onnx
from same import assert_same_objects

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = [(1, 1), (1, 40), (20, 20), (33, 1), (63, 150), (130, 97)]


def session(path):
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def discs(height, width, channels=1, seed=0):
    """Raw 16-bit values (C,H,W) in float32: discs of several brightnesses on an uneven background, and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = 900 + 3.0 * rows + rng.normal(0, 20, (height, width))
    for _ in range(height * width // 400):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, 8)
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.uniform(20_000, 60_000)
    return np.repeat(np.round(image)[None], channels, axis=0).astype(np.float32)


def blobs(height, width, count):
    """Normalised image (1, H, W) of `count` discs, some of them larger than the window around a seed."""
    rng = np.random.default_rng(height + count)
    rows, columns = np.mgrid[:height, :width]
    image = np.zeros((height, width), np.float32)
    for _ in range(count):
        y, x, radius = rng.uniform(0, height), rng.uniform(0, width), 2 + 22 * rng.uniform() ** 4
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
    return torch.from_numpy(image)[None]


def labels_of(model, raw):
    with torch.inference_mode():
        return model.segmenter(normalise(torch.from_numpy(raw))[None]).numpy()


@pytest.fixture(scope="module")
def from_raw(nuclei_onnx):
    return session(nuclei_onnx)


@pytest.fixture(scope="module")
def network(nuclei, tmp_path_factory):
    return network_to_onnx(nuclei, tmp_path_factory.mktemp("onnx") / "nuclei.network.onnx")


@pytest.mark.parametrize("size", SIZES)
def test_raw_images_of_any_size(from_raw, nuclei, size):
    raw = discs(*size, channels=3)
    raw[1] = 2 * raw[1] + 7  # each channel has percentiles of its own
    before = raw.copy()
    (found,) = from_raw.run(None, {"image": raw[None]})
    assert found.dtype == np.int32
    assert found.shape == (1, 1, *size)
    assert_same_objects(found, labels_of(nuclei, raw), iou=0.9)
    np.testing.assert_array_equal(raw, before)
    assert size != (130, 97) or found.max() > 15


def test_normalisation_has_the_same_bits():
    """Sizes at which a rank is rounded up, down and to even; one value more or less moves it."""

    class Normalise(torch.nn.Module):
        def forward(self, image):
            return normalise(image[0])[None]

    run = session(trace(Normalise(), torch.rand(1, 3, 50, 70), "normalised", {2: "height", 3: "width"}))
    for seed, (height, width) in enumerate([(1, 500), (1, 501), (3, 167), (1, 1500), (1, 1501), (50, 50), (200, 300)]):
        raw = np.random.default_rng(seed).normal(0, 900, (3, height, width)).astype(np.float32)
        raw[0] = np.round(raw[0] / 500)
        raw[1, 0, 0] = 1e9
        (found,) = run.run(None, {"image": raw[None]})
        np.testing.assert_array_equal(found[0], normalise(torch.from_numpy(raw)))


def test_nuclei_and_cells_from_normalised_values(pair_model, pair_onnx):
    run = session(pair_onnx)
    about = run.get_modelmeta().custom_metadata_map
    assert (about["targets"], about["input"], about["channels"]) == ("nuclei,cells", "normalised", "1")
    assert (about["seed_threshold"], about["min_size_px"]) == ("0.3", "4")
    assert pair_model.segmenter.chunk_px > 0  # export does not change it
    images = [normalise(torch.from_numpy(discs(*size))) for size in SIZES]
    images += [blobs(*size, count) for size in ((20, 20), (63, 200), (256, 256)) for count in (0, 1, 60)]
    for image in images:
        with torch.inference_mode():
            wanted = pair_model.segmenter(image[None]).numpy()
        (found,) = run.run(None, {"image": image[None].numpy()})
        assert found.shape == (1, 2, *image.shape[1:])
        np.testing.assert_array_equal(found, wanted)
    assert wanted[0, 0].max() > 10


def test_metadata_inputs_and_outputs(from_raw, nuclei):
    about = from_raw.get_modelmeta().custom_metadata_map
    config = nuclei.config
    assert config.sha256
    assert about == {
        **{name: getattr(config, name) for name in ("name", "version", "description", "licence", "sha256")},
        "pixel_size_um": "0.5",
        "channels": "3",
        "targets": "nuclei",
        "peak_radius_px": "4",
        "seed_threshold": "0.5",
        "mask_threshold": "0.0",
        "agreement_iou": "0.5",
        "min_size_px": "10",
        "input": "raw",
        "cytoseed": __version__,
    }
    (image,), (labels,) = from_raw.get_inputs(), from_raw.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", [1, 3, "height", "width"])
    assert (labels.name, labels.type, labels.shape) == ("labels", "tensor(int32)", [1, 1, "height", "width"])


def test_the_network_alone(network, nuclei):
    run = session(network)
    about = run.get_modelmeta().custom_metadata_map
    assert (about["name"], about["input"], about["stride"]) == ("nuclei", "normalised", "16")
    assert run.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert run.get_outputs()[0].shape == ["batch", 9, "height", "width"]
    for size in ((1, 16, 16), (3, 64, 112), (2, 320, 16)):
        images = torch.rand(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(size[1])) * 2 - 0.5
        (found,) = run.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            wanted = nuclei.segmenter.network(images)
        torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    assert any(name.endswith("running_mean") for name in nuclei.segmenter.state_dict())  # export does not change it


def test_both_files_are_valid_and_name_no_path_of_this_machine(nuclei_onnx, network):
    import onnx

    for path in (nuclei_onnx, network):
        onnx.checker.check_model(str(path), full_check=True)
        content = path.read_bytes()
        assert b"site-packages" not in content
        assert b".py" not in content


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    for write in (to_onnx, network_to_onnx):
        with pytest.raises(ModuleNotFoundError, match=rf"needs {package}, which is not installed: pip .*\[onnx\]"):
            write(small_model(), tmp_path / "file.onnx")
    assert not list(tmp_path.iterdir())
