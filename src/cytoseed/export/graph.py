"""A module of ours as an ONNX graph: traced by PyTorch's exporter, which is kept silent, and tidied."""

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
"""Version of ONNX's operators that graphs are written in."""

_INPUT = "image"


def trace(
    module: nn.Module, image: Tensor, output: str, free: Mapping[int, str], about: Mapping[str, str] | None = None
) -> bytes:
    """Write what a module does to an image as an ONNX file.

    Parameters
    ----------
    module : Module
        In eval mode, on the CPU, without loops that depend on data (`Segmenter.chunk_px` is 0). Not changed.
    image : Tensor
        An example of its one input, called `image` in the graph; its free sides are special in no way.
    output : str
        Name of its one output, which has as many axes as the image.
    free : mapping of int to str
        The axes, of image and output alike, that may have any length, and their names. A side of one pixel too.
    about : mapping of str to str, optional
        Facts for the file's metadata.

    Returns
    -------
    bytes
        The file, weights included. It says nothing of the machine it was made on.

    Raises
    ------
    ModuleNotFoundError
        The extra `onnx` is not installed.
    """
    require_exporter()
    from onnx_ir import Shape, serde

    any_size = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    with _silent(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (image,),
            dynamo=True,
            verbose=False,
            optimize=False,
            input_names=[_INPUT],
            output_names=[output],
            dynamic_shapes=[any_size],
            opset_version=OPSET,
            custom_translation_table={operator.le: _less_or_equal},
        )
    if program is None:
        raise RuntimeError("the ONNX exporter gave nothing")
    graph = program.model.graph
    _tidy(program.model)
    for value in (graph.inputs[0], graph.outputs[0]):
        value.shape = Shape([free.get(axis, side) for axis, side in enumerate(value.shape or ())])
    program.model.producer_name = "cytoseed"
    program.model.metadata_props.clear()
    program.model.metadata_props.update(about or {})
    content: bytes = serde.serialize_model(program.model).SerializeToString(deterministic=True)
    return content


def require_exporter() -> None:
    """Refuse to begin where the packages that make an ONNX file are not there.

    Raises
    ------
    ModuleNotFoundError
        The extra `onnx` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"an ONNX file is to be made, for which {error.name} is not installed: pip install 'cytoseed[onnx]'",
            name=error.name,
        ) from error


def _tidy(model: Any) -> None:
    """Leave out what is computed twice or for nothing: the exporter's own optimiser takes 50 times as long.

    What the exporter notes beside each node (where in which source file it comes from) goes too, and shapes of what
    lies between input and output: runtimes find them themselves.
    """
    from onnx_ir.passes import common
    from onnxscript.optimizer import fold_constants_ir

    common.RemoveUnusedNodesPass()(model)
    fold_constants_ir(model, onnx_shape_inference=False)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.DeduplicateInitializersPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    ends = (*model.graph.inputs, *model.graph.outputs)
    between = [value for node in model.graph for value in node.outputs if value not in ends]
    for value in (*ends, *between):
        value.metadata_props.clear()
    for value in between:
        value.shape = None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the exporter from warning that parts of itself are deprecated, and of packages that it would know."""
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
