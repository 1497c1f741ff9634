"""A model for QuPath's InstanSeg extension: the folder that it looks for, and the same as a zip."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.export.card import write_card
from cytoseed.export.description import RDF_FILE, describe, package_name, readme_file
from cytoseed.export.sample import draw_cover, encode_tensors, make_sample
from cytoseed.export.zipped import hashes, put_package
from cytoseed.models.weights import Model

TORCHSCRIPT_FILE = "instanseg.pt"


def to_qupath(model: Model, folder: str | os.PathLike[str]) -> Path:
    """Write a model for QuPath into `folder/NAME-VERSION`, and the same files into `folder/NAME-VERSION.zip`.

    The folder holds `instanseg.pt` (`torchscript.ExportedSegmenter`), `rdf.yaml`, `NAME_README.md`, `cover.png`, and
    tensors to test with and to look at. The same model gives the same bytes, as the first of its process.

    Parameters
    ----------
    model : Model
    folder : str or path
        Where to; made if need be. Of an earlier export the files are replaced one by one, `rdf.yaml` last.

    Returns
    -------
    Path
        `folder/NAME-VERSION`.

    Raises
    ------
    ValueError
        The model's name, version or licence cannot be written as bioimage.io wants them.
    """
    name = package_name(model.config)
    files = shared_files(model, name)
    weights = {"torchscript": torchscript_entry(files)}
    files[RDF_FILE] = describe(model.config, weights, hashes(files), any_channels=True).encode()
    return put_package(files, folder, name)


def shared_files(model: Model, name: str) -> dict[str, bytes]:
    """Make all files of a package that are not `rdf.yaml`: contents by name, of TorchScript and what goes with it."""
    import torch

    from cytoseed.export.torchscript import open_torchscript, to_torchscript

    with tempfile.TemporaryDirectory(prefix="cytoseed-") as place:
        written = to_torchscript(model, Path(place) / TORCHSCRIPT_FILE)
        scripted = open_torchscript(written)
        content = written.read_bytes()

    def segment(image: NDArray[np.float32]) -> NDArray[np.float32]:
        labels: NDArray[np.float32] = scripted(torch.from_numpy(image)).numpy()
        return labels

    sample = make_sample(model.config, segment)
    return {
        TORCHSCRIPT_FILE: content,
        readme_file(model.config): write_card(model.config, name).encode(),
        "cover.png": draw_cover(sample),
        **encode_tensors(sample),
    }


def torchscript_entry(files: dict[str, bytes]) -> dict[str, str]:
    """Describe the TorchScript weights among a package's files."""
    import torch

    version = str(torch.__version__).partition("+")[0]
    return {"source": TORCHSCRIPT_FILE, "sha256": hashes(files)[TORCHSCRIPT_FILE], "pytorch_version": version}
