"""How the command line speaks: notices and errors go to stderr, a line each, and decide the exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
"""Exit code where some of the work could not be done."""
MISUSED = 2
"""Exit code where the command was given something it cannot work with; nothing was done."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

_NAMED = 5  # images that a remark names at most

MISTAKES = (ValueError, TypeError, OSError, ModuleNotFoundError)
"""What the library raises when the user's input is at fault, or an extra's package is not installed; anything else is a
fault of ours."""


@contextmanager
def exit_on_mistake(code: int) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and an exit code, and Ctrl-C into its own code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (*MISTAKES, MemoryError) as error:
        complain(str(error) or "not enough memory")
        raise typer.Exit(code) from None


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    _say(f"error: {message}")


def remark(message: str) -> None:
    """Say on stderr what the user may not have meant."""
    _say(f"note: {message}")


def _say(line: str) -> None:
    """Write a line to stderr as it is now: `typer.echo` would find the terminal behind a progress bar, and mar it."""
    sys.stderr.write(f"{line}\n")


class Remarks:
    """Remarks on many images: each text is said once, and at the end for how many more images it holds."""

    def __init__(self) -> None:
        self._images: dict[str, list[str]] = {}

    def add(self, image: str, text: str) -> None:
        """Say what is to be said of an image, unless it was said of another."""
        images = self._images.setdefault(text, [])
        images.append(image)
        if len(images) == 1:
            remark(f"{image}: {text}")

    def close(self) -> None:
        """Say which other images the remarks hold for."""
        for first, *others in self._images.values():
            if others:
                shown = others if len(others) <= _NAMED else [*others[: _NAMED - 1], f"{len(others) - _NAMED + 1} more"]
                remark(f"what is noted of {first} holds for {', '.join(shown)} too")
