"""Models as folders: weights in `model.safetensors`, everything else in `config.json`.

Models are found by name (bundled ones, then those in the folders of the environment variable `CYTOSEED_MODELS`) or by
the path of their folder. Nothing is downloaded and nothing is unpickled.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.paths import read_bytes, write_bytes
from cytoseed.settings import ModelConfig
from cytoseed.text_files import parse_json

if TYPE_CHECKING:
    import torch

    from cytoseed.core.model import Segmenter

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODELS_VARIABLE = "CYTOSEED_MODELS"
"""Environment variable: folders that hold model folders, separated as in `PATH`."""

AUTO = "auto"
"""Not a model: `segment` chooses one for each image."""

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to run; equal only to itself."""

    config: ModelConfig
    """Architecture, scale, thresholds, origin."""
    segmenter: Segmenter
    """The network and the steps after it, float32, in eval mode."""
    folder: Path | None = None
    """The folder it was loaded from, from which other processes load it too."""


def load_model(name_or_folder: str | os.PathLike[str] = "nuclei") -> Model:
    """Load a model by name or from its folder, in float32 on the CPU, in eval mode.

    `name_or_folder` is the name of a bundled model or of a folder inside one of the folders of `CYTOSEED_MODELS`, or
    the path of a folder that holds `model.safetensors` and `config.json`. Names take precedence over paths: write
    `./nuclei` for a folder with the name of a bundled model.

    Raises `FileNotFoundError` if the path does not exist or the folder lacks one of the two files; `ValueError` for
    `auto`, an unknown name, a pickle, an invalid configuration, and weights whose checksum differs from the
    configuration's or that do not fit its architecture.
    """
    import torch

    from cytoseed.core.model import Segmenter

    folder = _find(name_or_folder)
    config = read_config(folder)
    weights = _read_weights(folder / WEIGHTS_FILE, config.sha256)
    try:
        with torch.device("meta"):  # without memory: a configuration may claim any size
            wanted = Segmenter(config).state_dict()
    except (RuntimeError, TypeError, OverflowError, MemoryError) as error:
        raise ValueError(
            f"{folder / CONFIG_FILE} describes a network that is too large; copy the model again"
        ) from error
    _check_fit(folder / WEIGHTS_FILE, weights, wanted)
    segmenter = Segmenter(config).float()
    segmenter.load_state_dict(weights)
    return Model(config, segmenter.eval(), folder)


def save_model(segmenter: Segmenter, config: ModelConfig, folder: str | os.PathLike[str], half: bool = True) -> Path:
    """Write a model's two files into a folder, each atomically, the configuration last; returns the folder.

    `half` keeps kernels and matrices in half precision, which halves the file. Vectors (biases, statistics of
    normalisation), integers, and tensors with values too large for half precision stay as they are. The folder is
    usually called like the model; `sha256` of the configuration is filled in.
    """
    from safetensors.torch import save

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    tensors = {name: _stored(tensor, half) for name, tensor in segmenter.state_dict().items()}
    weights = save(tensors)
    checked = dataclasses.replace(config, sha256=hashlib.sha256(weights).hexdigest())
    text = json.dumps(checked.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_bytes(place / WEIGHTS_FILE, weights)
    write_bytes(place / CONFIG_FILE, text.encode())
    return place


def checksum(module: torch.nn.Module) -> str:
    """SHA-256 in hexadecimal of a module's weights in memory."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_half(segmenter: Segmenter) -> Segmenter:
    """Copy a segmenter with its values rounded as `save_model` stores them in half precision."""
    rounded = copy.deepcopy(segmenter)
    state = {name: _stored(tensor, True).to(tensor) for name, tensor in segmenter.state_dict().items()}
    rounded.load_state_dict(state)
    return rounded


def keeps_half(segmenter: Segmenter) -> bool:
    """Whether all values are exact in half precision, as those of a model that was saved so."""
    tensors = segmenter.state_dict().values()
    return all(bool((_stored(tensor, True).to(tensor) == tensor).all()) for tensor in tensors)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Configuration of the model in a folder; needs no torch.

    Raises `FileNotFoundError` if the folder has no `config.json`, `ValueError` if it is not JSON or has an unknown key
    or an invalid value.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{Path(folder)} has no {CONFIG_FILE}: it is not a model's folder")
    values = parse_json(read_bytes(path), path, "copy the model again")
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; it must hold a JSON object of settings")
    try:
        return ModelConfig.from_dict(values)
    except (TypeError, ValueError, AttributeError) as error:  # of values that are not even of the right type
        raise ValueError(f"{path}: {error}") from error


def list_models() -> tuple[ModelConfig, ...]:
    """List the configurations of models known by name, bundled models first; needs no torch."""
    return tuple(read_config(folder) for folder in _known_folders().values())


def _known_folders() -> dict[str, Path]:
    """Model folders by name; of two with the same name, the first found."""
    bundled = Path(str(resources.files("cytoseed.models")))
    listed = [Path(entry) for entry in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if entry]
    found: dict[str, Path] = {}
    for parent in (bundled, *listed):
        for path in sorted(parent.glob(f"*/{CONFIG_FILE}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def _find(name_or_folder: str | os.PathLike[str]) -> Path:
    """Folder of a model; both of its files exist."""
    known = _known_folders()
    given = os.fspath(name_or_folder)
    if given == AUTO:
        raise ValueError("model 'auto' is a choice by image, which only segment makes; give the name of a model")
    folder = known.get(given, Path(given))
    if folder.suffix.lower() in _PICKLES and not folder.is_dir():
        raise ValueError(
            f"model {given!r} is a pickle, which can run any code when opened, so it is not read; "
            f"give a folder with {WEIGHTS_FILE} and {CONFIG_FILE}, as save_model writes it"
        )
    if folder.is_file():
        raise ValueError(f"model {given!r} is a file; give the folder that holds it: {str(folder.parent)!r}")
    if not folder.exists():
        looks_like_path = len(Path(given).parts) > 1
        message = (
            f"there is no model {given!r}; known by name: {', '.join(known) or 'none'}. Give one of these, "
            f"the path of a model's folder, or set {MODELS_VARIABLE} to the folder that holds it"
        )
        raise FileNotFoundError(message) if looks_like_path else ValueError(message)
    missing = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {' and '.join(missing)}: a model's folder holds {WEIGHTS_FILE} and {CONFIG_FILE}"
        )
    return folder


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Read tensors in float32 (integers and booleans as they are) and verify the checksum."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, but its {CONFIG_FILE} says {sha256}: the file is damaged, or "
            f"the two files belong to different models; copy both again"
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _check_fit(path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise `ValueError` with the first tensor that does not fit the architecture."""
    remedy = f"the weights and {CONFIG_FILE} belong to different models"
    for name, tensor in wanted.items():
        if name not in found:
            raise ValueError(f"{path} lacks the tensor {name!r}: {remedy}")
        if found[name].shape != tensor.shape:
            raise ValueError(
                f"{path} has the tensor {name!r} with shape {tuple(found[name].shape)}, where the "
                f"architecture has {tuple(tensor.shape)}: {remedy}"
            )
    for name in found:
        if name not in wanted:
            raise ValueError(f"{path} has a tensor {name!r} that the architecture lacks: {remedy}")


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Copy a tensor as the file stores it."""
    import torch

    plain = tensor.detach().cpu().contiguous().clone()
    if not plain.is_floating_point():
        return plain
    plain = plain.float()
    fits = plain.numel() == 0 or bool(plain.abs().amax() <= torch.finfo(torch.float16).max)
    return plain.half() if half and plain.ndim >= 2 and fits else plain


def _use_one_thread() -> None:
    """Keep PyTorch in a forked process to one thread: OpenMP would wait forever for the others, which are not there."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
