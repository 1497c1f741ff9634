"""How the command line speaks: notices and errors go to stderr, a line each, and decide the exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

FAILED = 1
"""Exit code where some of the work could not be done."""
MISUSED = 2
"""Exit code where the command was given something it cannot work with; nothing was done."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

MISTAKES = (ValueError, TypeError, OSError)
"""What the library raises when the user's input is at fault; anything else is a fault of ours."""


@contextmanager
def exit_on_mistake(code: int) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and an exit code, and Ctrl-C into its own code."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except MISTAKES as error:
        complain(str(error))
        raise typer.Exit(code) from None


def complain(message: str) -> None:
    """Say on stderr what went wrong."""
    typer.echo(f"error: {message}", err=True)


def remark(message: str) -> None:
    """Say on stderr what the user may not have meant."""
    typer.echo(f"note: {message}", err=True)
