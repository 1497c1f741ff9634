"""However a model is run, it finds the same objects in the same image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from cytoseed.core.prepare import normalise
from cytoseed.export.torchscript import open_torchscript, to_torchscript
from cytoseed.models.weights import Model
from cytoseed.run.engine import Engine
from same import assert_same_objects
from twenty import bundled_images, twenty_images

Run = Callable[[np.ndarray], np.ndarray]
"""From a raw image (3,H,W) float32 to labels (H,W)."""

MOST_DIFFERING = 1e-5  # share of pixels that rounding may move from an object to another, or to none


@pytest.fixture(scope="module")
def scripted(nuclei, tmp_path_factory) -> Run:
    module = open_torchscript(to_torchscript(nuclei, tmp_path_factory.mktemp("nuclei") / "nuclei.pt"))

    def run(raw: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(module.normalise(torch.from_numpy(raw))[None])[0, 0].numpy().astype(np.int32)

    return run


@pytest.fixture(scope="module")
def in_onnx_runtime(nuclei_onnx) -> Run:
    session = pytest.importorskip("onnxruntime").InferenceSession(nuclei_onnx, providers=["CPUExecutionProvider"])
    return lambda raw: session.run(None, {"image": raw[None]})[0][0, 0]


@pytest.fixture(scope="module")
def in_openvino(nuclei_onnx) -> Run:
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(nuclei_onnx, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda raw: compiled(raw[None])[0][0, 0]


@pytest.fixture(scope="module", params=["real", "bundled"])
def seen(request, nuclei) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, raw pixels and labels of each image, the last by the segmenter itself."""
    images = twenty_images() if request.param == "real" else bundled_images()
    assert len(images) == (20 if request.param == "real" else 4)
    result = []
    with torch.inference_mode():
        for name, raw in images:
            pixels = np.ascontiguousarray(raw, np.float32)
            result.append((name, pixels, nuclei.segmenter(normalise(torch.from_numpy(pixels))[None])[0, 0].numpy()))
    assert sum(labels.max() for _, _, labels in result) > (500 if request.param == "real" else 20)
    return result


def engine_run(model: Model, precision: str = "float32") -> Run:
    engine = Engine(model.segmenter, torch.device("cpu"), precision=precision)
    thresholds = model.segmenter.thresholds
    return lambda raw: engine.labels(normalise(torch.from_numpy(raw)), thresholds)[0].numpy()


@pytest.fixture(scope="module")
def engine(nuclei) -> Run:
    return engine_run(nuclei)


@pytest.mark.parametrize("way", ["engine", "scripted", "in_onnx_runtime", "in_openvino"])
def test_every_way_finds_the_same_objects(way, seen, request):
    """One-to-one in every image, and but for a few pixels the same labels."""
    run = request.getfixturevalue(way)
    differing = pixels = 0
    for _, raw, labels in seen:
        found = run(raw)
        assert found.dtype == np.int32
        assert_same_objects(found, labels, iou=0.9)
        differing += np.count_nonzero(found != labels)
        pixels += labels.size
    assert differing <= MOST_DIFFERING * pixels, f"{differing} of {pixels} pixels differ"


def test_bfloat16_moves_borders_and_little_else(nuclei, seen):
    """It keeps three digits."""
    run = engine_run(nuclei, "bfloat16")
    differing = pixels = found = wanted = 0
    for _, raw, labels in seen:
        own = run(raw)
        differing += np.count_nonzero((own > 0) != (labels > 0))
        pixels += labels.size
        found, wanted = found + int(own.max()), wanted + int(labels.max())
    assert 0 < differing < 0.005 * pixels
    assert abs(found - wanted) <= 0.02 * wanted
