"""The record beside a result, which states what made it, and its comparison with another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.results.view import Record
from cytoseed.results.writers import WRITERS, paths_of

SUFFIX = ".cytoseed.json"

_DECIDE = ("version", "input", "settings")


class OldRecord(NamedTuple):
    """Content of a record in a folder."""

    decides: Mapping[str, Any] = {}  # the version, the input and the settings
    files: frozenset[str] = frozenset()  # names of the files that the result certainly has
    pending: frozenset[str] = frozenset()  # files of which a stopped run left the old one, the new one or neither
    failed: tuple[str, ...] = ()  # parts of the image that are not in the files


class Comparison(NamedTuple):
    """Content of a folder compared with a result to be written."""

    state: str  # `absent`: nothing is in the way. `same`: a result of the same record. `different`: anything else
    differences: tuple[str, ...]  # why it is different, one line each: `key: old -> new`
    missing: tuple[str, ...]  # formats that are not there yet; none of state `same`: all is done


def compare(folder: Path, stem: str, record: Record, formats: Sequence[str], failed: Sequence[str] = ()) -> Comparison:
    """Compare the content of a folder, which need not exist, with the result of a record.

    Files of these names that no record lists are in the way: `different`. If a result lacks other parts of the image
    than `failed`, all its formats count as missing, and so do those that a stopped run left uncertain.
    """
    paths = paths_of(folder, stem, formats)
    file = folder / f"{stem}{SUFFIX}"
    old = read_record(file)
    if old is None and file.exists():
        return Comparison("different", (f"{file.name}: not a record that can be read",), tuple(paths))
    named = frozenset[str]() if old is None else old.files | old.pending
    strangers = sorted(
        f"{path.name}: exists already, but no record says how it was made"
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
    """Content of a record, with names of cytoseed's own files only; None if there is no readable one."""
    possible = {path.name for path in paths_of(file.parent, file.name.removesuffix(SUFFIX), tuple(WRITERS)).values()}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return OldRecord(
            decides={key: found[key] for key in _DECIDE},
            files=frozenset(possible.intersection(found["files"])),
            pending=frozenset(possible.intersection(found.get("pending", ()))),
            failed=tuple(str(line) for line in found.get("failed_tiles", ())),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """Differences between two trees of mappings, one line per leaf: `key: old -> new`."""
    if old == new:
        return []
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [f"{key}: {json.dumps(old, ensure_ascii=False)} -> {json.dumps(new, ensure_ascii=False)}"]
    lines = []
    for name in sorted(old.keys() | new.keys()):
        lines += differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    return lines
