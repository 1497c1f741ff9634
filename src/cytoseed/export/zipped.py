"""A model's package: a folder, and beside it the same files as one zip."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

from cytoseed.export.description import RDF_FILE
from cytoseed.paths import write_bytes

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say: the same files make the same zip


def put_package(files: Mapping[str, bytes], folder: str | os.PathLike[str], name: str) -> Path:
    """Write a package's files into `folder/name` and all of them into `folder/name.zip`.

    Each file is written beside its place and renamed into it, `rdf.yaml` last, which readers look for; other files that
    lie there stay.

    Parameters
    ----------
    files : mapping
        Contents by name.
    folder : str or path
        Where to; made if need be.
    name : str
        The package's.

    Returns
    -------
    Path
        `folder/name`.
    """
    place = Path(folder) / name
    place.mkdir(parents=True, exist_ok=True)
    order = sorted(files, key=lambda file: (file == RDF_FILE, file))
    for file in order:
        write_bytes(place / file, files[file])
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for file in sorted(files):
            entry = zipfile.ZipInfo(file, _LONG_AGO)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, files[file], zipfile.ZIP_DEFLATED, 6)
    write_bytes(place.with_name(f"{name}.zip"), zipped.getvalue())
    return place


def hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    """Give the SHA-256 of each file, of contents by name."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
