"""`export_model`: a model written for other programs, reopened, compared with the model, and moved into place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from cytoseed.export.bioimageio import to_bioimageio
from cytoseed.export.check import Agreement, check_files
from cytoseed.export.onnx import network_to_onnx, to_onnx
from cytoseed.export.qupath import to_qupath
from cytoseed.export.rdf import package_name
from cytoseed.export.torchscript import to_torchscript
from cytoseed.models.weights import Model
from cytoseed.paths import replace
from cytoseed.settings import ModelConfig


class Target(NamedTuple):
    """A kind of program that a model can be exported for."""

    write: Callable[[Model, Path], object]
    """Writes a model into an empty folder."""
    names: Callable[[ModelConfig], tuple[str, ...]]
    """Names of the files and folders that it writes."""
    needs: tuple[str, ...] = ()
    """Packages that must be installed."""
    extra: str = ""
    """The extra of cytoseed that installs them."""


class Exported(NamedTuple):
    """Result of an export."""

    paths: tuple[Path, ...]
    """Files and folders written."""
    agreement: Agreement
    """Comparison of the reopened files with the model."""


def export_model(model: Model, target: str, folder: str | os.PathLike[str], overwrite: bool = False) -> Exported:
    """Export a model for another program: `target` is one of `TARGETS`.

    The files are written beside their place, reopened, and compared with the model on images before they are moved
    into place. If anything fails, the folder stays as it was. Raises `RuntimeError` if the reopened files find other
    objects than the model, `FileExistsError` if the files exist and `overwrite` is False, `ValueError` if the target
    does not allow the model's name, version or licence, and the errors of `find_target`.
    """
    chosen = find_target(target)
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise FileExistsError(f"{place} is a file; give a folder to write to")
    names = chosen.names(model.config)
    existing = [place / name for name in names if (place / name).exists()]
    if existing and not overwrite:
        raise FileExistsError(f"{existing[0]} exists already; give --overwrite to replace it, or another folder")
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=place) as staging:
        chosen.write(model, Path(staging))
        agreement = check_files(model, Path(staging))
        for name in names:
            replace(Path(staging) / name, place / name)
    return Exported(tuple(place / name for name in names), agreement)


def find_target(name: str) -> Target:
    """Target by name; `ValueError` if unknown, `ModuleNotFoundError` if a package that it needs is not installed."""
    if name not in TARGETS:
        raise ValueError(f"target is {name!r}; it must be one of {', '.join(TARGETS)}")
    target = TARGETS[name]
    missing = [package for package in target.needs if find_spec(package.partition(".")[0]) is None]
    if missing:
        raise ModuleNotFoundError(
            f"target {name!r} needs the package {missing[0]}, which is not installed: "
            f"pip install 'cytoseed[{target.extra}]'"
        )
    return target


def _write_torchscript(model: Model, folder: Path) -> None:
    to_torchscript(model, folder / f"{model.config.name}.pt")


def _write_onnx(model: Model, folder: Path) -> None:
    network_to_onnx(model, folder / f"{model.config.name}.network.onnx")
    to_onnx(model, folder / f"{model.config.name}.onnx")


def _package_names(config: ModelConfig) -> tuple[str, ...]:
    return (package_name(config), f"{package_name(config)}.zip")


_ONNX = ("onnx", "onnxscript", "onnxruntime")

TARGETS = {
    "qupath": Target(to_qupath, _package_names),
    "onnx": Target(_write_onnx, lambda config: (f"{config.name}.onnx", f"{config.name}.network.onnx"), _ONNX, "onnx"),
    "torchscript": Target(_write_torchscript, lambda config: (f"{config.name}.pt",)),
    "bioimageio": Target(to_bioimageio, _package_names, (*_ONNX, "bioimageio.core"), "bioimageio,onnx"),
}
"""Programs that a model can be exported for, by the names that `export_model` and the command line take."""
