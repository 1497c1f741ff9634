"""A model for bioimage.io and the programs that run its models: TorchScript, ONNX, and weights for further training."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from cytoseed.core.model import Segmenter
from cytoseed.export.onnx import to_onnx
from cytoseed.export.qupath import package_files, torchscript_entry, write_package
from cytoseed.export.rdf import RDF_FILE, file_entry, package_name, rdf_yaml
from cytoseed.export.torchscript import ExportedSegmenter
from cytoseed.models.weights import Model
from cytoseed.settings import ModelConfig

ONNX_FILE = "model.onnx"
STATE_FILE = "weights.pth"
_ORIGIN = ("description", "licence", "version", "trained_on", "recipe", "figures", "sha256")


def to_bioimageio(model: Model, folder: Path) -> Path:
    """Write a model for bioimage.io into `folder/NAME-VERSION`, which is returned, and into `folder/NAME-VERSION.zip`.

    All weights take images normalised as `rdf.yaml` states, and return labels. Writing the ONNX graph takes minutes.
    Raises `ValueError` if bioimage.io does not allow the model's name, version or licence.
    """
    name = package_name(model.config)
    files = package_files(model, name)
    with tempfile.TemporaryDirectory(prefix="cytoseed-") as temporary:
        files[ONNX_FILE] = to_onnx(model, Path(temporary) / ONNX_FILE, normalised=True).read_bytes()
        files[STATE_FILE] = _state_dict(model)
        files[RDF_FILE] = rdf_yaml(model.config, _weights(model, files), files, any_channels=False).encode()
        _validate(write_package(files, temporary, name) / RDF_FILE)
    return write_package(files, folder, name)


def build_segmenter(**config: Any) -> ExportedSegmenter:
    """Build the module that takes the weights of `weights.pth`, from fields of `ModelConfig`.

    `rdf.yaml` names this function and its arguments.
    """
    checked = ModelConfig.from_dict(config)
    return ExportedSegmenter(Segmenter(checked), checked.fixed_channels, checked.pixel_size_um)


def _state_dict(model: Model) -> bytes:
    """Weights as trained, not folded, for the module of `build_segmenter`."""
    buffer = io.BytesIO()
    torch.save({f"segmenter.{name}": tensor for name, tensor in model.segmenter.state_dict().items()}, buffer)
    return buffer.getvalue()


def _weights(model: Model, files: dict[str, bytes]) -> dict[str, Any]:
    """Entries of the three kinds of weights; the trainable ones are the parent of the others."""
    import onnx

    kwargs = {key: value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    scripted = torchscript_entry(files)
    opsets = onnx.load_model_from_string(files[ONNX_FILE]).opset_import
    return {
        "pytorch_state_dict": {
            **file_entry(files, STATE_FILE),
            "pytorch_version": scripted["pytorch_version"],
            "architecture": {"import_from": __name__, "callable": build_segmenter.__name__, "kwargs": kwargs},
        },
        "torchscript": {**scripted, "parent": "pytorch_state_dict"},
        "onnx": {
            **file_entry(files, ONNX_FILE),
            "opset_version": max(used.version for used in opsets if used.domain == ""),
            "parent": "pytorch_state_dict",
        },
    }


def _validate(rdf: Path) -> None:
    """Raise `ValueError` if `bioimageio.spec` rejects a description."""
    from bioimageio.spec import InvalidDescr, load_description

    described = load_description(rdf, format_version="latest")
    if isinstance(described, InvalidDescr):
        faults = "; ".join(str(error.msg) for error in described.validation_summary.errors)
        raise ValueError(f"bioimageio.spec does not accept the model's description: {faults}")
