"""What can run the network: PyTorch, ONNX Runtime, OpenVINO; in float32 or bfloat16.

Each is a module that stands in for the network in a `Segmenter`: from the padded image to raw fields. What comes before
and after it is PyTorch's in any case.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cytoseed.core.network import UNet
from cytoseed.run.network_file import network_file
from cytoseed.settings import PRECISIONS, RUNTIMES

_BAND_PX = 256  # rows at a time at the network's first level on a CPU: a multiple of its stride
_EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
_SESSIONS = 2  # kept by a network: one of all cores, and one of the single core that follows it in tiles

_Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def choose_runtime(name: str, device: torch.device, precision: str = "float32") -> str:
    """Pick what runs the network on a device, and see that it is there.

    Parameters
    ----------
    name : {'auto', 'torch', 'onnxruntime', 'openvino'}
        `auto` is `torch` everywhere: it needs nothing more to be installed, and in float32 no other was faster by more
        than a tenth (docs/benchmarks.md).
    device
        As `choose_device` gives it.
    precision : {'float32', 'bfloat16'}

    Returns
    -------
    str
        `torch`, `onnxruntime` or `openvino`.

    Raises
    ------
    ModuleNotFoundError
        The runtime is not installed.
    ValueError
        There is no such runtime or precision; the runtime does not run on the device, or not in the precision.
    """
    if name not in RUNTIMES:
        raise ValueError(f"runtime is {name!r}; it must be one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    chosen = _fastest() if name == "auto" else name
    if chosen != "torch":
        _require_cpu(chosen, device)
        _require_installed(chosen)
    if precision == "bfloat16" and chosen == "onnxruntime":
        raise ValueError(
            "precision is 'bfloat16', which ONNX Runtime has not on CPUs: give runtime torch or openvino, or "
            "precision float32 (--runtime, --precision)"
        )
    if precision == "bfloat16" and device.type == "mps":
        raise ValueError("precision is 'bfloat16', which is there on cpu and cuda, and device is 'mps': give float32")
    return chosen


def ready_network(network: UNet, device: torch.device, runtime: str, precision: str) -> nn.Module:
    """Make a network ready to run.

    Parameters
    ----------
    network : UNet
        In eval mode, with normalisation folded, on the CPU; it may become part of the result.
    device, runtime, precision
        As `choose_runtime` was given and gave them.

    Returns
    -------
    Module
        From images (N,C,H,W) float32, H and W multiples of the network's stride, to raw fields (N,F,H,W) float32, on
        the device. It uses as many cores as PyTorch does in the thread that calls it, and may be called by several.

    Raises
    ------
    ModuleNotFoundError
        The network's ONNX file has to be made, and the extra `onnx` is not installed.
    """
    if runtime == "onnxruntime":
        return _Elsewhere(network, _onnxruntime_session)
    if runtime == "openvino":
        kind = "bf16" if precision == "bfloat16" else "f32"  # else OpenVINO takes bfloat16 wherever it is fast
        return _Elsewhere(network, lambda content, threads: _openvino_session(content, threads, kind))
    network.to(device)
    if device.type == "cpu":
        network.fuse_upsampling()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.band_px = _BAND_PX
    return _Half(network) if precision == "bfloat16" else network


def bfloat16_pays(device: torch.device) -> bool:
    """Tell whether there are units for bfloat16: a GPU's, a CPU's AMX or AVX-512 BF16 (docs/experiments.md)."""
    if device.type == "cpu":
        units = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(bool(getattr(torch.cpu, unit, lambda: False)()) for unit in units)
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def precision_notice(precision: str, device: torch.device) -> str | None:
    """Give the sentence to say where a precision does not do what it is chosen for; None where it does."""
    if precision != "bfloat16" or bfloat16_pays(device):
        return None
    return (
        "bfloat16 is fast on NVIDIA GPUs since Ampere and on CPUs with AMX or AVX-512 BF16; this "
        f"{'CPU' if device.type == 'cpu' else 'GPU'} has no units for it, and float32 may take half as long"
    )


class _Half(nn.Module):
    """The network in bfloat16."""

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.network = network.to(torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image: Tensor) -> Tensor:
        half = image.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
        result: Tensor = self.network(half).to(torch.float32)
        return result


class _Elsewhere(nn.Module):
    """The network in another runtime, on the CPU.

    Parameters
    ----------
    network : UNet
        Not kept.
    session : callable
        From an ONNX file and a number of threads to what runs it.
    """

    def __init__(self, network: UNet, session: Callable[[bytes, int], _Run]) -> None:
        super().__init__()
        content = network_file(network)
        self._session = lru_cache(_SESSIONS)(lambda threads: session(content, threads))
        self._one_at_a_time = threading.Lock()

    def forward(self, image: Tensor) -> Tensor:
        with self._one_at_a_time:
            run = self._session(torch.get_num_threads())
            return torch.from_numpy(run(image.contiguous().numpy()))


def _onnxruntime_session(content: bytes, threads: int) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    options.enable_mem_pattern = False  # it serves images of one size, and takes half as much memory again
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores to other stages
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        fields: NDArray[np.float32] = session.run(None, {"image": image})[0]
        return fields

    return run


def _openvino_session(content: bytes, threads: int, kind: str) -> _Run:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": kind,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # several processes would all have the same cores
    }
    compiled = core.compile_model(core.read_model(content), "CPU", settings)

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        fields: NDArray[np.float32] = compiled(image)[0]
        return fields

    return run


def _fastest() -> str:
    """Runtime of `auto`: see `choose_runtime`."""
    return "torch"


def _require_cpu(runtime: str, device: torch.device) -> None:
    if device.type != "cpu":
        raise ValueError(
            f"runtime is {runtime!r}, which runs on the CPU, and device is {device.type!r}: give device cpu, or "
            f"runtime torch (--device cpu, --runtime torch)"
        )


def _require_installed(runtime: str) -> None:
    import importlib

    try:
        importlib.import_module(runtime)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"runtime is {runtime!r}, which is not installed ({error}): pip install 'cytoseed[{_EXTRAS[runtime]}]'",
            name=error.name,
        ) from error
