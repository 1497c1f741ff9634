"""Check that exported files, reopened as their users open them, give the same objects as the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.core.prepare import normalise
from cytoseed.export.torchscript import open_torchscript
from cytoseed.learn.metrics import score
from cytoseed.models.weights import Model

_MIN_IOU = 0.9  # lowest IoU of an object with its counterpart: rounding moves single pixels at borders
_FIELD_TOLERANCE = 1e-3

Run = Callable[[NDArray[np.float32]], NDArray[Any]]


class Agreement(NamedTuple):
    """Comparison of the reopened files with the model, over all files and images."""

    files: int
    """Number of files."""
    objects: int
    """Number of objects that the model finds."""
    differing_px: int
    """Pixels that belong to an object in one result and to none in the other."""


def check_files(model: Model, folder: Path) -> Agreement:
    """Compare every TorchScript and ONNX file in a folder and its subfolders with the model.

    Raises `RuntimeError` if a file does not find the same objects as the model, or if there is no file.
    """
    files = objects = differing = 0
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".pt", ".onnx"):
            continue
        files += 1
        run = _torchscript(path) if path.suffix == ".pt" else _onnx(path)
        for name, raw in _images(model.config.example_channels):
            if path.name.endswith(".network.onnx"):
                _check_network(model, run, raw, path)
                continue
            wanted, found = _labels(model, raw), run(raw)
            differing += _compare(wanted, found, f"{path.name} on {name}")
            objects += int(wanted.max())
    if not files:
        raise RuntimeError(f"no TorchScript or ONNX file was written to {folder}")
    return Agreement(files, objects, differing)


def _labels(model: Model, raw: NDArray[np.float32]) -> NDArray[np.int32]:
    """Labels (T,H,W) of a raw image (C,H,W) by the model itself."""
    with torch.inference_mode():
        labels: NDArray[np.int32] = model.segmenter(normalise(torch.from_numpy(raw))[None])[0].numpy()
    return labels


def _torchscript(path: Path) -> Run:
    """Open a TorchScript file as a function from raw images (C,H,W) to labels (T,H,W)."""
    module = open_torchscript(path)

    def run(raw: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            labels: NDArray[Any] = module(module.normalise(torch.from_numpy(raw))[None])[0].numpy()
        return labels

    return run


def _onnx(path: Path) -> Run:
    """Open an ONNX file as a function from raw images (C,H,W) to labels (T,H,W), or to the fields of the network."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    is_raw = session.get_modelmeta().custom_metadata_map["input"] == "raw"

    def run(image: NDArray[np.float32]) -> NDArray[Any]:
        pixels = image if is_raw else normalise(torch.from_numpy(image)).numpy()
        result: NDArray[Any] = session.run(None, {"image": pixels[None]})[0][0]
        return result

    return run


def _compare(wanted: NDArray[Any], found: NDArray[Any], where: str) -> int:
    """Count the pixels of labels (T,H,W) that are background in only one of them; `RuntimeError` if objects differ."""
    if wanted.shape != found.shape:
        raise RuntimeError(f"{where}: gives labels of shape {found.shape}, where the model gives {wanted.shape}")
    differing = 0
    for own, theirs in zip(wanted, found.astype(np.int32), strict=True):
        agreement = score(theirs, own)
        if agreement.f1_at(_MIN_IOU) < 1 and (agreement.true_objects or agreement.predicted_objects):
            raise RuntimeError(
                f"{where}: finds {agreement.predicted_objects} objects, where the model finds "
                f"{agreement.true_objects}; not all are the same. Please report this as a bug of cytoseed"
            )
        differing += int(((own > 0) != (theirs > 0)).sum())
    return differing


def _check_network(model: Model, run: Run, raw: NDArray[np.float32], path: Path) -> None:
    """Raise `RuntimeError` if the fields of the network alone differ."""
    stride = model.segmenter.stride
    height, width = (side - side % stride for side in raw.shape[1:])
    if height and width:
        cut = np.ascontiguousarray(raw[:, :height, :width])
        with torch.inference_mode():
            fields = model.segmenter.network(normalise(torch.from_numpy(cut))[None])[0].numpy()
        apart = float(np.abs(fields - run(cut)).max())
        if not apart < _FIELD_TOLERANCE:
            raise RuntimeError(f"{path.name}: fields differ from the model's by {apart:.2g}. Please report this")


def _images(channels: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Raw images (C,H,W) for the comparison: tissue, an odd part of it, a part smaller than a window, a black image."""
    from skimage import data

    section = data.immunohistochemistry()[150:406, 200:488].astype(np.float32).mean(2)
    real = np.repeat((255 - section)[None], channels, axis=0)
    yield "a section", real
    yield "a part of it", np.ascontiguousarray(real[:, 11:124, 40:201])
    yield "20 x 31 px", np.ascontiguousarray(real[:, 60:80, 90:121])
    yield "an empty image", np.zeros((channels, 64, 70), np.float32)
