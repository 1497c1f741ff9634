"""The folder of a slide's objects, tile by tile: it survives a kill, and results are written from it."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.packed import read_array, read_arrays
from cytoseed.paths import is_remote, list_names, read_bytes, remove, write_bytes
from cytoseed.results.objects import Objects, Part

SUFFIX = ".cytoseed"
"""Ending of the folder's name, after the stem of the image."""

TILES = "tiles"
"""Name of the folder in it with a file per tile."""

_RUN, _TODO, _KEPT = "run.json", "todo.npy", "kept.npz"


class StitchedObjects(NamedTuple):
    """The objects of tiles that belong to the result, K in all, and their ids."""

    first: NDArray[np.int64]  # (tiles + 1,) Tile t's objects are those from first[t] to first[t + 1] - 1
    place: NDArray[np.int64]  # (K,) Place of each among its tile's objects; by tile, target and id
    id: NDArray[np.int64]  # (K,) Id of each: from 1 without gaps, ascending from tile to tile; a nucleus has its cell's
    tile_box_yxhw: NDArray[np.int64]  # (tiles,4) Box around a tile's objects in the image; of size 0 without any
    left_out_yxhw: NDArray[np.int64]  # (N,4) Boxes, in the image, of parts of objects that are too large to be followed
    changed_at: NDArray[np.int64]  # (M,) Numbers of those of the K that lost pixels to others
    changed: Objects  # (M) These objects, as they are now


class Store:
    """A folder with the objects of every tile that is done; made when something is written. Each file is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self) -> Mapping[str, Any] | None:
        """Description of the run, as `begin` wrote it; None if there is none, a ValueError if it is damaged."""
        try:
            found = json.loads(read_bytes(self.path / _RUN).decode())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path / _RUN}: is damaged ({error}); start again with --overwrite") from error
        if not isinstance(found, dict) or not _is_run(found):
            raise ValueError(f"{self.path / _RUN}: is not a description of a run; start again with --overwrite")
        return found

    def announce(self, run: Mapping[str, Any]) -> None:
        """Write the known facts about a run that will begin, then remove any earlier one."""
        self._write_run(run)  # first: a kill after it leaves no doubt whose run it is
        for name in (_TODO, _KEPT, TILES):
            remove(self.path / name)
        if not is_remote(self.path):
            (self.path / TILES).mkdir(parents=True)

    def begin(self, run: Mapping[str, Any], todo: NDArray[np.int64]) -> None:
        """Write everything that determines the result of a new run, and the ascending numbers (N,) of its tiles."""
        buffer = io.BytesIO()
        np.save(buffer, todo)
        write_bytes(self.path / _TODO, buffer.getvalue())
        self._write_run(run)

    def clear(self) -> None:
        """Forget the run and everything it stored."""
        for name in (_RUN, _TODO, _KEPT, TILES):
            remove(self.path / name)

    def change(self, **facts: Any) -> None:
        """Change some facts of the run."""
        self._write_run({**(self.run() or {}), **facts})

    def todo(self) -> NDArray[np.int64]:
        """Numbers of the tiles to make; a ValueError if they are missing or damaged."""
        try:
            found = read_array(read_bytes(self.path / _TODO))
            if found.ndim != 1 or found.dtype.kind not in "iu" or (np.diff(found, prepend=-1) <= 0).any():
                raise ValueError("not ascending numbers of tiles")
        except (FileNotFoundError, EOFError, ValueError) as error:  # errors of a remote store pass
            raise ValueError(f"{self.path / _TODO}: is damaged ({error}); start again with --overwrite") from error
        return found

    def done(self) -> set[int]:
        """Numbers of the tiles whose objects are there."""
        named = (name.partition(".") for name in list_names(self.path / TILES))
        return {int(stem) for stem, _, ending in named if ending == "npz" and stem.isdecimal()}

    def write(self, tile: int, objects: Objects) -> None:
        """Write the objects of a tile, durably: they survive a kill and a loss of power."""
        write_bytes(self._tile(tile), objects.to_bytes())

    def read(self, tile: int) -> Objects:
        """Read the objects of a tile; a FileNotFoundError if it is not done, a ValueError if it is damaged."""
        try:
            return Objects.from_bytes(read_bytes(self._tile(tile)))
        except ValueError as error:
            raise ValueError(f"{self._tile(tile)}: {error}; --resume makes this tile again") from error

    def drop(self, tile: int) -> None:
        """Remove a tile, which then counts as not done."""
        self._tile(tile).unlink(missing_ok=True)
        self.drop_kept()

    def write_kept(self, kept: StitchedObjects) -> None:
        """Write the decisions of stitching."""
        buffer = io.BytesIO()
        arrays = {name: getattr(kept, name) for name in StitchedObjects._fields if name != "changed"}
        np.savez_compressed(buffer, changed=np.frombuffer(kept.changed.to_bytes(), np.uint8), **arrays)
        write_bytes(self.path / _KEPT, buffer.getvalue())

    def kept(self) -> StitchedObjects | None:
        """Read the decisions of stitching; None if they are missing or damaged: they can be made again."""
        try:
            found = read_arrays(io.BytesIO(read_bytes(self.path / _KEPT)))
            arrays: dict[str, Any] = {name: found[name] for name in StitchedObjects._fields}
            if not len(arrays["place"]) == len(arrays["id"]) == arrays["first"][-1]:
                return None
            return StitchedObjects(**{**arrays, "changed": Objects.from_bytes(arrays["changed"].tobytes())})
        except (OSError, ValueError, LookupError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error):
            return None

    def stitched(self, kept: StitchedObjects) -> Callable[[int], Part]:
        """Reader of a tile's objects and ids, as stitching left them."""

        def read(tile: int) -> Part:
            first, last = kept.first[tile : tile + 2].tolist()
            objects = self.read(tile).take(kept.place[first:last])
            changed = np.flatnonzero((kept.changed_at >= first) & (kept.changed_at < last))
            if len(changed):
                objects = objects.replaced(kept.changed_at[changed] - first, kept.changed.take(changed))
            return objects, kept.id[first:last]

        return read

    def drop_kept(self) -> None:
        """Remove the decisions of stitching."""
        (self.path / _KEPT).unlink(missing_ok=True)

    def _write_run(self, run: Mapping[str, Any]) -> None:
        if not is_remote(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(run, indent=2, ensure_ascii=False) + "\n"
        write_bytes(self.path / _RUN, text.encode("utf-8", "backslashreplace"))

    def _tile(self, tile: int) -> Path:
        return self.path / TILES / f"{tile:08d}.npz"


def _is_run(found: Mapping[str, Any]) -> bool:
    """Whether facts of a run are of the right kinds, as far as they are there."""
    limits, asked = found.get("normalisation", {"low": [], "high": []}), found.get("asked", {})
    kinds: dict[str, type] = {"input": dict, "settings": dict, "grid": dict, "stains": list, "tiles": int}
    kinds |= {"normalisation": dict, "asked": dict}
    asks = {"source": str, "model": str, "options": dict, "formats": list}
    return (
        all(isinstance(found[name], kind) for name, kind in kinds.items() if name in found)
        and all(isinstance(asked[name], kind) for name, kind in asks.items() if name in asked)
        and all(isinstance(limits.get(name), list) for name in ("low", "high"))
        and all(isinstance(value, int | float) for name in ("low", "high") for value in limits[name])
        and all(isinstance(stain, str) for stain in found.get("stains", ()))
    )
