"""A model as ONNX: the whole method in one graph, and its network alone. Nothing is written again, but traced."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from cytoseed import __version__
from cytoseed.core.model import Segmenter
from cytoseed.core.prepare import normalise
from cytoseed.export.graph import require_exporter, trace
from cytoseed.models.weights import Model
from cytoseed.paths import write_bytes
from cytoseed.run.network_file import make_network_file
from cytoseed.settings import ModelConfig

_RAW, _NORMALISED = "raw", "normalised"


def to_onnx(model: Model, path: str | Path, normalised: bool = False) -> Path:
    """Write the whole method as ONNX, from an image to its labels.

    Its input `image` is (1,C,H,W) float32 at the model's pixel size, with as many channels as the model has (a grey
    image is repeated; runtimes refuse any other number); H and W are 1 or more. Its output `labels` is (1,T,H,W) int32,
    as `Segmenter.forward` gives it, with the model's own thresholds. All windows of an image are held in memory,
    so that it grows with the number of objects.

    The file's metadata says what it is, in texts by name: `name`, `version`, `description`, `licence` and `sha256` of
    the model; `input`, `raw` or `normalised`; `pixel_size_um`; `channels`; `targets`, separated by commas; the
    thresholds by their names; and `cytoseed`, the version that wrote it.

    Parameters
    ----------
    model : Model
        Every model can be written: all that its configuration may say is in the graph.
    path : str or Path
        File to write; it appears whole or not at all.
    normalised : bool
        The image is normalised already (`core.prepare.normalise`). Else it is raw, of finite values, and normalised in
        the graph by its own percentiles.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModuleNotFoundError
        The extra `onnx` is not installed.
    """
    require_exporter()
    segmenter = copy.deepcopy(model.segmenter).cpu().eval()
    segmenter.network.fold()
    segmenter.chunk_px = 0  # a traced graph has no loops
    side = 4 * segmenter.stride + 6  # a size that is special in no way
    example = torch.rand(1, model.config.channels, side, side + 20, generator=torch.Generator().manual_seed(0))
    module = segmenter if normalised else _FromRaw(segmenter)
    about = _about(model.config, _NORMALISED if normalised else _RAW)
    return _write(trace(module.eval(), example, "labels", {2: "height", 3: "width"}, about), path)


def network_to_onnx(model: Model, path: str | Path) -> Path:
    """Write the network alone as ONNX, for programs that do the rest themselves.

    Its input `image` is (N,C,H,W) float32, normalised (`core.prepare.normalise`), H and W multiples of the network's
    stride; its output `fields` (N,F,H,W) float32 is what `UNet.forward` gives: T times as many channels as
    `Segmenter.field_count`, not bounded. N, H and W are free.

    Parameters
    ----------
    model : Model
    path : str or Path
        File to write; it appears whole or not at all. Its metadata is that of `to_onnx`, with the `stride`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModuleNotFoundError
        The extra `onnx` is not installed.
    """
    require_exporter()
    network = copy.deepcopy(model.segmenter.network).cpu().eval()
    network.fold()
    about = {**_about(model.config, _NORMALISED), "stride": str(model.segmenter.stride)}
    return _write(make_network_file(network, about), path)


class _FromRaw(nn.Module):
    """The segmenter behind the normalisation of its one image."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, image: Tensor) -> Tensor:
        labels: Tensor = self.segmenter(normalise(image[0])[None])
        return labels


def _about(config: ModelConfig, kind: str) -> dict[str, str]:
    """Say what a file is, in the texts of its metadata."""
    own = ("name", "version", "description", "licence", "sha256", "pixel_size_um", "channels")
    thresholds = ("peak_radius_px", "seed_threshold", "mask_threshold", "agreement_iou", "min_size_px")
    facts = {name: str(getattr(config, name)) for name in (*own, *thresholds)}
    return {**facts, "targets": ",".join(config.targets), "input": kind, "cytoseed": __version__}


def _write(content: bytes, path: str | Path) -> Path:
    """Write a file and give its path."""
    place = Path(path)
    write_bytes(place, content)
    return place
