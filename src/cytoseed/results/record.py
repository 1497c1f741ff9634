"""What made a result: the record beside it, and the comparison of a record with a wish."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.writers import paths_of

SUFFIX = ".cytoseed.json"

_OPTIONAL_ENDINGS = (".ome",)  # cells.ome.tif and cells.tif are both called cells


@dataclass(frozen=True)
class Record:
    """Everything that decides a result: the same record means the same files."""

    version: str
    """Version of cytoseed."""
    input: Mapping[str, Any]
    """The image: its `name`, `shape` (C,H,W), `dtype`, and the `sha256` of its pixels."""
    settings: Mapping[str, Any]
    """What the segmentation was told, with the model's name and version."""

    def to_json(self, files: Sequence[str]) -> str:
        """Give the text of the record's file; `files` are the names of the files made."""
        values = {"version": self.version, "input": self.input, "settings": self.settings, "files": list(files)}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


class Comparison(NamedTuple):
    """What a folder holds beside what is wished for."""

    state: str
    """`absent`: nothing is in the way. `same`: a result of the same record. `different`: anything else."""
    differences: tuple[str, ...]
    """Why it is different, a line each: `key: old -> new`."""
    missing: tuple[str, ...]
    """The formats wished for that are not there yet; where it is empty and the state `same`, all is done."""


def record_of(pixels: NDArray[Any], source: str, settings: Mapping[str, Any]) -> Record:
    """Make the record of a result, before or after it exists.

    Parameters
    ----------
    pixels : ndarray, shape (C,H,W)
        The image as it was given: what `Image.read` or `as_image` returns.
    source : str
        Path of the image's file, or `array`; its name without folders is kept.
    settings : mapping
        What `Segmentation.settings` holds.

    Raises
    ------
    TypeError
        If the settings hold what JSON cannot.
    """
    found = {
        "name": Path(source).name,
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "sha256": hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
    }
    return Record(version=metadata.version("cytoseed"), input=found, settings=json.loads(_canonical(settings)))


def stem_of(source: str | os.PathLike[str]) -> str:
    """Give the name that a source's result files begin with: its name without ending."""
    stem = Path(source).stem
    for ending in _OPTIONAL_ENDINGS:
        stem = stem.removesuffix(ending) or stem
    return stem


def compare(folder: Path, stem: str, record: Record, formats: Sequence[str]) -> Comparison:
    """Look whether a folder holds the result that a record describes.

    Parameters
    ----------
    folder : path
        Need not exist.
    stem : str
        See `stem_of`.
    record : Record
        See `record_of`.
    formats : sequence of str
        Names from `WRITERS`.

    Returns
    -------
    Comparison
        With no record there, files of the names wished for are in the way: `different`.
    """
    paths = paths_of(folder, stem, formats)
    present = {name for name, path in paths.items() if path.exists()}
    missing = tuple(name for name in paths if name not in present)
    file = folder / f"{stem}{SUFFIX}"
    if not file.exists():
        strangers = tuple(f"{paths[name].name}: there already, with no record of what made it" for name in present)
        return Comparison("different" if strangers else "absent", tuple(sorted(strangers)), missing)
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        old = {key: kept[key] for key in ("version", "input", "settings")}
    except (ValueError, KeyError, TypeError):
        return Comparison("different", (f"{file.name}: not a record that can be read",), missing)
    new = json.loads(record.to_json(()))
    del new["files"]
    differences = tuple(_differences(old, new))
    return Comparison("different" if differences else "same", differences, missing)


def fingerprint(source: str, settings: Mapping[str, Any]) -> str:
    """Give one text for a source's name and settings, the same for the same ones."""
    name = Path(source).name.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8
    return f"{name}/{_canonical(settings)}"


def _canonical(settings: Mapping[str, Any]) -> str:
    try:
        return json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"settings hold a value that JSON cannot ({error}); allowed are texts, finite numbers, true, false, "
            f"None, and lists and mappings of these"
        ) from error


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    """List what differs between two trees of mappings, a line a leaf."""
    if old == new:
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{key}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"]
    lines = []
    for name in sorted(old.keys() | new.keys()):
        lines += _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return lines
