"""The formats a result is written in, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cytoseed.results.geojson import write_geojson
from cytoseed.results.labels import write_labels
from cytoseed.results.overlay import write_overlay
from cytoseed.results.table import write_table

if TYPE_CHECKING:
    from cytoseed.results.result import Result


class Writer(NamedTuple):
    """One format: how its files end, and what writes one, without ever holding all of a result."""

    suffix: str
    write: Callable[[Result, Path], None]


WRITERS: dict[str, Writer] = {
    "labels": Writer(".labels.tif", write_labels),
    "geojson": Writer(".geojson", write_geojson),
    "table": Writer(".csv", write_table),
    "overlay": Writer(".overlay.png", write_overlay),
}
"""The formats, by the names that `Segmentation.save` and the command line take."""


def paths_of(folder: Path, stem: str, formats: Sequence[str]) -> dict[str, Path]:
    """Give the path of each format's file.

    Raises
    ------
    ValueError
        If a format is not known, or none is named.
    """
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    for name in names or ("",):
        if name not in WRITERS:
            raise ValueError(f"format {name!r} is not known; the formats are {', '.join(WRITERS)}")
    return {name: folder / f"{stem}{WRITERS[name].suffix}" for name in names}
