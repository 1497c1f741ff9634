"""The engine gives what the segmenter itself gives, on the device asked for."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model
from cytoseed.run.engine import Engine, _as_chosen, choose_device, engine_for
from cytoseed.settings import ModelConfig

CPU = torch.device("cpu")


def make_segmenter(targets=("nuclei",)):
    """Random weights, with statistics of normalisation that folding has to take into account."""
    torch.manual_seed(0)
    segmenter = Segmenter(ModelConfig("tiny", channels=1, targets=targets))
    with torch.no_grad():
        for name, buffer in segmenter.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return segmenter.eval()


def test_auto_is_a_device_that_is_there():
    name = choose_device("auto").type
    if torch.cuda.is_available():
        assert name == "cuda"
    elif torch.backends.mps.is_available():
        assert name == "mps"
    else:
        assert name == "cpu"
    assert choose_device("cpu") == CPU


def test_an_unknown_device_names_the_known():
    with pytest.raises(ValueError, match=r"device is 'tpu'.*auto, cpu, cuda, mps"):
        choose_device("tpu")


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_an_absent_device_names_those_present(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"device is '{name}'.*it finds cpu"):
        choose_device(name)


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (63, 100)])
@pytest.mark.parametrize("targets", [("nuclei",), ("nuclei", "cells")])
def test_labels_are_int32_of_the_images_size(size, targets):
    segmenter = make_segmenter(targets)
    labels = Engine(segmenter, CPU).labels(torch.rand(1, *size), segmenter.thresholds)
    assert labels.shape == (len(targets), *size)
    assert labels.dtype == torch.int32
    assert labels.device == CPU


def test_same_objects_as_the_segmenter():
    segmenter = make_segmenter()
    image = torch.rand(1, 80, 90)
    with torch.inference_mode():
        wanted = segmenter(image[None])[0]
    found = Engine(segmenter, CPU).labels(image, segmenter.thresholds)
    assert wanted.max() > 0
    assert (found != wanted).float().mean() < 0.01  # folding rounds: a pixel at the threshold may turn


def test_the_segmenter_and_the_image_stay_as_they_are():
    segmenter = make_segmenter()
    before = {name: tensor.clone() for name, tensor in segmenter.state_dict().items()}
    image = torch.rand(1, 40, 40)
    kept = image.clone()
    Engine(segmenter, CPU).labels(image, segmenter.thresholds)
    assert torch.equal(image, kept)
    after = segmenter.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_thresholds_decide():
    segmenter = make_segmenter()
    none = segmenter.thresholds._replace(min_size_px=10**6)
    assert Engine(segmenter, CPU).labels(torch.rand(1, 40, 40), none).max() == 0


def test_a_callers_autocast_does_not_reach_in():
    segmenter = make_segmenter()
    engine = Engine(segmenter, CPU)
    image = torch.rand(1, 1, 80, 90)
    views = engine.views(image)
    labels = engine.labels_of_views(views, segmenter.thresholds)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(engine.views(image), views)
        assert torch.equal(engine.labels_of_views(views, segmenter.thresholds), labels)


def test_tf32_is_off_and_a_users_other_choices_stay():
    cudnn = torch.backends.cudnn
    chosen = ("enabled", "benchmark", "deterministic")
    before = [getattr(cudnn, name) for name in chosen]
    with cudnn.flags(enabled=True, benchmark=True, deterministic=True, allow_tf32=True):
        with _as_chosen(torch.device("cuda")):
            assert not cudnn.allow_tf32
            assert all(getattr(cudnn, name) for name in chosen)
        assert cudnn.allow_tf32
        assert all(getattr(cudnn, name) for name in chosen)
    assert [getattr(cudnn, name) for name in chosen] == before


def test_threads_that_ask_at_once_get_one_engine():
    model = Model(ModelConfig("tiny", channels=1), make_segmenter())
    start = threading.Barrier(4)

    def ask(_):
        start.wait()
        return engine_for(model, CPU)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(map(id, pool.map(ask, range(4))))) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_cuda_gives_the_objects_of_the_cpu():
    segmenter = make_segmenter()
    image = torch.rand(1, 200, 300)
    wanted = Engine(segmenter, CPU).labels(image, segmenter.thresholds)
    found = Engine(segmenter, torch.device("cuda")).labels(image, segmenter.thresholds)
    assert (found != wanted).float().mean() < 0.01
