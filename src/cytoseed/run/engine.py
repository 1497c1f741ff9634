"""Choice of device and precision, and models made ready for them."""

from __future__ import annotations

import copy
import ctypes
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cytoseed.core.model import Segmenter, Thresholds
from cytoseed.core.network import UNet
from cytoseed.core.score import object_evidence
from cytoseed.models.weights import Model
from cytoseed.settings import check_device

_BAND_PX = 256  # rows per band at the network's first level on a CPU: a multiple of its stride
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # names of mallopt(3)


def choose_device(name: str = "auto", precision: str = "float32") -> torch.device:
    """Device for a precision: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto` for the first present of CUDA, MPS and CPU."""
    check_device(name)
    kind, _, number = name.partition(":")
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    present = [device for device, is_present in (("cuda", cuda), ("mps", mps), ("cpu", True)) if is_present]
    if kind not in ("auto", *present):
        found = ", ".join(present)
        raise ValueError(f"device is {name!r}, which PyTorch does not find here; give one that it finds: auto, {found}")
    if number and int(number) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ValueError(f"device is {name!r}, and the last GPU that PyTorch finds here is cuda:{last}; give that one")
    device = torch.device(present[0] if name == "auto" else name)
    if precision == "bfloat16" and device.type == "mps":
        raise ValueError("precision is 'bfloat16', which needs device cpu or cuda, and device is 'mps': give float32")
    return device


def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether the device has units for bfloat16: a recent NVIDIA GPU's, a CPU's AMX or AVX-512 BF16."""
    if device.type == "cpu":
        units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(bool(getattr(torch.cpu, unit, lambda: False)()) for unit in units)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class Engine:
    """A segmenter made ready for one device and precision.

    Folded normalisation layers and the fastest memory layout halve the time of the `lite` network on 2 CPU cores.
    float32 is computed without TF32, so that objects are the same on every device but for rounding. On `mps` only the
    network runs on the GPU, since integer scatter reductions are missing there.
    """

    def __init__(self, segmenter: Segmenter, device: torch.device, precision: str = "float32") -> None:
        self.device = device
        self._backbone = copy.deepcopy(segmenter).cpu().eval()
        self._postprocessor = copy.deepcopy(self._backbone) if device.type == "mps" else self._backbone
        network = self._backbone.network
        network.fold()
        network.to(device)
        if device.type == "cpu":
            keep_freed_memory()
            network.fuse_upsampling()
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            network.band_px = _BAND_PX
        self._backbone.add_module("network", _Bfloat16(network) if precision == "bfloat16" else network)
        self._backbone.to(device)

    def labels(self, image: Tensor, thresholds: Thresholds, tta: bool = False) -> Tensor:
        """Labels (T, H, W) int32, on the CPU, of one image (C, H, W) float32, normalised, at the model's pixel size."""
        return self.labels_of_views(self.views(image[None], tta), thresholds)[0]

    @torch.inference_mode()
    def views(self, images: Tensor, tta: bool = False) -> Tensor:
        """Fields (V, N, T, F, H, W) of images (N, C, H, W): V is 8 with test-time augmentation, else 1."""
        with _full_precision(self.device):
            batch = images.to(self.device)
            if self.device.type == "cpu":
                batch = batch.contiguous(memory_format=torch.channels_last)
            return self._backbone.views(batch) if tta else self._backbone.fields(batch)[None]

    @torch.inference_mode()
    def labels_of_views(self, views: Tensor, thresholds: Thresholds) -> tuple[Tensor, Tensor]:
        """Labels (T, H, W) int32 of the fields (V, 1, T, F, H, W) of one image or a region of it, on the CPU.

        Also returns the evidence (T, K + 1, 2) for each id from 1 to K: see `object_evidence`.
        """
        fields = views if self._postprocessor is self._backbone else views.cpu()
        with torch.autocast(fields.device.type, enabled=False):
            found = self._postprocessor.scored_labels(fields, thresholds)
            labels = found.labels[0]
            count = int(labels.max()) if labels.numel() else 0
            maps = zip(labels, found.seed_maps[0], found.logits[0], strict=True)
            evidence = torch.stack([object_evidence(*of_target, count) for of_target in maps])
            return labels.cpu(), evidence.cpu()


_CREATION, _CUDNN_FLAGS = threading.Lock(), threading.Lock()
_ENGINES: weakref.WeakKeyDictionary[Model, dict[tuple[str, str], Engine]] = weakref.WeakKeyDictionary()


def engine_for(model: Model, device: torch.device, precision: str = "float32") -> Engine:
    """Engine of a model on a device: made once and kept as long as the model lives; later weights are not noticed."""
    key = (str(device), precision)
    with _CREATION:
        engines = _ENGINES.setdefault(model, {})
        if key not in engines:
            engines[key] = Engine(model.segmenter, device, precision)
        return engines[key]


def keep_freed_memory() -> None:
    """Make glibc keep large freed blocks for the next layer instead of handing them back to the kernel.

    The kernel clears every block above 32 MiB page by page: on two cores 40 % of the time of the `lite` network on a
    1024 x 1024 image. Freed memory returns to the system by `memory.trim`. On other systems nothing is done.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)  # one arena per thread would hold several times as much
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)


class _Bfloat16(nn.Module):
    """A network in bfloat16 with float32 input and output."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        half = image.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        result: Tensor = self.network(half).to(torch.float32)
        return result


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Disable a caller's autocast, and TF32 on CUDA: a switch of the whole process, so threads take turns."""
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        cudnn = torch.backends.cudnn
        flags = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
        with _CUDNN_FLAGS, cudnn.flags(**flags, allow_tf32=False):
            yield
