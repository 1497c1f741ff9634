"""Tiles of one image that several runs made, each its share, joined: for job arrays, which know nothing of each other.

Each shard keeps its tiles in a folder of its own, so that no two runs write to one place.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.images import as_image
from cytoseed.models.weights import load_model
from cytoseed.paths import as_path, list_names, lock, remove
from cytoseed.results.record import differences
from cytoseed.results.store import SUFFIX, Store
from cytoseed.run.job import Request
from cytoseed.run.slide import SlideRun, Watcher, run_slide
from cytoseed.settings import SegmentOptions

_NAME = re.compile(rf"(.+)\.shard-(\d+)-of-(\d+){re.escape(SUFFIX)}")


def find_shards(output: str | os.PathLike[str]) -> dict[str, dict[tuple[int, int], Store]]:
    """List the shards in a folder.

    Returns
    -------
    dict
        By the stem of their image: by number and how many there are to be, where each keeps its tiles.
    """
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
    watch: Watcher | None = None,
) -> SlideRun:
    """Join the tiles of all shards of an image, write the files, and remove the shards' folders.

    The files are those that one run would have written. A merge that was stopped is begun anew.

    Parameters
    ----------
    output : str or path
        The folder that all shards were given.
    stem : str
        What the names of the image's results begin with: one that `find_shards` lists.
    image : str or path, optional
        Where the image is now; without it, where the shards found it.
    watch : Watcher, optional
        Who is told of notices and of progress.

    Raises
    ------
    FileNotFoundError
        A shard, the image or the model is not there.
    FileExistsError
        The folder holds a result that was made otherwise.
    ValueError
        A shard has not ended, or was made otherwise than another.
    """
    folder = as_path(output)
    shards = find_shards(folder).get(stem, {})
    if not shards:
        raise FileNotFoundError(f"{folder} holds no shard of {stem!r}; cytoseed segment --shard 1/8 makes one")
    store = Store(folder / f"{stem}{SUFFIX}")
    runs = {number: shard.run() or {} for (number, _), shard in sorted(shards.items())}
    first = next(iter(runs.values()))
    if not _holds_all(store, first):
        _require_complete(folder, stem, shards, runs)
        with lock(store.path):
            _gather(store, list(shards.values()), first)
    asked = first["asked"]
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in asked["options"].items()
    }
    request = Request(
        as_image(os.fspath(image) if image is not None else asked["source"]),
        folder,
        load_model(asked["model"]),
        SegmentOptions(**options),
        tuple(asked["formats"]),
        "resume",
    )
    if request.stem != stem:
        raise ValueError(f"image is {image}, whose results are called {request.stem!r}; it must be that of {stem!r}")
    run = run_slide(request, watch)
    for shard in shards.values():
        remove(shard.path)
    return run


def _require_complete(
    folder: Path, stem: str, shards: Mapping[tuple[int, int], Store], runs: Mapping[int, Mapping[str, Any]]
) -> None:
    """Refuse to join what is not all there, or does not belong together."""
    sizes = sorted({of for _, of in shards})
    if len(sizes) > 1:
        raise ValueError(
            f"{folder} holds shards of {stem!r} in {' and in '.join(map(str, sizes))} parts; remove those that are "
            f"of another attempt"
        )
    missing = [number for number in range(1, sizes[0] + 1) if (number, sizes[0]) not in shards]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {_listed(missing, sizes[0])} of {stem!r}; make it by cytoseed segment "
            f"--shard {missing[0]}/{sizes[0]}"
        )
    unfinished = [number for number, run in runs.items() if not run.get("ended")]
    if unfinished:
        raise ValueError(
            f"{_listed(unfinished, sizes[0])} of {stem!r} has tiles to go: run it again with --resume "
            f"(--shard {unfinished[0]}/{sizes[0]} --resume)"
        )
    first = _deciding(next(iter(runs.values())))
    for number, run in runs.items():
        lines = differences(first, _deciding(run))
        if lines:
            raise ValueError(
                f"{_listed([number], sizes[0])} of {stem!r} was made otherwise than the first ({'; '.join(lines)}): "
                f"make it again with --overwrite"
            )


def _holds_all(store: Store, run: Mapping[str, Any]) -> bool:
    """Tell whether tiles were gathered already, by a merge that was stopped later."""
    there = store.run()
    if there is None or "gathered" not in there or _deciding(there) != _deciding(run):
        return False
    return store.kept() is not None


def _gather(store: Store, shards: Sequence[Store], run: Mapping[str, Any]) -> None:
    """Copy all tiles into one store."""
    asked = {**run["asked"], "shard": []}
    whole = {name: value for name, value in run.items() if name != "ended"}
    store.announce({name: value for name, value in whole.items() if name != "normalisation"})
    for shard in shards:
        for tile in sorted(shard.done()):
            store.write(tile, shard.read(tile))
    todo = np.sort(np.concatenate([shard.todo() for shard in shards]))
    store.begin({**whole, "asked": asked, "gathered": len(shards)}, todo)


def _deciding(run: Mapping[str, Any]) -> Any:
    """Choose what of a run must be the same in all shards."""
    names = ("version", "input", "settings", "grid", "normalisation", "stains", "tiles")
    return json.loads(json.dumps({name: run.get(name) for name in names}))


def _listed(numbers: Sequence[int], of: int) -> str:
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} of {of}"
