"""Shards: tiles of one image that independent runs processed, each its share, joined into one result.

Each shard keeps its tiles in a folder of its own, so that no two runs write to one place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cytoseed.images import as_image
from cytoseed.models.weights import load_model
from cytoseed.paths import as_path, list_names, lock, remove
from cytoseed.results.record import differences
from cytoseed.results.store import SUFFIX, Store
from cytoseed.run.resume import Request
from cytoseed.run.slide import Callbacks, RunReport, run_to_files
from cytoseed.settings import with_settings

_NAME = re.compile(rf"(.+)\.shard-(\d+)-of-(\d+){re.escape(SUFFIX)}")


def find_shards(output: str | os.PathLike[str]) -> dict[str, dict[tuple[int, int], Store]]:
    """Stores of all shards in a folder: by the stem of their image, then by number and number of shards."""
    found: dict[str, dict[tuple[int, int], Store]] = {}
    folder = as_path(output)
    for name in list_names(folder):
        match = _NAME.fullmatch(name)
        if match is not None:
            found.setdefault(match[1], {})[int(match[2]), int(match[3])] = Store(folder / name)
    return found


def merge(
    output: str | os.PathLike[str],
    stem: str,
    image: str | os.PathLike[str] | None = None,
    callbacks: Callbacks | None = None,
) -> RunReport:
    """Join the tiles of all shards of an image, write the files that one run would write, and remove the shards.

    `stem` begins the names of the image's results, as `find_shards` lists it; `image` is the present path of the
    image, by default that which the shards used. Missing shards raise a FileNotFoundError, unfinished shards and those
    that do not belong together a ValueError; other errors are those of `cytoseed.segment`.
    """
    folder = as_path(output)
    shards = find_shards(folder).get(stem, {})
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard of {stem!r}; cytoseed segment --shard 1/8 makes one")
    store = Store(folder / f"{stem}{SUFFIX}")
    runs = {number: shard.run() or {} for (number, _), shard in sorted(shards.items())}
    first = next(iter(runs.values()))
    if not _holds_all(store, first):
        _require_complete(f"of {stem!r} in {folder}", sorted(shards), runs)
        with lock(store.path):
            _gather(store, list(shards.values()), first)
    asked = first["asked"] if {"source", "model", "options", "formats"} <= first.get("asked", {}).keys() else None
    if asked is None:
        raise ValueError(f"{folder}: the run.json of the shards of {stem!r} are damaged; make them again")
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in asked["options"].items()}
    choice = asked.get("series"), asked.get("full_canvas", False)
    opened, model = as_image(asked["source"] if image is None else image, *choice), load_model(asked["model"])
    request = Request(opened, folder, model, with_settings(None, given), tuple(asked["formats"]), "resume")
    if request.stem != stem:
        raise ValueError(f"image is {image}, whose results are called {request.stem!r}; it must be that of {stem!r}")
    report = run_to_files(request, callbacks)
    for shard in shards.values():
        remove(shard.path)
    return report


def _require_complete(whose: str, found: Sequence[tuple[int, int]], runs: Mapping[int, Mapping[str, Any]]) -> None:
    """Refuse to join shards that are incomplete or do not belong together."""
    sizes = sorted({of for _, of in found})
    if len(sizes) > 1:
        parts = " and in ".join(map(str, sizes))
        raise ValueError(f"shards {whose} are in {parts} parts; remove those of the other attempt")
    of = sizes[0]
    missing = [number for number in range(1, of + 1) if number not in runs]
    if missing:
        remedy = f"make it with cytoseed segment --shard {missing[0]}/{of}"
        raise FileNotFoundError(f"{_listed(missing, of)} {whose} is missing; {remedy}")
    unfinished = [number for number, run in runs.items() if not run.get("ended")]
    if unfinished:
        remedy = f"run it again with --resume (--shard {unfinished[0]}/{of} --resume)"
        raise ValueError(f"{_listed(unfinished, of)} {whose} has tiles to go: {remedy}")
    first = _deciding(next(iter(runs.values())))
    for number, run in runs.items():
        lines = "; ".join(differences(first, _deciding(run)))
        if lines:
            made = f"was made differently than the first ({lines})"
            raise ValueError(f"{_listed([number], of)} {whose} {made}: make it again with --overwrite")


def _holds_all(store: Store, run: Mapping[str, Any]) -> bool:
    """Whether an earlier merge, interrupted afterwards, has gathered and stitched all tiles."""
    existing = store.run() or {}
    return "gathered" in existing and _deciding(existing) == _deciding(run) and store.kept() is not None


def _gather(store: Store, shards: Sequence[Store], run: Mapping[str, Any]) -> None:
    """Copy all tiles into one store."""
    whole = {name: value for name, value in run.items() if name != "ended"}
    store.announce({name: value for name, value in whole.items() if name != "normalisation"})
    for shard in shards:
        for tile in sorted(shard.done()):
            store.write(tile, shard.read(tile))
    todo = np.sort(np.concatenate([shard.todo() for shard in shards]))
    store.begin({**whole, "asked": {**run["asked"], "shard": []}, "gathered": len(shards)}, todo)


def _deciding(run: Mapping[str, Any]) -> Any:
    """Facts of a run that must be equal in all shards."""
    names = ("version", "input", "settings", "grid", "normalisation", "stains", "tiles")
    return {name: run.get(name) for name in names}


def _listed(numbers: Sequence[int], of: int) -> str:
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} of {of}"
