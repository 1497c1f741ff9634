"""A model is a folder: its weights in `model.safetensors`, everything else about it in `config.json`.

Models are found by name (those inside the package, then those in the folders that the environment variable
`CYTOSEED_MODELS` lists) or by the path of their folder. Nothing is downloaded and nothing is unpickled.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.paths import write_bytes
from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    import torch

    from cytoseed.core.model import Segmenter

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
MODELS_VARIABLE = "CYTOSEED_MODELS"
"""Environment variable: folders of model folders, separated as in `PATH`."""

_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")


@dataclass(frozen=True, eq=False)
class Model:
    """A model ready to run; equal to itself only."""

    config: ModelConfig
    """Architecture, scale, thresholds, origin."""
    segmenter: Segmenter
    """The network and all that follows it, float32, in eval mode."""
    folder: Path | None = None
    """Where it was loaded from: other processes find it there."""


def load_model(name_or_folder: str | os.PathLike[str] = "nuclei") -> Model:
    """Load a model, by its name or by its folder.

    Parameters
    ----------
    name_or_folder
        A bundled model's name, the name of a folder inside one of the folders of `CYTOSEED_MODELS`, or the
        path of a folder that holds `model.safetensors` and `config.json`. A name goes before a path: write
        `./nuclei` for a folder called like a bundled model.

    Returns
    -------
    Model
        In float32 on the CPU, in eval mode.

    Raises
    ------
    FileNotFoundError
        A path at which there is nothing, or a folder that lacks one of the two files.
    ValueError
        An unknown name; a pickle; a configuration that cannot be read; weights whose checksum is not the
        configuration's, or that do not fit its architecture.
    """
    from cytoseed.core.model import Segmenter

    folder = _find(name_or_folder)
    config = read_config(folder)
    weights = _read_weights(folder / WEIGHTS_FILE, config.sha256)
    segmenter = Segmenter(config).float()
    _check_fit(folder / WEIGHTS_FILE, weights, segmenter.state_dict())
    segmenter.load_state_dict(weights)
    return Model(config, segmenter.eval(), folder)


def save_model(segmenter: Segmenter, config: ModelConfig, folder: str | os.PathLike[str], half: bool = True) -> Path:
    """Write a model's two files into a folder, made if need be.

    Each file is written beside its place and then renamed into it, the configuration last: a reader never
    sees half a file, and after a kill between the two the checksum tells.

    Parameters
    ----------
    segmenter
        The weights, on any device.
    config
        Its configuration; `sha256` is filled in here.
    folder
        Where to; by custom it is called like the model.
    half
        Keep kernels and matrices in half precision, which halves the file. Vectors (biases, statistics of
        normalisation) stay float32, and so does a tensor too large for half; integers stay as they are.

    Returns
    -------
    Path
        The folder.
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


def checksum(module: torch.nn.Module, about: str = "") -> str:
    """Name a module by its weights as they are in memory, stored or not.

    Parameters
    ----------
    module
        On any device.
    about
        What else the name is to depend on.

    Returns
    -------
    str
        A SHA-256, 64 hexadecimal digits.
    """
    digest = hashlib.sha256(about.encode())
    for name, tensor in module.state_dict().items():
        digest.update(f"\n{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def in_half(segmenter: Segmenter) -> Segmenter:
    """Copy a segmenter with the values that `save_model` would keep in half precision."""
    rounded = copy.deepcopy(segmenter)
    state = {name: _stored(tensor, True).to(tensor) for name, tensor in segmenter.state_dict().items()}
    rounded.load_state_dict(state)
    return rounded


def keeps_half(segmenter: Segmenter) -> bool:
    """Tell whether half precision keeps all of its values, as those of a model that was saved so."""
    tensors = segmenter.state_dict().values()
    return all(bool((_stored(tensor, True).to(tensor) == tensor).all()) for tensor in tensors)


def read_config(folder: str | os.PathLike[str]) -> ModelConfig:
    """Read the configuration of the model in a folder; needs no torch.

    Raises
    ------
    FileNotFoundError
        The folder has no `config.json`.
    ValueError
        It is not JSON, has a key that no model has, or a value that no model can have.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{Path(folder)} has no {CONFIG_FILE}: it is not the folder of a model")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds a {type(values).__name__}; it must hold one object of settings")
    try:
        return ModelConfig.from_dict(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def list_models() -> tuple[ModelConfig, ...]:
    """List what `load_model` knows by name, bundled models first; needs no torch."""
    return tuple(read_config(folder) for folder in _known_folders().values())


def _known_folders() -> dict[str, Path]:
    """Model folders by name; of two with one name, the first found."""
    bundled = Path(str(resources.files("cytoseed.models")))
    listed = [Path(entry) for entry in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if entry]
    found: dict[str, Path] = {}
    for shelf in (bundled, *listed):
        for path in sorted(shelf.glob(f"*/{CONFIG_FILE}")):
            found.setdefault(path.parent.name, path.parent)
    return found


def _find(name_or_folder: str | os.PathLike[str]) -> Path:
    """Folder of a model, with both of its files."""
    known = _known_folders()
    given = os.fspath(name_or_folder)
    folder = known.get(given, Path(given))
    if folder.suffix.lower() in _PICKLES and not folder.is_dir():
        raise ValueError(
            f"model {given!r} is a pickle, which can run any code when it is opened, so cytoseed reads none; "
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
            f"{folder} lacks {' and '.join(missing)}: a model's folder has {WEIGHTS_FILE} and {CONFIG_FILE}"
        )
    return folder


def _read_weights(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """Tensors of a file in float32 (integers and booleans as they are), if its checksum is the one given."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 and found != sha256:
        raise ValueError(
            f"{path} has the SHA-256 {found}, but its {CONFIG_FILE} says {sha256}: the file is damaged, or "
            f"the two are not of the same model; copy both again"
        )
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def _check_fit(path: Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not the architecture's, naming the first tensor at fault."""
    remedy = f"the weights and {CONFIG_FILE} are not of the same model"
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
            raise ValueError(f"{path} has a tensor {name!r} that the architecture has not: {remedy}")


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Copy of a tensor as the file holds it."""
    import torch

    plain = tensor.detach().cpu().contiguous().clone()
    if not plain.is_floating_point():
        return plain
    plain = plain.float()
    fits = plain.numel() == 0 or bool(plain.abs().amax() <= torch.finfo(torch.float16).max)
    return plain.half() if half and plain.ndim >= 2 and fits else plain
