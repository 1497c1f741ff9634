"""A model for QuPath's InstanSeg extension: the folder that it opens, and the same files as a zip."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cytoseed.export.card import model_card
from cytoseed.export.rdf import RDF_FILE, file_entry, package_name, rdf_yaml, readme_file
from cytoseed.export.sample import draw_cover, encode_tensors, make_sample
from cytoseed.export.torchscript import open_torchscript, to_torchscript
from cytoseed.models.weights import Model
from cytoseed.paths import write_bytes

TORCHSCRIPT_FILE = "instanseg.pt"

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest possible: the same files make the same zip


def to_qupath(model: Model, folder: Path) -> Path:
    """Write a model for QuPath into `folder/NAME-VERSION`, which is returned, and into `folder/NAME-VERSION.zip`.

    The package holds `instanseg.pt` (`torchscript.ExportedSegmenter`), `rdf.yaml`, `NAME_README.md`, `cover.png`, and
    test and sample tensors. The same model gives the same bytes in the first export of a process. Raises
    `ValueError` if bioimage.io does not allow the model's name, version or licence.
    """
    name = package_name(model.config)
    files = package_files(model, name)
    weights = {"torchscript": torchscript_entry(files)}
    files[RDF_FILE] = rdf_yaml(model.config, weights, files, any_channels=True).encode()
    return write_package(files, folder, name)


def package_files(model: Model, name: str) -> dict[str, bytes]:
    """Contents by file name of everything in a package except `rdf.yaml`: TorchScript, README, cover, tensors."""
    with tempfile.TemporaryDirectory(prefix="cytoseed-") as temporary:
        written = to_torchscript(model, Path(temporary) / TORCHSCRIPT_FILE)
        scripted = open_torchscript(written)
        content = written.read_bytes()

    def segment(image: NDArray[np.float32]) -> NDArray[np.float32]:
        labels: NDArray[np.float32] = scripted(torch.from_numpy(image)).numpy()
        return labels

    sample = make_sample(model.config, segment)
    return {
        TORCHSCRIPT_FILE: content,
        readme_file(model.config): model_card(model.config, name).encode(),
        "cover.png": draw_cover(sample),
        **encode_tensors(sample),
    }


def torchscript_entry(files: Mapping[str, bytes]) -> dict[str, str]:
    """Entry in `rdf.yaml` for the TorchScript file of a package."""
    return {**file_entry(files, TORCHSCRIPT_FILE), "pytorch_version": str(torch.__version__).partition("+")[0]}


def write_package(files: Mapping[str, bytes], folder: str | Path, name: str) -> Path:
    """Write files, `rdf.yaml` last, into `folder/name`, and all of them into `folder/name.zip`; keep other files."""
    place = Path(folder) / name
    place.mkdir(parents=True, exist_ok=True)
    for file in sorted(files, key=lambda file: (file == RDF_FILE, file)):
        write_bytes(place / file, files[file])
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file, _ZIP_DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[file], zipfile.ZIP_DEFLATED, 6)
    write_bytes(place.with_name(f"{name}.zip"), zipped.getvalue())
    return place
