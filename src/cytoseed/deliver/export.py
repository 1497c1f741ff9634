"""The same module for other runtimes: TorchScript and ONNX. Nothing is written again, the module is only wrapped."""

from __future__ import annotations

import copy
import operator
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model

ONNX_OPSET = 18


def to_torchscript(model: Model, path: str | Path) -> Path:
    """Write the whole method as TorchScript: `forward(image (N,C,H,W)) -> labels (N,T,H,W)`; normalise first.

    Parameters
    ----------
    model : Model
    path : str or Path
        File to write; it appears whole or not at all.

    Returns
    -------
    Path
        The file. `torch.jit.load` opens it.
    """
    place = Path(path)
    beside = place.with_name(f".{place.name}.partial")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated, and QuPath's only door
        scripted = torch.jit.script(_folded(model))
        scripted.save(str(beside))  # type: ignore[no-untyped-call]
    os.replace(beside, place)
    return place


def to_onnx(model: Model, path: str | Path) -> Path:
    """Write the whole method as ONNX: input `image` (1,C,H,W) float32 of any H and W, output `labels` (1,T,H,W) int32.

    All windows of an image are held in memory at once there, so that it grows with the number of nuclei.

    Parameters
    ----------
    model : Model
    path : str or Path
        File to write; it appears whole or not at all.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModuleNotFoundError
        If the extra `onnx` is not installed.
    """
    segmenter = _folded(model)
    segmenter.chunk_px = 0  # a traced graph has no loops
    side = 4 * segmenter.stride + 6  # a size that is special in no way
    example = torch.rand(1, model.config.channels, side, side + 20, generator=torch.Generator().manual_seed(0))
    free = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter deprecates parts of itself
        program = torch.onnx.export(
            segmenter,
            (example,),
            dynamo=True,
            verbose=False,
            input_names=["image"],
            output_names=["labels"],
            dynamic_shapes={"image": {2: free, 3: free}},
            opset_version=ONNX_OPSET,
            custom_translation_table={operator.le: _less_or_equal},
        )
    place = Path(path)
    beside = place.with_name(f".{place.name}.partial")
    if program is None:
        raise RuntimeError("the ONNX exporter gave nothing")
    program.save(str(beside))
    os.replace(beside, place)
    return place


def _folded(model: Model) -> Segmenter:
    """Copy, in eval mode, with batch normalisation folded into the convolutions."""
    segmenter = copy.deepcopy(model.segmenter).cpu().eval()
    segmenter.network.fold()
    return segmenter


def _less_or_equal(left: Any, right: Any) -> Any:
    """Compare sizes; the exporter checks some against bounds beyond 64 bits, which ONNX cannot hold."""
    from onnxscript import opset18

    return opset18.LessOrEqual(left, min(right, 2**63 - 1) if isinstance(right, int) else right)
