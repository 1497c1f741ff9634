"""Public data sets, as their official downloads unpack, to samples: `prepare`; their licences: `find_note`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cytoseed.learn.datasets import bbbc039, consep, dsb2018, ihc_tma, kumar, lynsec, monuseg, nuinsseg, tnbc2018
from cytoseed.learn.datasets.preparing import Prepared, prepare_source
from cytoseed.learn.datasets.source import Item, Source
from cytoseed.settings import DatasetNote

__all__ = ["SOURCES", "Item", "Prepared", "Source", "find_note", "find_source", "prepare", "prepare_source"]

SOURCES: dict[str, Source] = {
    module.SOURCE.name: module.SOURCE
    for module in (tnbc2018, nuinsseg, monuseg, kumar, ihc_tma, consep, lynsec, dsb2018, bbbc039)
}
"""The data sets that can be prepared, by name."""

_NOTES = {
    note.name: note
    for note in (
        DatasetNote("bitdepth_nucseg", "Apache-2.0", "https://github.com/masih4/BitDepth_NucSeg @ a2636522"),
        DatasetNote(
            "kumar_train16", "CC-BY-NC-SA-4.0", "https://github.com/bruceyang2012/Miccai_challenge_MONUSEG @ 50be9414"
        ),
    )
}  # known, but prepared elsewhere


def find_source(name: str) -> Source:
    """Find a data set by name.

    Parameters
    ----------
    name : str
        One of `SOURCES`.

    Returns
    -------
    Source
        What is known of it, and how it is read.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    if name not in SOURCES:
        raise ValueError(
            f"name is {name!r}; it must be one of: {', '.join(SOURCES)}. Your own images need no preparation: "
            f"see docs/data.md"
        )
    return SOURCES[name]


def find_note(name: str) -> DatasetNote | None:
    """Say under what licence a data set is, and where it was published.

    Parameters
    ----------
    name : str
        Name of the data set, as samples have it.

    Returns
    -------
    DatasetNote or None
        Without a number of images; None for a data set that is not known, such as one's own.
    """
    return SOURCES[name].note if name in SOURCES else _NOTES.get(name)


def prepare(
    name: str, downloaded: str | Path, out: str | Path, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Turn the unpacked download of a public data set into samples that `find_samples` reads.

    Parameters
    ----------
    name : str
        One of `SOURCES`.
    downloaded : str or Path
        Folder that the download was unpacked to.
    out : str or Path
        Folder to write to: NAME/images, NAME/masks, and rows of samples.csv.
    progress : callable, optional
        Called with the number of images done and of all, after each.

    Returns
    -------
    Prepared
        What was written, with remarks where the totals are not the published ones.

    Raises
    ------
    ValueError
        If there is no data set of this name, or else as `prepare_source`.
    FileNotFoundError, NotADirectoryError
        As `prepare_source`.
    """
    return prepare_source(find_source(name), downloaded, out, progress)
