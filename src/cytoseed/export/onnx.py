"""A model as ONNX: the whole method in one graph, and its network alone. Both are traced from the Python code."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cytoseed import __version__
from cytoseed.core.model import Segmenter
from cytoseed.core.prepare import normalise
from cytoseed.export.graph import trace
from cytoseed.models.weights import Model
from cytoseed.paths import write_bytes
from cytoseed.settings import ModelConfig


def to_onnx(model: Model, path: str | Path, normalised: bool = False) -> Path:
    """Write the whole method as ONNX, from an image to its labels, and return the path; the file is replaced whole.

    The input `image` is (1,C,H,W) float32 at the model's pixel size, with the model's number of channels (runtimes
    refuse any other; repeat a grey image); H and W are at least 1. Values are finite and raw, and are normalised by
    percentiles of the image, or are `normalised` already (`core.prepare.normalise`). The output `labels` is (1,T,H,W)
    int32, as `Segmenter.forward` returns it, with the model's own thresholds. The graph holds the windows of all
    objects at once, so its memory grows with their number.

    The file's metadata, all as text: `name`, `version`, `description`, `licence` and `sha256` of the model; `input`
    (`raw` or `normalised`); `pixel_size_um`; `channels`; `targets`, separated by commas; the thresholds by their
    names; `cytoseed`, the version that wrote the file. Raises `ModuleNotFoundError` without the extra `onnx`.
    """
    segmenter = _folded(model)
    segmenter.chunk_px = 0  # a traced graph has no loops
    side = 4 * segmenter.stride + 6  # not a multiple of anything
    example = torch.rand(1, model.config.example_channels, side, side + 20, generator=torch.Generator().manual_seed(0))
    module = segmenter if normalised else _FromRaw(segmenter)
    metadata = onnx_metadata(model.config, "normalised" if normalised else "raw")
    is_any = model.config.fixed_channels == 0
    write_bytes(Path(path), trace(module.eval(), example, "labels", {2: "height", 3: "width"}, metadata, is_any))
    return Path(path)


def network_to_onnx(model: Model, path: str | Path) -> Path:
    """Write the network alone as ONNX, for programs that do the rest themselves.

    The input `image` is (N,C,H,W) float32, normalised (`core.prepare.normalise`), H and W multiples of the network's
    stride. The output `fields` is (N,F,H,W) float32, the unbounded result of `UNet.forward`, where F is the number of
    targets times `Segmenter.field_count`. N, H and W are free. The metadata is that of `to_onnx` and the `stride`.
    """
    segmenter = _folded(model)
    example = torch.zeros(2, model.config.example_channels, 6 * segmenter.stride, 7 * segmenter.stride)
    metadata = {**onnx_metadata(model.config, "normalised"), "stride": str(segmenter.stride)}
    free, is_any = {0: "batch", 2: "height", 3: "width"}, model.config.fixed_channels == 0
    write_bytes(Path(path), trace(segmenter.network, example, "fields", free, metadata, is_any))
    return Path(path)


class _FromRaw(nn.Module):
    """The segmenter after the normalisation of a single image."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        labels: Tensor = self.segmenter(normalise(image[0])[None])
        return labels


def _folded(model: Model) -> Segmenter:
    """Copy of a model's segmenter on the CPU, normalisation folded into the convolutions."""
    segmenter = copy.deepcopy(model.segmenter).cpu().eval()
    segmenter.network.fold()
    return segmenter


def onnx_metadata(config: ModelConfig, kind: str) -> dict[str, str]:
    """Metadata of a file that takes `raw` or `normalised` images."""
    facts = ("name", "version", "description", "licence", "sha256", "pixel_size_um", "channels")
    thresholds = ("peak_radius_px", "seed_threshold", "mask_threshold", "agreement_iou", "min_size_px")
    values = {name: str(getattr(config, name)) for name in (*facts, *thresholds)}
    return {**values, "targets": ",".join(config.targets), "input": kind, "cytoseed": __version__}
