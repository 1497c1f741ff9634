"""What a format is: a name, how its files end, what writes one, and what it cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from cytoseed.results.result import Result


def _unlimited(shape: tuple[int, int, int], count: int) -> None:
    """Hold anything."""


class Writer(NamedTuple):
    """One format."""

    name: str
    """What the command line and `Segmentation.save` call it."""
    suffix: str
    """How its files, or folders, end."""
    write: Callable[[Result, Path], None]
    """Writes a result to a path at which there is nothing yet, without ever holding all of it."""
    about: str
    """What it is and what opens it, in a few words."""
    limit: Callable[[tuple[int, int, int], int], str | None] = _unlimited
    """Given an image's shape (C,H,W) and a number of objects, tells why it cannot hold them and which format can;
    None where it can."""
    needs: str = ""
    """A package that it needs, by the name it is imported by; empty: nothing beyond cytoseed itself."""
    extra: str = ""
    """The extra of cytoseed that installs the package."""
