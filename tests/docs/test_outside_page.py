"""docs/outside-python.md: its Python runs, and its statements about the files are true."""

import re
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from cytoseed.export.onnx import onnx_metadata
from cytoseed.settings import ModelConfig

TEXT = (Path(__file__).parents[2] / "docs" / "outside-python.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A file with the inputs, outputs and metadata of `to_onnx`, whose one label is what is above 100 in each channel.

    The method itself takes a minute to trace; that it gives Python's objects is tested with what writes it.
    """
    onnx = pytest.importorskip("onnx")
    make, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        make.make_node("ReduceMin", ["image", "channels"], ["lowest"], keepdims=1),
        make.make_node("Greater", ["lowest", "limit"], ["above"]),
        make.make_node("Cast", ["above"], ["labels"], to=kinds.INT32),
    ]
    image = make.make_tensor_value_info("image", kinds.FLOAT, [1, 3, "height", "width"])
    labels = make.make_tensor_value_info("labels", kinds.INT32, [1, 1, "height", "width"])
    constants = [make.make_tensor("channels", kinds.INT64, [1], [1]), make.make_tensor("limit", kinds.FLOAT, [], [100])]
    graph = make.make_graph(nodes, "graph", [image], [labels], constants)
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    make.set_model_props(model, onnx_metadata(ModelConfig(name="nuclei"), "raw"))
    onnx.save(model, tmp_path / "nuclei.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("samples", [1, 3])
def test_the_python_shown_gives_the_image_as_the_file_wants_it(folder, capsys, samples):
    pytest.importorskip("onnxruntime")
    image = np.random.default_rng(samples).integers(0, 256, (30, 50, samples), np.uint8)
    (folder / "image.png").write_bytes(imagecodecs.png_encode(np.squeeze(image)))
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/outside-python.md", "exec"), names)
    np.testing.assert_array_equal(names["labels"][0, 0], image.min(2) > 100)
    assert names["facts"]["pixel_size_um"] == "0.5"
    assert capsys.readouterr().out == "1 nuclei\n"


def test_the_metadata_named_are_those_of_the_files():
    [named] = re.findall(r"\*\*Metadata of ONNX files\*\*: (.*?) and the thresholds", TEXT, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) - {"raw", "normalised"} <= set(
        onnx_metadata(ModelConfig(name="nuclei"), "raw")
    )


def test_the_example_is_as_short_as_it_is_said_to_be():
    folder = Path(__file__).parents[2] / "examples" / "cpp"
    lines = sum((folder / name).read_text().count("\n") for name in ("CMakeLists.txt", "main.cpp"))
    assert f"{lines} lines of CMake and C++" in TEXT
    assert lines <= 150
