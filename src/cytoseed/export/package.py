"""A model packed for other programs: written beside, reopened, compared with the model itself, put into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cytoseed.export.check import Agreement, check_files
from cytoseed.models.weights import Model
from cytoseed.paths import replace
from cytoseed.settings import ModelConfig


class Target(NamedTuple):
    """A kind of program that a model can be packed for."""

    name: str
    """As `--to` takes it."""
    about: str
    """What is written, and who opens it: a sentence."""
    write: Callable[[Model, Path], object]
    """Writes into a folder that is there and empty."""
    names: Callable[[ModelConfig], tuple[str, ...]]
    """What it writes there."""
    needs: tuple[str, ...] = ()
    """Packages to import."""
    extra: str = ""
    """The extra of cytoseed that installs them."""


class Exported(NamedTuple):
    """What was written."""

    paths: tuple[Path, ...]
    """Files and folders."""
    agreement: Agreement
    """How the reopened files compare with the model."""


def export_model(model: Model, target: str, folder: str | os.PathLike[str], overwrite: bool = False) -> Exported:
    """Pack a model for another program.

    What is written is reopened, run on images and compared with the model before it is put into place; until then, and
    where something fails, the folder stays as it was.

    Parameters
    ----------
    model : Model
        What `load_model` gave.
    target : str
        A name from `TARGETS`.
    folder : str or path
        Where to; made if need be.
    overwrite : bool
        Replace what is there already.

    Returns
    -------
    Exported

    Raises
    ------
    FileExistsError
        There is something already.
    ModuleNotFoundError
        A package that writes or reopens the files is not installed; the message names the extra.
    RuntimeError
        The files, reopened, do not find what the model finds.
    ValueError
        An unknown target, or a model that it cannot carry.
    """
    chosen = find_target(target)
    place = Path(folder)
    names = chosen.names(model.config)
    _require_room(place, names, overwrite)
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as staging:
        chosen.write(model, Path(staging))
        agreement = check_files(model, Path(staging))
        for name in names:
            replace(Path(staging) / name, place / name)
    return Exported(tuple(place / name for name in names), agreement)


def find_target(name: str) -> Target:
    """Give a target by its name.

    Raises
    ------
    ModuleNotFoundError
        A package that it needs is not installed.
    ValueError
        There is none of that name.
    """
    if name not in TARGETS:
        raise ValueError(f"target is {name!r}; a model can be packed for {', '.join(TARGETS)}")
    target = TARGETS[name]
    missing = lacking(target)
    if missing:
        raise ModuleNotFoundError(
            f"target {name!r} needs the package {missing[0]}, which is not installed: "
            f"pip install 'cytoseed[{target.extra}]'"
        )
    return target


def lacking(target: Target) -> Sequence[str]:
    """List the packages that a target needs and that are not installed."""
    return [package for package in target.needs if find_spec(package.partition(".")[0]) is None]


def _require_room(place: Path, names: Sequence[str], overwrite: bool) -> None:
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{place} is a file; give a folder to write to")
    there = [name for name in names if (place / name).exists()]
    if there and not overwrite:
        raise FileExistsError(f"{place / there[0]} is there already; give --overwrite to replace it, or another folder")


def _write_torchscript(model: Model, folder: Path) -> None:
    from cytoseed.export.torchscript import to_torchscript

    to_torchscript(model, folder / _torchscript_names(model.config)[0])


def _write_onnx(model: Model, folder: Path) -> None:
    from cytoseed.export.onnx import network_to_onnx, to_onnx

    whole, network = _onnx_names(model.config)
    network_to_onnx(model, folder / network)
    to_onnx(model, folder / whole)


def _write_qupath(model: Model, folder: Path) -> None:
    from cytoseed.export.qupath import to_qupath

    to_qupath(model, folder)


def _write_bioimageio(model: Model, folder: Path) -> None:
    from cytoseed.export.bioimageio import to_bioimageio

    to_bioimageio(model, folder)


def _torchscript_names(config: ModelConfig) -> tuple[str, ...]:
    return (f"{config.name}.pt",)


def _onnx_names(config: ModelConfig) -> tuple[str, ...]:
    return (f"{config.name}.onnx", f"{config.name}.network.onnx")


def _package_names(config: ModelConfig) -> tuple[str, ...]:
    from cytoseed.export.description import package_name

    package = package_name(config)
    return (package, f"{package}.zip")


_ONNX = ("onnx", "onnxscript", "onnxruntime")

TARGETS = {
    target.name: target
    for target in (
        Target(
            "qupath",
            "a folder that QuPath's InstanSeg extension opens, and a zip of it",
            _write_qupath,
            _package_names,
        ),
        Target(
            "onnx",
            "the whole method, raw pixels to labels, for ONNX Runtime, OpenVINO and browsers; and the network alone",
            _write_onnx,
            _onnx_names,
            _ONNX,
            "onnx",
        ),
        Target(
            "torchscript",
            "the whole method for C++ and any other program with libtorch",
            _write_torchscript,
            _torchscript_names,
        ),
        Target(
            "bioimageio",
            "a bioimage.io package with TorchScript, ONNX and state-dict weights: a folder, and a zip of it",
            _write_bioimageio,
            _package_names,
            (*_ONNX, "bioimageio.core"),
            "bioimageio,onnx",
        ),
    )
}
"""What a model can be packed for, by the names that `export_model` and the command line take."""
