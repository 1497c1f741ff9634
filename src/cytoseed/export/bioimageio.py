"""A model for bioimage.io and what runs models from there: TorchScript, ONNX, and weights to train further."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoseed.export.description import RDF_FILE, describe, package_name
from cytoseed.export.qupath import shared_files, torchscript_entry
from cytoseed.export.zipped import hashes, put_package
from cytoseed.models.weights import Model
from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    from cytoseed.export.torchscript import ExportedSegmenter

ONNX_FILE = "model.onnx"
STATE_FILE = "weights.pth"
_ORIGIN = ("description", "licence", "version", "trained_on", "recipe", "figures", "sha256")


def to_bioimageio(model: Model, folder: str | os.PathLike[str]) -> Path:
    """Write a model for bioimage.io into `folder/NAME-VERSION`, and the same files into `folder/NAME-VERSION.zip`.

    All weights take normalised images, as `rdf.yaml` says they are to be made, and give labels. The ONNX graph takes
    minutes to make.

    Parameters
    ----------
    model : Model
    folder : str or path
        Where to; made if need be.

    Returns
    -------
    Path
        `folder/NAME-VERSION`.

    Raises
    ------
    ModuleNotFoundError
        The extra `bioimageio` or `onnx` is not installed.
    ValueError
        The model's name, version or licence cannot be written as bioimage.io wants them, or `bioimageio.spec` finds
        another fault in what would be written.
    """
    name = package_name(model.config)
    _require_extras()
    from cytoseed.export.onnx import to_onnx

    files = shared_files(model, name)
    with tempfile.TemporaryDirectory(prefix="cytoseed-") as place:
        files[ONNX_FILE] = to_onnx(model, Path(place) / ONNX_FILE, normalised=True).read_bytes()
        files[STATE_FILE] = _state(model)
        files[RDF_FILE] = describe(model.config, _weights(model, files), hashes(files), any_channels=False).encode()
        _validate(put_package(files, place, name) / RDF_FILE)
    return put_package(files, folder, name)


def build_segmenter(**config: Any) -> ExportedSegmenter:
    """Build the module whose weights `weights.pth` holds; `rdf.yaml` names this function and gives its arguments.

    Parameters
    ----------
    **config
        Fields of `ModelConfig`.

    Returns
    -------
    ExportedSegmenter
        With random weights.
    """
    from cytoseed.core.model import Segmenter
    from cytoseed.export.torchscript import ExportedSegmenter

    checked = ModelConfig.from_dict(config)
    return ExportedSegmenter(Segmenter(checked), checked.channels, checked.pixel_size_um)


def _require_extras() -> None:
    for package, extra in (("bioimageio", "bioimageio"), ("onnx", "onnx"), ("onnxscript", "onnx")):
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"{package} is not installed, with which a package for bioimage.io is made: "
                f"pip install 'cytoseed[{extra}]'"
            )


def _state(model: Model) -> bytes:
    """Give the weights as they were trained, not folded, as `build_segmenter`'s module takes them."""
    import torch

    buffer = io.BytesIO()
    torch.save({f"segmenter.{name}": tensor for name, tensor in model.segmenter.state_dict().items()}, buffer)
    return buffer.getvalue()


def _weights(model: Model, files: dict[str, bytes]) -> dict[str, Any]:
    """Describe the three kinds of weights; those that can be trained further are the ones the others were made of."""
    import onnx

    known = hashes(files)
    kwargs = {key: value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    scripted = torchscript_entry(files)
    graph = onnx.load_model_from_string(files[ONNX_FILE])
    return {
        "pytorch_state_dict": {
            "source": STATE_FILE,
            "sha256": known[STATE_FILE],
            "pytorch_version": scripted["pytorch_version"],
            "architecture": {"import_from": __name__, "callable": build_segmenter.__name__, "kwargs": kwargs},
        },
        "torchscript": {**scripted, "parent": "pytorch_state_dict"},
        "onnx": {
            "source": ONNX_FILE,
            "sha256": known[ONNX_FILE],
            "opset_version": max(used.version for used in graph.opset_import if used.domain == ""),
            "parent": "pytorch_state_dict",
        },
    }


def _validate(rdf: Path) -> None:
    """Refuse a description that `bioimageio.spec` does not accept."""
    from bioimageio.spec import InvalidDescr, load_description

    described = load_description(rdf, format_version="latest")
    if isinstance(described, InvalidDescr):
        faults = "; ".join(str(error.msg) for error in described.validation_summary.errors)
        raise ValueError(f"bioimageio.spec does not accept the model's description: {faults}")
