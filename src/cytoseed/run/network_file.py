"""The network as an ONNX file, for runtimes that take one: made once for each set of weights, and kept.

A file kept bears the checksum of its content in its name, so that one that is damaged is known and made again.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from cytoseed.core.network import UNet
from cytoseed.models.weights import checksum
from cytoseed.paths import cache_folder
from cytoseed.run.graph import OPSET, trace

_FOLDER = "networks"
_FORMAT = 2  # to be raised where another file would be made of the same weights
_STRIDE = 16  # the largest of all networks


def network_file(network: UNet) -> bytes:
    """Give the network as an ONNX file, from the folder that keeps such files, or made now by `make_network_file`.

    Of several processes that ask for the file of one network, one makes it and the others wait, where the disk has
    locks. Where nothing can be kept, each makes its own.

    Parameters
    ----------
    network : UNet
        In eval mode, with normalisation folded (`UNet.fold`), on the CPU. It is known by its weights, whatever the
        model that they are of is called.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    ModuleNotFoundError
        The file has to be made, and the extra `onnx` is not installed.
    """
    folder = cache_folder() / _FOLDER
    key = _key(network)
    kept = _find(folder, key)
    if kept is not None:
        return kept
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / f"{key}.lock"):
        content = _find(folder, key)
        if content is None:
            content = make_network_file(network)
            with suppress(OSError):  # a full disk, or a folder that may not be written to: made again next time
                _keep(folder, key, content)
    return content


def make_network_file(network: UNet, about: dict[str, str] | None = None) -> bytes:
    """Make an ONNX file of the network.

    Parameters
    ----------
    network : UNet
        As for `network_file`.
    about : dict of str to str, optional
        Facts for the file's metadata.

    Returns
    -------
    bytes
        From `image` (N,C,H,W) float32, H and W multiples of the network's stride, to `fields` (N,F,H,W) float32; N, H
        and W are free. What `UNet.forward` gives, within rounding.

    Raises
    ------
    ModuleNotFoundError
        The extra `onnx` is not installed.
    """
    example = torch.zeros(2, _channels(network), 6 * _STRIDE, 7 * _STRIDE)
    return trace(network, example, "fields", {0: "batch", 2: "height", 3: "width"}, about)


def _channels(network: UNet) -> int:
    """Image channels that a network takes."""
    folded = int(getattr(network.fold_pixels, "downscale_factor", 1)) ** 2
    return int(network.get_submodule("down.0.first.conv").in_channels) // folded  # type: ignore[arg-type]


def _key(network: UNet) -> str:
    """Name a network: by its weights, and by what makes files of them."""
    return checksum(network, f"{_FORMAT} {OPSET} {torch.__version__}")[:32]


def _find(folder: Path, key: str) -> bytes | None:
    """Read the file that is kept, if there is one and it is as it was written."""
    with suppress(OSError):
        for path in sorted(folder.glob(f"{key}.*.onnx")):
            content = path.read_bytes()
            if path.name == _name(key, content):
                return content
    return None


def _keep(folder: Path, key: str, content: bytes) -> None:
    """Write the file beside its place and rename it into it; damaged ones go."""
    beside = folder / f"{key}.{uuid.uuid4().hex}.part"
    try:
        beside.write_bytes(content)
        for damaged in folder.glob(f"{key}.*.onnx"):
            damaged.unlink(missing_ok=True)
        os.replace(beside, folder / _name(key, content))
    finally:
        beside.unlink(missing_ok=True)


def _name(key: str, content: bytes) -> str:
    return f"{key}.{hashlib.sha256(content).hexdigest()[:32]}.onnx"


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes the same file, and clear away what killed ones have left."""
    from filelock import FileLock

    lock = FileLock(path)
    with suppress(NotImplementedError, OSError):  # a disk without locks: each process makes its own file
        lock.acquire()
    try:
        if lock.is_locked:
            for left in path.parent.glob(f"{path.stem}.*.part"):
                left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()
