"""A model for bioimage.io and the programs that run its models: TorchScript, ONNX, and weights to train further."""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoseed.export.qupath import hashes, package_files, torchscript_entry, write_package
from cytoseed.export.rdf import RDF_FILE, package_name, rdf_yaml
from cytoseed.models.weights import Model
from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    from cytoseed.export.torchscript import ExportedSegmenter

ONNX_FILE = "model.onnx"
STATE_FILE = "weights.pth"
_ORIGIN = ("description", "licence", "version", "trained_on", "recipe", "figures", "sha256")


def to_bioimageio(model: Model, folder: str | os.PathLike[str]) -> Path:
    """Write a model for bioimage.io into `folder/NAME-VERSION`, and the same files into `folder/NAME-VERSION.zip`.

    All weights take images normalised as `rdf.yaml` states, and return labels. Writing the ONNX graph takes minutes.

    Parameters
    ----------
    model : Model
    folder : str or path
        Made if necessary.

    Returns
    -------
    Path
        `folder/NAME-VERSION`.

    Raises
    ------
    ModuleNotFoundError
        The extra `bioimageio` or `onnx` is not installed.
    ValueError
        bioimage.io does not allow the model's name, version or licence, or `bioimageio.spec` rejects the description.
    """
    name = package_name(model.config)
    _require_extras()
    from cytoseed.export.onnx import to_onnx

    files = package_files(model, name)
    with tempfile.TemporaryDirectory(prefix="cytoseed-") as temporary:
        files[ONNX_FILE] = to_onnx(model, Path(temporary) / ONNX_FILE, normalised=True).read_bytes()
        files[STATE_FILE] = _state_dict(model)
        files[RDF_FILE] = rdf_yaml(model.config, _weights(model, files), hashes(files), any_channels=False).encode()
        _validate(write_package(files, temporary, name) / RDF_FILE)
    return write_package(files, folder, name)


def build_segmenter(**config: Any) -> ExportedSegmenter:
    """Build the module that takes the weights of `weights.pth`; `rdf.yaml` names this function and its arguments.

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
                f"a package for bioimage.io needs {package}, which is not installed: pip install 'cytoseed[{extra}]'"
            )


def _state_dict(model: Model) -> bytes:
    """Weights as trained, not folded, for the module of `build_segmenter`."""
    import torch

    buffer = io.BytesIO()
    torch.save({f"segmenter.{name}": tensor for name, tensor in model.segmenter.state_dict().items()}, buffer)
    return buffer.getvalue()


def _weights(model: Model, files: dict[str, bytes]) -> dict[str, Any]:
    """Entries of the three kinds of weights; the trainable ones are the parent of the others."""
    import onnx

    sha256 = hashes(files)
    kwargs = {key: value for key, value in model.config.to_dict().items() if key not in _ORIGIN}
    scripted = torchscript_entry(files)
    graph = onnx.load_model_from_string(files[ONNX_FILE])
    return {
        "pytorch_state_dict": {
            "source": STATE_FILE,
            "sha256": sha256[STATE_FILE],
            "pytorch_version": scripted["pytorch_version"],
            "architecture": {"import_from": __name__, "callable": build_segmenter.__name__, "kwargs": kwargs},
        },
        "torchscript": {**scripted, "parent": "pytorch_state_dict"},
        "onnx": {
            "source": ONNX_FILE,
            "sha256": sha256[ONNX_FILE],
            "opset_version": max(used.version for used in graph.opset_import if used.domain == ""),
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
