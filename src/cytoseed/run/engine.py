"""The one place that picks the device and what runs the network on it, and makes a model ready for both."""

from __future__ import annotations

import copy
import ctypes
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cytoseed.core.model import Segmenter, Thresholds
from cytoseed.models.weights import Model
from cytoseed.run.runtimes import choose_runtime, ready_network
from cytoseed.settings import DEVICES

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # names of mallopt(3)


def choose_device(name: str = "auto") -> torch.device:
    """Pick the device to run on.

    Parameters
    ----------
    name
        `cpu`, `cuda`, `mps`, or `auto`: the first present of CUDA, MPS and CPU.

    Raises
    ------
    ValueError
        The device is unknown, or this machine has none.
    """
    if name not in DEVICES:
        raise ValueError(f"device is {name!r}; it must be one of {', '.join(DEVICES)}")
    present = _present_devices()
    if name == "auto":
        return torch.device(present[0])
    if name not in present:
        raise ValueError(
            f"device is {name!r}, which PyTorch does not find here; it finds {', '.join(present)}. "
            f"Give one of these, or auto"
        )
    return torch.device(name)


class Engine:
    """A segmenter made ready for one device, with its network in one runtime and precision.

    Normalisation layers are folded into convolutions, and convolutions run on the memory layout that is
    fastest there: on 2 CPU cores both together halve the time of the `lite` network. In float32, the default, it is
    computed without TF32, so that the objects are the same on every device and in every runtime but for rounding.
    bfloat16 is for the network alone.

    Parameters
    ----------
    segmenter
        Copied: the one given stays as it is, where it is.
    device
        As `choose_device` gives it. On `mps` the network runs on the GPU and what follows it on the CPU:
        scatter reductions over integers are not all there. That path could not be tried on such a machine.
    runtime, precision
        As `choose_runtime` takes them.

    Attributes
    ----------
    device : torch.device
        The one given.
    runtime : str
        What runs the network: `torch`, `onnxruntime` or `openvino`.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As `choose_runtime`; also if the network's ONNX file has to be made, and the extra `onnx` is not installed.
    """

    def __init__(
        self, segmenter: Segmenter, device: torch.device, runtime: str = "auto", precision: str = "float32"
    ) -> None:
        self.device = device
        self.runtime = choose_runtime(runtime, device, precision)
        self._backbone = copy.deepcopy(segmenter).cpu().eval()
        self._rest = copy.deepcopy(self._backbone) if device.type == "mps" else self._backbone
        self._backbone.network.fold()
        ready = ready_network(self._backbone.network, device, self.runtime, precision)
        self._backbone.add_module("network", ready)
        self._backbone.to(device)
        if device.type == "cpu" and self.runtime == "torch":  # others keep their own, and would leave gaps in this
            keep_freed_memory()

    def labels(self, image: Tensor, thresholds: Thresholds, tta: bool = False) -> Tensor:
        """Segment one image in one piece.

        Parameters
        ----------
        image : Tensor, shape (C, H, W), float32
            Normalised, at the model's pixel size, with the model's channels; on any device.
        thresholds
            What counts as a seed and as an object.
        tta
            Test-time augmentation: see all eight flips and quarter turns.

        Returns
        -------
        Tensor, shape (T, H, W), int32, on the CPU
            A channel for each of the model's targets; 0 is background, ids are 1..K.
        """
        return self.labels_of_views(self.views(image[None], tta), thresholds)

    @torch.inference_mode()
    def views(self, images: Tensor, tta: bool = False) -> Tensor:
        """Run the network alone on images of one size.

        Parameters
        ----------
        images : Tensor, shape (N, C, H, W), float32
            Each as for `labels`.
        tta
            As for `labels`.

        Returns
        -------
        Tensor, shape (V, N, T, F, H, W), float32, on the device
            V is 8 with test-time augmentation, else 1.
        """
        with _as_chosen(self.device):
            batch = self._batch(images)
            return self._backbone.views(batch) if tta else self._backbone.fields(batch)[None]

    @torch.inference_mode()
    def labels_of_views(self, views: Tensor, thresholds: Thresholds) -> Tensor:
        """Find the objects of one image, or of a part of one.

        Parameters
        ----------
        views : Tensor, shape (V, 1, T, F, H, W), float32
            What `views` gave for one image, or a region of it.
        thresholds
            As for `labels`.

        Returns
        -------
        Tensor, shape (T, H, W), int32, on the CPU
            As `labels`.
        """
        seen = views if self._rest is self._backbone else views.cpu()
        with torch.autocast(seen.device.type, enabled=False):
            return self._rest.labels_of_views(seen, thresholds)[0].cpu()

    def fields(self, image: Tensor) -> Tensor:
        """Run the network alone.

        Parameters
        ----------
        image : Tensor, shape (C, H, W), float32
            As for `labels`.

        Returns
        -------
        Tensor, shape (1, T, F, H, W), float32, on the device
        """
        return self.views(image[None])[0]

    def _batch(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) where and as the network takes them."""
        batch = images.to(self.device)
        packed = self.device.type == "cpu" and self.runtime == "torch"
        return batch.contiguous(memory_format=torch.channels_last) if packed else batch


_MAKING, _SWITCHING = threading.Lock(), threading.Lock()  # engines; what cuDNN does in the whole process
_ENGINES: weakref.WeakKeyDictionary[Model, dict[tuple[str, str, str], Engine]] = weakref.WeakKeyDictionary()


def engine_for(model: Model, device: torch.device, runtime: str = "auto", precision: str = "float32") -> Engine:
    """
    Give the engine of a model on a device, in a runtime and a precision; the same one as long as the model lives.

    Parameters
    ----------
    model
        Its weights are taken when the engine is first asked for; later changes to them are not seen.
    device
        As `choose_device` gives it.
    runtime, precision
        As `choose_runtime` takes them.

    Raises
    ------
    ModuleNotFoundError, ValueError
        As `Engine`.
    """
    key = (str(device), choose_runtime(runtime, device, precision), precision)
    with _MAKING:
        own = _ENGINES.setdefault(model, {})
        if key not in own:
            own[key] = Engine(model.segmenter, device, runtime, precision)
        return own[key]


def _present_devices() -> list[str]:
    """Devices of this machine, fastest first."""
    present = ["cpu"]
    if torch.backends.mps.is_available():
        present.insert(0, "mps")
    if torch.cuda.is_available():
        present.insert(0, "cuda")
    return present


def keep_freed_memory() -> None:
    """Let the C library keep large freed blocks for the next layer instead of handing them back to the kernel.

    By default glibc maps and unmaps every block above 32 MiB, and the kernel clears it page by page each time: on two
    cores that is 40 % of the time of the `lite` network on a 1024 x 1024 image. What is freed
    is given back when the process ends, or by `memory.give_back`. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_ARENA_MAX, 1)  # threads that each kept their own would hold several times as much
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 64 << 20)


@contextmanager
def _as_chosen(device: torch.device) -> Iterator[None]:
    """Compute as precisely as was chosen: without a caller's autocast, and on CUDA without TF32.

    TF32, cuDNN's default, keeps 10 bits of a convolution's factors. It is switched for the whole process, so threads
    take turns.
    """
    with torch.autocast(device.type, enabled=False):
        if device.type != "cuda":
            yield
            return
        cudnn = torch.backends.cudnn
        kept = {"enabled": cudnn.enabled, "benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic}
        with _SWITCHING, cudnn.flags(**kept, allow_tf32=False):
            yield
