"""Trace a module into an ONNX file with PyTorch's exporter, and remove redundant nodes."""

from __future__ import annotations

import logging
import operator
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 18
"""Version of ONNX's operators in which graphs are written."""


def trace(
    module: nn.Module,
    image: Tensor,
    output: str,
    free: Mapping[int, str],
    metadata: Mapping[str, str] | None = None,
    any_channels: bool = False,
) -> bytes:
    """ONNX file of a module, weights included, without paths of this machine; its only input is called `image`.

    The module is in eval mode, on the CPU, without loops that depend on data (`Segmenter.chunk_px` is 0); it is not
    changed. `image` is an example of the input, of arbitrary size. `free` names the axes of both image and `output`
    that may have any length of at least 1; with `any_channels`, the second axis of the image does too. Raises
    `ModuleNotFoundError` without the extra `onnx`.
    """
    _require_exporter()
    of_image = {**free, 1: "channels"} if any_channels else free
    from onnx_ir import Shape, serde

    with _silent(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            verbose=False,
            optimize=False,
            input_names=["image"],
            output_names=[output],
            dynamic_shapes=[dict.fromkeys(of_image, torch.export.Dim.DYNAMIC)],
            opset_version=OPSET,
            custom_translation_table={operator.le: _less_or_equal},
        )
    if program is None:
        raise RuntimeError("the ONNX exporter returned nothing; please report this")
    graph = program.model.graph
    _simplify(program.model)
    for value, names in ((graph.inputs[0], of_image), (graph.outputs[0], free)):
        value.shape = Shape([names.get(axis, side) for axis, side in enumerate(value.shape or ())])
    program.model.producer_name = "cytoseed"
    program.model.metadata_props.clear()
    program.model.metadata_props.update(metadata or {})
    content: bytes = serde.serialize_model(program.model).SerializeToString(deterministic=True)
    return content


def _require_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"writing an ONNX file needs {error.name}, which is not installed: pip install 'cytoseed[onnx]'",
            name=error.name,
        ) from error


def _simplify(model: Any) -> None:
    """Remove duplicate and unused nodes (the exporter's optimiser takes 50 times as long), notes and inner shapes."""
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    common.RemoveUnusedNodesPass()(model)
    fold_constants_ir(model, onnx_shape_inference=False)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    ends = (*model.graph.inputs, *model.graph.outputs)
    inner = [value for node in model.graph for value in node.outputs if value not in ends]
    for value in (*ends, *inner):
        value.metadata_props.clear()
    for value in inner:
        value.shape = None


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the exporter's warnings about its own deprecations and optional packages."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _less_or_equal(left: Any, right: Any) -> Any:
    """Compare sizes; the exporter checks some against bounds beyond 64 bits, which ONNX cannot hold."""
    from onnxscript import opset18

    return opset18.LessOrEqual(left, min(right, 2**63 - 1) if isinstance(right, int) else right)
