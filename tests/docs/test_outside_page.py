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
    """A file with the inputs, outputs and metadata of `to_onnx`: pixels above 100 in each channel have the label 1.

    `to_onnx` itself takes a minute.
    """
    onnx = pytest.importorskip("onnx")
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 18]>
        graph (float[1, 3, height, width] image) => (int32[1, 1, height, width] labels) {
            channels = Constant <value_ints = [1]> ()
            limit = Constant <value_float = 100.0> ()
            lowest = ReduceMin <keepdims = 1> (image, channels)
            above = Greater (lowest, limit)
            labels = Cast <to = 6> (above)
        }
    """)
    onnx.helper.set_model_props(model, onnx_metadata(ModelConfig(name="nuclei"), "raw"))
    onnx.save(model, tmp_path / "nuclei.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("samples", [1, 3])
def test_the_python_shown_runs(folder, capsys, samples):
    pytest.importorskip("onnxruntime")
    image = np.random.default_rng(samples).integers(0, 256, (30, 50, samples), np.uint8)
    (folder / "image.png").write_bytes(imagecodecs.png_encode(np.squeeze(image)))
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(compile(code, "docs/outside-python.md", "exec"), names)
    np.testing.assert_array_equal(names["labels"][0, 0], image.min(2) > 100)
    assert names["facts"]["pixel_size_um"] == "0.5"
    assert capsys.readouterr().out == "1 nuclei\n"


def test_the_metadata_are_those_of_the_files():
    [named] = re.findall(r"\*\*Metadata of ONNX files\*\*: (.*?) and the thresholds", TEXT, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) - {"raw", "normalised"} <= set(
        onnx_metadata(ModelConfig(name="nuclei"), "raw")
    )


def test_the_example_has_the_stated_number_of_lines():
    folder = Path(__file__).parents[2] / "examples" / "cpp"
    lines = sum((folder / name).read_text().count("\n") for name in ("CMakeLists.txt", "main.cpp"))
    assert f"{lines} lines of CMake and C++" in TEXT
    assert lines <= 150
