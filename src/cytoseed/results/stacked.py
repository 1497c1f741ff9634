"""Results of all planes of a z-stack or time series: labels as a hyperstack, tables with columns t and z."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.frames import parse_name
from cytoseed.paths import atomic_file
from cytoseed.results.view import stem_of
from cytoseed.results.writers import paths_of

_LARGEST_IMAGEJ_BYTES = 1 << 32
_FORMATS = ("labels", "table")


def write_stacked(folder: Path, source: str, series: Sequence[str], formats: Sequence[str]) -> list[Path]:
    """Write labels and table of several planes, whose own files are in the folder; returns the paths.

    `series` are the names of the planes, time by time, such as `t02_z05`. Labels have the axes T, Z, then C where there
    are nuclei and cells; ImageJ's hyperstack where its ids and its size allow, else OME-TIFF.
    """
    names = [parse_name(name) for name in series]
    base = next((name.series for name in names if name is not None), None)
    stem, written = stem_of(source, base), []
    for kind in (name for name in _FORMATS if name in formats):
        (target,) = paths_of(folder, stem, [kind]).values()
        parts = [paths_of(folder, stem_of(source, name), [kind])[kind] for name in series]
        places = [(None if name is None else name.time, None if name is None else name.z) for name in names]
        if all(part.is_file() for part in parts):
            (_stack_labels if kind == "labels" else _join_tables)(target, parts, places)
            written.append(target)
    return written


def _stack_labels(target: Path, parts: Sequence[Path], places: Sequence[tuple[str | None, str | None]]) -> None:
    """Write label images (H, W) or (2, H, W) as one file with the axes TZCYX."""
    import tifffile

    def planes(dtype: Any) -> Iterator[NDArray[Any]]:
        for part in parts:
            labels = tifffile.imread(part)
            yield from labels.reshape(-1, *labels.shape[-2:]).astype(dtype)

    first = tifffile.imread(parts[0])
    times = len({time for time, _ in places})
    shape = (times, len(parts) // times, first.size // (first.shape[-2] * first.shape[-1]), *first.shape[-2:])
    highest = max(int(tifffile.imread(part).max(initial=0)) for part in parts)
    small = highest < 1 << 16 and 2 * int(np.prod(shape, dtype=np.int64)) < _LARGEST_IMAGEJ_BYTES
    dtype = np.dtype(np.uint16 if small else np.int32)
    kind: dict[str, Any] = {"imagej": True} if small else {"ome": True, "bigtiff": True}
    with atomic_file(target) as beside:
        tifffile.imwrite(
            beside,
            planes(dtype),
            shape=shape,
            dtype=dtype,
            metadata={"axes": "TZCYX"},
            photometric="minisblack",
            **kind,
        )


def _join_tables(target: Path, parts: Sequence[Path], places: Sequence[tuple[str | None, str | None]]) -> None:
    """Write tables below each other, after columns `t` and `z` as far as the stack has them."""
    with atomic_file(target) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for number, (part, (time, z)) in enumerate(zip(parts, places, strict=True)):
            where = {name: int(at) for name, at in (("t", time), ("z", z)) if at is not None and at.isdecimal()}
            with part.open(newline="", encoding="utf-8") as source:
                rows = csv.reader(source)
                header = next(rows)
                if number == 0:
                    writer.writerow([*where, *header])
                writer.writerows([*where.values(), *row] for row in rows)
