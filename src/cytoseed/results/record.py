"""What made a result: the record beside it, and the comparison of a record with a wish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from cytoseed.results.facts import canonical_json, input_of
from cytoseed.results.writers import WRITERS, paths_of

SUFFIX = ".cytoseed.json"

_DECIDE = ("version", "input", "settings")
_PENDING, _FAILED = "pending", "failed_tiles"


@dataclass(frozen=True)
class Record:
    """Everything that decides a result: the same record means the same files."""

    version: str
    """Version of cytoseed."""
    input: Mapping[str, Any]
    """The image, as `Result.input` has it."""
    settings: Mapping[str, Any]
    """What the segmentation was told, with the model's name and version."""

    @classmethod
    def of(cls, described: Mapping[str, Any], settings: Mapping[str, Any], version: str | None = None) -> Record:
        """Make a record.

        Parameters
        ----------
        described, settings : mapping
            What `Result.input` and `Result.settings` hold.
        version : str, optional
            Version of cytoseed that found the objects; without it, this one.

        Raises
        ------
        TypeError
            If the settings hold what JSON cannot.
        """
        return cls(version or metadata.version("cytoseed"), described, json.loads(canonical_json(settings)))

    def to_json(self, files: Sequence[str], pending: Sequence[str] = (), failed: Sequence[str] = ()) -> str:
        """Give the text of the record's file.

        Parameters
        ----------
        files : sequence of str
            Names of the files that are there.
        pending : sequence of str
            Names of the files that are being replaced or removed just now: what they hold is not sure.
        failed : sequence of str
            Parts of the image that could not be segmented, a line each.
        """
        values = {"version": self.version, "input": self.input, "settings": self.settings, "files": list(files)}
        values |= {key: list(lines) for key, lines in ((_PENDING, pending), (_FAILED, failed)) if lines}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


class OldRecord(NamedTuple):
    """What the record in a folder says."""

    decides: Mapping[str, Any]
    """The version, the input and the settings."""
    files: frozenset[str]
    """Names of the files that the result has for sure."""
    pending: frozenset[str]
    """Names of files of which a run that was stopped left the old one, the new one or none."""
    failed: tuple[str, ...]
    """The parts of the image that are not in the files, a line each."""


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
    pixels, source
        See `input_of`.
    settings : mapping
        What `Result.settings` holds.

    Raises
    ------
    TypeError
        If the settings hold what JSON cannot.
    """
    return Record.of(input_of(pixels, source), settings)


def compare(folder: Path, stem: str, record: Record, formats: Sequence[str], failed: Sequence[str] = ()) -> Comparison:
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
    failed : sequence of str
        Parts of the image that the result wished for lacks.

    Returns
    -------
    Comparison
        Files of the names wished for that no record names are in the way: `different`. Of a result that lacks other
        parts of the image all formats are missing, and so are those that a run which was stopped left unsure.
    """
    paths = paths_of(folder, stem, formats)
    file = folder / f"{stem}{SUFFIX}"
    old = read_record(file)
    if old is None and file.exists():
        return Comparison("different", (f"{file.name}: not a record that can be read",), tuple(paths))
    named = frozenset[str]() if old is None else old.files | old.pending
    strangers = sorted(
        f"{path.name}: there already, with no record of what made it"
        for path in paths.values()
        if path.exists() and path.name not in named
    )
    if old is None:
        return Comparison("different" if strangers else "absent", tuple(strangers), tuple(paths))
    sure = old.files if old.failed == tuple(failed) else frozenset[str]()
    missing = tuple(name for name, path in paths.items() if path.name not in sure or not path.exists())
    new = json.loads(record.to_json(()))
    found = (*differences(old.decides, {key: new[key] for key in _DECIDE}), *strangers)
    return Comparison("different" if found else "same", found, missing)


def read_record(file: Path) -> OldRecord | None:
    """Read a record; None where there is none, or none that can be read.

    Files that cytoseed does not write beside this record are left out, whatever the record says of them.
    """
    possible = {path.name for path in paths_of(file.parent, file.name.removesuffix(SUFFIX), tuple(WRITERS)).values()}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return OldRecord(
            decides={key: found[key] for key in _DECIDE},
            files=frozenset(possible.intersection(found["files"])),
            pending=frozenset(possible.intersection(found.get(_PENDING, ()))),
            failed=tuple(str(line) for line in found.get(_FAILED, ())),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """List what differs between two trees of mappings, a line a leaf: `key: old -> new`."""
    if old == new:
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{key}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"]
    lines = []
    for name in sorted(old.keys() | new.keys()):
        lines += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return lines
