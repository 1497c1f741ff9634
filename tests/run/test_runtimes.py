"""The network in other runtimes and in bfloat16: the same fields, on as many cores."""

import copy
import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cytoseed.run.network_file import network_file
from cytoseed.run.runtimes import bfloat16_pays, choose_runtime, precision_notice

from bright import bright_config, bright_segmenter
from cytoseed.models.weights import Model, load_model, save_model
from cytoseed.run import runtimes, worker
from cytoseed.run.api import describe, segment
from cytoseed.run.engine import Engine, engine_for
from cytoseed.run.slide import Callbacks
from cytoseed.settings import SegmentOptions
from runs import run
from same import assert_same_objects
from scenes import write_discs

CPU = torch.device("cpu")
OTHERS = ["onnxruntime", "openvino"]
GREY = Model(bright_config(), bright_segmenter())


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    """Networks' files are made once for all tests of this file, and not among the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYTOSEED_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["bright", "nuclei"])
def model(request):
    return GREY if request.param == "bright" else load_model("nuclei")


def need(*packages):
    for package in packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("runtime", OTHERS)
def test_fields_are_those_of_torch(model, runtime):
    """Also where neither AMX nor any other unit for bfloat16 may be made use of unasked."""
    need(runtime, "onnxscript")
    ours, theirs = (Engine(model.segmenter, CPU, name) for name in ("torch", runtime))
    assert (ours.runtime, theirs.runtime) == ("torch", runtime)
    channels = model.config.channels
    for size in ((1, 1), (64, 80), (20, 131), (64, 80), (300, 17)):
        images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(size[0])) * 2 - 0.5
        before = images.clone()
        fields, wanted = theirs.views(images), ours.views(images)
        assert fields.dtype == torch.float32
        torch.testing.assert_close(fields, wanted, atol=1e-4, rtol=1e-4)
        assert torch.equal(images, before)
    both = theirs.views(images)
    assert not torch.equal(both[0, 0], both[0, 1])  # what one call gave is not what another overwrites
    torch.testing.assert_close(fields, both)


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("tta", [False, True])
def test_the_same_objects(runtime, tta):
    need(runtime, "onnxscript")
    from skimage import data

    wishes = {"stain": "haematoxylin", "tta": tta}
    picture = data.immunohistochemistry()[200:400, 150:380]
    found, wanted = (segment(picture, "nuclei", runtime=name, **wishes).labels for name in (runtime, "torch"))
    assert wanted.max() > 10
    assert_same_objects(found, wanted, iou=0.95)


def test_auto_is_torch_and_each_choice_has_an_engine():
    assert choose_runtime("auto", CPU) == choose_runtime("auto", torch.device("cuda")) == "torch"
    assert engine_for(GREY, CPU) is engine_for(GREY, CPU, "torch", "float32")
    assert engine_for(GREY, CPU) is not engine_for(GREY, CPU, "torch", "bfloat16")


@pytest.mark.parametrize("runtime", OTHERS)
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_other_runtimes_are_for_the_cpu(runtime, device):
    with pytest.raises(ValueError, match=f"runtime is '{runtime}'.*device is '{device}'.*--device cpu"):
        choose_runtime(runtime, torch.device(device))


@pytest.mark.parametrize(("runtime", "extra"), [("onnxruntime", "onnx"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(monkeypatch, tmp_path, runtime, extra):
    monkeypatch.setitem(sys.modules, runtime, None)
    words = rf"runtime is '{runtime}', which is not installed.*pip install 'cytoseed\[{extra}\]'"
    with pytest.raises(ModuleNotFoundError, match=words):
        segment(np.zeros((20, 20), np.uint8), GREY, runtime=runtime, pixel_size_um=0.5)
    with pytest.raises(ModuleNotFoundError, match=words):
        run(np.zeros((20, 20), np.uint8), tmp_path / "out", GREY, runtime=runtime)
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_what_makes_the_file_is_named_with_its_extra(monkeypatch, tmp_path, package):
    need("onnxruntime")
    monkeypatch.setenv("CYTOSEED_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package} is not installed: pip install 'cytoseed\[onnx\]'"):
        Engine(GREY.segmenter, CPU, "onnxruntime")


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"runtime": "tensorrt"}, "runtime is 'tensorrt'.*auto, torch, onnxruntime, openvino"),
        ({"precision": "float16"}, "precision is 'float16'.*float32, bfloat16"),
    ],
)
def test_unknown_choices_name_the_known(wishes, words):
    with pytest.raises(ValueError, match=words):
        SegmentOptions(**wishes)
    with pytest.raises(ValueError, match=words):
        choose_runtime(wishes.get("runtime", "torch"), CPU, wishes.get("precision", "float32"))


def test_bfloat16_is_refused_where_it_is_not():
    need("onnxruntime")
    with pytest.raises(ValueError, match="ONNX Runtime has not on CPUs: give runtime torch or openvino"):
        choose_runtime("onnxruntime", CPU, "bfloat16")
    with pytest.raises(ValueError, match="device is 'mps': give float32"):
        choose_runtime("torch", torch.device("mps"), "bfloat16")


def test_bfloat16_rounds_the_network_alone():
    model = load_model("nuclei")
    image = torch.rand(1, 3, 70, 100, generator=torch.Generator().manual_seed(0))
    exact = Engine(model.segmenter, CPU).views(image)
    half = Engine(model.segmenter, CPU, "torch", "bfloat16").views(image)
    assert half.dtype == torch.float32
    apart = (half - exact).abs()
    assert apart.max() > 1e-4
    assert apart.mean() < 0.05
    assert model.segmenter.network.head.weight.dtype == torch.float32


def test_openvino_computes_in_bfloat16_where_asked():
    need("openvino", "onnxscript")
    if "BF16" not in importlib.import_module("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("OpenVINO has no bfloat16 on this CPU")
    model = load_model("nuclei")
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    exact = Engine(model.segmenter, CPU).views(image)
    apart = (Engine(model.segmenter, CPU, "openvino", "bfloat16").views(image) - exact).abs()
    assert apart.max() > 1e-4
    assert apart.mean() < 0.05


def test_the_precision_is_recorded_and_the_runtime_is_not(tmp_path):
    need("onnxruntime", "onnxscript")
    image = np.zeros((40, 50), np.uint8)
    plain = describe(image, GREY.config)
    assert plain["precision"] == "float32"
    assert describe(image, GREY.config, SegmentOptions(runtime="openvino")) == plain
    assert describe(image, GREY.config, SegmentOptions(precision="bfloat16")) == {**plain, "precision": "bfloat16"}
    write_discs(tmp_path / "scene.tif", 150, 140)
    run(tmp_path / "scene.tif", tmp_path, GREY, formats=("table",))
    assert run(tmp_path / "scene.tif", tmp_path, GREY, formats=("table",), runtime="onnxruntime").already_done
    with pytest.raises(FileExistsError, match=r'settings.precision: "float32" -> "bfloat16"'):
        run(tmp_path / "scene.tif", tmp_path, GREY, formats=("table",), precision="bfloat16")


def test_a_slide_has_the_same_files_from_every_runtime(tmp_path):
    need(*OTHERS, "onnxscript")
    write_discs(tmp_path / "scene.tif", 300, 260)
    tables = []
    for runtime in ("torch", *OTHERS):
        options = {"runtime": runtime, "tile_size_px": 128, "formats": ("table", "labels")}
        run(tmp_path / "scene.tif", tmp_path / runtime, GREY, **options)
        tables.append([(tmp_path / runtime / name).read_bytes() for name in ("scene.csv", "scene.labels.tif")])
    assert tables[0] == tables[1] == tables[2]
    assert tables[0][0].count(b"\n") > 50


def test_where_bfloat16_is_slow_it_is_said(monkeypatch, tmp_path):
    image, half = np.zeros((30, 30), np.uint8), SegmentOptions(precision="bfloat16")
    for pays in (False, True):
        monkeypatch.setattr(runtimes, "bfloat16_pays", lambda _, pays=pays: pays)
        told = []
        segment(image, GREY, half, told.append)
        watch = Callbacks(told.append, lambda _: None)
        run(image, tmp_path / str(pays), GREY, half, formats=("table",), callbacks=watch)
        said = [text for text in told if "on CPUs with AMX or AVX-512 BF16; this CPU has no units" in text]
        assert len(said) == (0 if pays else 2)
    assert precision_notice("float32", CPU) is None


@pytest.mark.parametrize("units", [(), ("amx_tile",), ("avx512_bf16",)])
def test_a_cpu_needs_units_for_bfloat16(monkeypatch, units):
    for unit in ("amx_tile", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{unit}_supported", lambda there=unit in units: there)
    assert bfloat16_pays(CPU) == bool(units)


@pytest.mark.parametrize("there", [False, True])
def test_a_gpu_needs_units_for_bfloat16(monkeypatch, there):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: there or including_emulation)
    assert bfloat16_pays(cuda) == there
    notice = precision_notice("bfloat16", cuda)
    assert notice is None if there else "this GPU has no units" in str(notice)


def test_as_many_cores_as_torch_has_when_it_is_run(monkeypatch):
    need("onnxruntime", "onnxscript")
    asked, make = [], runtimes._onnxruntime_session

    def noted(content, threads):
        asked.append(threads)
        return make(content, threads)

    monkeypatch.setattr(runtimes, "_onnxruntime_session", noted)
    engine = Engine(GREY.segmenter, CPU, "onnxruntime")
    before = torch.get_num_threads()
    try:
        for threads in (2, 1, 2, 1):
            torch.set_num_threads(threads)
            engine.views(torch.rand(1, 1, 16, 16))
    finally:
        torch.set_num_threads(before)
    assert asked == [2, 1]


@pytest.mark.parametrize("runtime", OTHERS)
def test_sessions_are_made_for_so_many_cores(monkeypatch, runtime):
    need(runtime, "onnxscript")
    network = copy.deepcopy(GREY.segmenter.network)
    network.fold()
    content = network_file(network)
    package, seen = importlib.import_module(runtime), []
    if runtime == "openvino":
        core = package.Core()

        def compile_model(model, device, settings):
            seen.append(settings["INFERENCE_NUM_THREADS"])
            return core.compile_model(model, device, settings)

        fake = SimpleNamespace(read_model=core.read_model, compile_model=compile_model)
        monkeypatch.setattr(package, "Core", lambda: fake)
        runtimes._openvino_session(content, 2, "f32")
    else:
        session = package.InferenceSession

        def make(model, options, providers):
            seen.append(options.intra_op_num_threads)
            return session(model, options, providers=providers)

        monkeypatch.setattr(package, "InferenceSession", make)
        runtimes._onnxruntime_session(content, 2)
    assert seen == [2]


def test_workers_are_told_runtime_and_precision(tmp_path, monkeypatch):
    """What is sent to a worker of Dask, and what the worker does with it."""
    need("openvino")
    from cytoseed.run.cluster import Cluster

    folder = save_model(bright_segmenter(), bright_config(), tmp_path / "bright")
    write_discs(tmp_path / "scene.tif", 100, 90)
    options = SegmentOptions(runtime="openvino", precision="bfloat16")
    image = worker.open_image(tmp_path / "scene.tif")
    errand = Cluster(workers=1)._errand(image, load_model(folder), options)
    assert (errand.runtime, errand.precision) == ("openvino", "bfloat16")
    on_cpu, asked = errand._replace(device="cpu"), []
    assert worker.describe(on_cpu) == "cpu"

    def noted(_, device, runtime, precision):
        asked.append((device.type, runtime, precision))
        raise InterruptedError

    monkeypatch.setattr(worker, "engine_for", noted)
    monkeypatch.setattr("cytoseed.run.segment.engine_for", noted)
    with pytest.raises(InterruptedError):
        worker.make(on_cpu, (None,) * 7, [])
    with pytest.raises(InterruptedError):
        worker.make_whole(on_cpu, SegmentOptions(device="cpu", runtime="openvino", precision="bfloat16"))
    assert asked == [("cpu", "openvino", "bfloat16")] * 2
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match=r"cannot do this: runtime is 'openvino'.*cytoseed\[openvino\]"):
        worker.describe(on_cpu)
