"""Requirements of QuPath's Java for a model's folder: its reader of `rdf.yaml`, and its InstanSeg extension.

The reader turns YAML 1.1 into JSON and that into classes, so that types count: a number in quotes is a text, and one
such as 1e-06, without a point, is a text too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

TEXTS = ("format_version", "description", "documentation", "license", "name", "version")
TYPES = ["float32", "float64", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
ANY_CHANNELS = -1


class Reading(NamedTuple):
    """Facts that the extension knows about a model."""

    name: str
    version: str
    channels: int
    outputs: int
    pixel_size_um: float
    readme: str


def read_as_qupath(folder: Path) -> Reading:
    """Read a model's folder by QuPath's rules, or fail."""
    assert (folder / "instanseg.pt").is_file()
    assert [path.name for path in folder.iterdir() if path.suffix in (".yaml", ".yml")] == ["rdf.yaml"]
    rdf = yaml.safe_load((folder / "rdf.yaml").read_text(encoding="utf-8"))
    for key in TEXTS:
        assert isinstance(rdf[key], str), key
    assert [int(part) for part in rdf["format_version"].split(".")] > [0, 5, 0]
    for key in ("covers", "tags"):
        assert all(isinstance(entry, str) for entry in rdf[key])
    for key in ("authors", "cite"):
        assert all(isinstance(entry, dict) for entry in rdf[key])
    tensors = rdf["inputs"] + rdf["outputs"]
    for tensor in tensors:
        _check_tensor(tensor, tensors)
    assert [key for key, entry in rdf["weights"].items() if entry.get("parent") is None] in (
        ["torchscript"],
        ["pytorch_state_dict"],
    )
    given, found = rdf["inputs"][0]["axes"], rdf["outputs"][0]["axes"]
    assert [axis["type"] for axis in given] in (["batch", kind, "space", "space"] for kind in ("index", "channel"))
    assert [axis["type"] for axis in found] == ["batch", "channel", "space", "space"]
    assert rdf["outputs"][0]["id"] == "instance_segmentation"
    scales = {axis["id"]: axis["scale"] for axis in found[2:]}
    readme = folder / f"{rdf['name']}_README.md"
    return Reading(
        rdf["name"],
        rdf["version"],
        ANY_CHANNELS if given[1]["type"] == "index" else len(given[1]["channel_names"]),
        len(found[1]["channel_names"]),
        (scales["x"] + scales["y"]) / 2,
        readme.read_text(encoding="utf-8") if readme.exists() else "",
    )


def _check_tensor(tensor: dict[str, Any], tensors: list[dict[str, Any]]) -> None:
    assert isinstance(tensor["id"], str)
    assert tensor["data"]["type"] in TYPES
    assert isinstance(tensor["test_tensor"]["source"], str)
    for axis in tensor["axes"]:
        _check_axis(axis, tensors)
    for step in tensor.get("preprocessing", []):
        numbers = [value for key, value in step["kwargs"].items() if key not in ("axes", "dtype")]
        assert all(type(value) in (int, float) for value in numbers), step
        assert all(isinstance(axis, str) for axis in step["kwargs"].get("axes", []))


def _check_axis(axis: dict[str, Any], tensors: list[dict[str, Any]]) -> None:
    kind = axis["type"]
    assert kind in ("batch", "channel", "index", "space", "time")
    if kind == "channel":
        assert axis["channel_names"]
        assert all(isinstance(name, str) for name in axis["channel_names"])
        return
    size = axis["size"]  # every axis needs one
    if kind == "batch":
        assert type(size) is int
        return
    if kind == "index":
        assert (size["min"], size["step"]) == (1, 1)
        return
    assert axis["id"] in ("x", "y")
    assert axis["unit"] == "micrometer"
    assert type(axis["scale"]) is float
    if "tensor_id" in size:
        [referred] = [tensor for tensor in tensors if tensor["id"] == size["tensor_id"]]
        assert size["axis_id"] in [other["id"] for other in referred["axes"] if other["type"] != "batch"]
        assert size["offset"] == 0  # without it, 1
    else:
        assert (size["min"], size["step"]) == (32, 1)
