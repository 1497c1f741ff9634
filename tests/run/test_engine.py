"""The engine equals the plain segmenter; devices and precisions are chosen and checked."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model, load_model
from cytoseed.run.api import segment
from cytoseed.run.engine import Engine, _full_precision, bfloat16_is_fast, choose_device, engine_for
from cytoseed.run.slide import Callbacks
from cytoseed.settings import ModelConfig, SegmentOptions
from runs import run

CPU = torch.device("cpu")


def make_segmenter(targets=("nuclei",)):
    """Random weights, with statistics of normalisation layers that matter when they are folded."""
    torch.manual_seed(0)
    segmenter = Segmenter(ModelConfig("tiny", channels=1, targets=targets))
    with torch.no_grad():
        for name, buffer in segmenter.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return segmenter.eval()


def test_an_unknown_device_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"device is 'tpu'.*auto, cpu, cuda, mps"):
        choose_device("tpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_an_absent_device_is_refused_with_those_present(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'.*it finds: auto, cpu"):
        choose_device(name)
    assert choose_device("auto") == CPU


def test_a_gpu_is_chosen_by_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert SegmentOptions(device="cuda:1").device == "cuda:1"
    with pytest.raises(ValueError, match="device is 'cuda:2', and the last GPU that PyTorch finds here is cuda:1"):
        choose_device("cuda:2")
    for wrong in ("cuda:", "cuda:x", "cpu:1", "cuda:-1"):
        with pytest.raises(ValueError, match=f"device is '{wrong}'; it must be one of .*cuda:1 for the second"):
            SegmentOptions(device=wrong)


def test_segmenter_and_image_are_not_changed():
    segmenter = make_segmenter()
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    image = torch.rand(1, 40, 40)
    kept = image.clone()
    Engine(segmenter, CPU).labels(image, segmenter.thresholds)
    assert torch.equal(image, kept)
    after = segmenter.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_callers_autocast_has_no_effect():
    segmenter = make_segmenter()
    engine = Engine(segmenter, CPU)
    image = torch.rand(1, 1, 80, 90)
    views = engine.views(image)
    labels = engine.labels_of_views(views, segmenter.thresholds)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(engine.views(image), views)
        again = engine.labels_of_views(views, segmenter.thresholds)
        assert all(torch.equal(one, other) for one, other in zip(again, labels, strict=True))


def test_tf32_is_off_and_other_flags_of_the_user_stay():
    cudnn = torch.backends.cudnn
    chosen = ("enabled", "benchmark", "deterministic")
    before = [getattr(cudnn, name) for name in chosen]
    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        with _full_precision(torch.device("cuda")):
            assert not cudnn.allow_tf32
            assert all(getattr(cudnn, name) for name in chosen)
        assert cudnn.allow_tf32
        assert all(getattr(cudnn, name) for name in chosen)
    assert [getattr(cudnn, name) for name in chosen] == before


def test_simultaneous_threads_get_one_engine_of_a_precision():
    model = Model(ModelConfig("tiny", channels=1), make_segmenter())
    start = threading.Barrier(4)

    def ask(_):
        start.wait()
        return engine_for(model, CPU)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(ask, range(4))))) == 1
    assert engine_for(model, CPU) is engine_for(model, CPU, "float32")
    assert engine_for(model, CPU) is not engine_for(model, CPU, "bfloat16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_labels_on_cuda_equal_those_on_the_cpu():
    segmenter = make_segmenter()
    image = torch.rand(1, 200, 300)
    wanted = Engine(segmenter, CPU).labels(image, segmenter.thresholds)
    found = Engine(segmenter, torch.device("cuda")).labels(image, segmenter.thresholds)
    assert (found != wanted).float().mean() < 0.01


# bfloat16


def test_bfloat16_rounds_only_the_network():
    model = load_model("nuclei")
    image = torch.rand(1, 3, 70, 100, generator=torch.Generator().manual_seed(0))
    exact = Engine(model.segmenter, CPU).views(image)
    half = Engine(model.segmenter, CPU, "bfloat16").views(image)
    assert half.dtype == torch.float32
    difference = (half - exact).abs()
    assert difference.max() > 1e-4
    assert difference.mean() < 0.05
    assert model.segmenter.network.head.weight.dtype == torch.float32


def test_impossible_precisions_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"precision is 'float16'.*float32, bfloat16"):
        SegmentOptions(precision="float16")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match="device is 'mps': give float32"):
        choose_device("mps", "bfloat16")


def test_the_precision_belongs_to_the_settings_of_a_result(tmp_path):
    image, model = np.zeros((40, 50), np.uint8), Model(ModelConfig("tiny", channels=1), make_segmenter())
    plain, fast = (segment(image, model, precision=name).settings for name in ("float32", "bfloat16"))
    assert (plain["precision"], fast) == ("float32", {**plain, "precision": "bfloat16"})
    run(image, tmp_path, model, formats=("table",))
    with pytest.raises(FileExistsError, match=r'settings.precision: "float32" -> "bfloat16"'):
        run(image, tmp_path, model, formats=("table",), precision="bfloat16")


@pytest.mark.parametrize("is_fast", [False, True])
def test_a_notice_says_where_bfloat16_is_slow(monkeypatch, tmp_path, is_fast):
    monkeypatch.setattr("cytoseed.run.slide.bfloat16_is_fast", lambda _: is_fast)
    image, model = np.zeros((30, 30), np.uint8), Model(ModelConfig("tiny", channels=1), make_segmenter())
    notices = []
    calls = Callbacks(notices.append)
    segment(image, model, precision="bfloat16", callbacks=calls)
    run(image, tmp_path, model, precision="bfloat16", formats=("table",), callbacks=calls)
    slow = [text for text in notices if "on CPUs with AMX or AVX-512 BF16; float32 may be faster here" in text]
    assert len(slow) == (0 if is_fast else 2)


@pytest.mark.parametrize("present", [None, "amx_tile", "avx512_bf16", "gpu"])
def test_bfloat16_is_fast_on_machines_with_units_for_it(monkeypatch, present):
    gpu = present == "gpu"
    for unit in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda unit=unit: unit == present)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or gpu)
    assert bfloat16_is_fast(CPU) == (present in ("amx_tile", "avx512_bf16"))
    assert bfloat16_is_fast(torch.device("cuda")) == gpu


def test_a_process_that_forks_after_a_model_was_used():
    code = """
import multiprocessing, sys
import numpy, torch, cytoseed
pixels = numpy.zeros((300, 300), numpy.uint8)
pixels[20:40, 20:40] = pixels[200:220, 200:230] = 200
def count(tile_size_px):
    result = cytoseed.segment(pixels, "nuclei", pixel_size_um=0.5, tile_size_px=tile_size_px)
    return result.count, torch.get_num_threads()
torch.set_num_threads(2)
expected = count(None)[0]
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(count, [None, 128]).get(60)
assert found == [(expected, 1)] * 2, (expected, found)
"""
    if sys.platform == "linux":
        subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
