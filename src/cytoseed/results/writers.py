"""The formats a result is written in, by name: found in `cytoseed.results.formats`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from cytoseed.results import formats as _formats
from cytoseed.results.writer import Writer


def _found() -> dict[str, Writer]:
    """Gather the writers of every format's file."""
    modules = sorted(module.name for module in pkgutil.iter_modules(_formats.__path__))
    files = (importlib.import_module(f"{_formats.__name__}.{name}") for name in modules)
    return {writer.name: writer for file in files for writer in file.WRITERS}


WRITERS: dict[str, Writer] = _found()
"""The formats, by the names that `Segmentation.save` and the command line take."""


def check_formats(names: Sequence[str], shape: tuple[int, int, int] | None = None, count: int = 0) -> tuple[str, ...]:
    """Refuse formats that cannot be written, before any work is done.

    Parameters
    ----------
    names : sequence of str
        Names from `WRITERS`.
    shape : tuple of int, optional
        (C,H,W) of the image, where it is known.
    count : int
        How many objects there are, as far as that is known.

    Returns
    -------
    tuple of str
        The names, each once.

    Raises
    ------
    ValueError
        A format that is not known, none at all, or one that cannot hold so large a result.
    ModuleNotFoundError
        A format whose package is not installed; the message says how to install it.
    """
    if isinstance(names, str):
        names = (names,)
    for name in names or ("",):
        if name not in WRITERS:
            raise ValueError(f"format {name!r} is not known; the formats are {', '.join(WRITERS)}")
        writer = WRITERS[name]
        if writer.needs and find_spec(writer.needs) is None:
            raise ModuleNotFoundError(
                f"format {name!r} needs the package {writer.needs}, which is not installed: "
                f"pip install 'cytoseed[{writer.extra}]'"
            )
    for sentence in refusals(names, shape, count).values() if shape is not None else ():
        raise ValueError(sentence)
    return tuple(dict.fromkeys(names))


def refusals(names: Sequence[str], shape: tuple[int, int, int], count: int) -> dict[str, str]:
    """Tell which formats cannot hold a result.

    Parameters
    ----------
    names : sequence of str
        Names from `WRITERS`.
    shape : tuple of int
        (C,H,W) of the image.
    count : int
        How many objects there are.

    Returns
    -------
    dict from str to str
        For each such format a sentence that says why, and which format can.
    """
    reasons = {name: WRITERS[name].limit(shape, count) for name in names}
    return {
        name: f"format {name!r} cannot hold this result: {reason}"
        for name, reason in reasons.items()
        if reason is not None
    }


def paths_of(folder: Path, stem: str, names: Sequence[str]) -> dict[str, Path]:
    """Give the path of each format's file.

    Raises
    ------
    ValueError
        If a format is not known, or none is named.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names or ("",):
        if name not in WRITERS:
            raise ValueError(f"format {name!r} is not known; the formats are {', '.join(WRITERS)}")
    return {name: folder / f"{stem}{WRITERS[name].suffix}" for name in names}
