"""Output of the command line: results on stdout, errors and notes on stderr, one line each; exit codes."""

from __future__ import annotations

import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from rich.console import Console
from rich.padding import Padding

from cytoseed.paths import InputWarning

_Item = TypeVar("_Item")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: some of the work failed; an argument is wrong, and nothing was done; Ctrl-C."""

_NAMED = 5  # most images named in a note

MISTAKES = (ValueError, TypeError, OSError, ModuleNotFoundError)
"""Errors that a user can fix; any other exception is a bug of the library."""


def plain_console() -> Console:
    """Console that prints lines as they are, above progress bars."""
    return Console(soft_wrap=True, highlight=False, markup=False)


def print_entry(title: str, *lines: str) -> None:
    """Print an entry of a list: a title, and indented lines wrapped to the terminal."""
    console = Console(highlight=False, markup=False)
    console.print(title)
    for line in lines:
        console.print(Padding(line, (0, 0, 0, 4)))


@contextmanager
def progress_bar(title: str, total: float | None = None) -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """Progress of some work: a function that updates a bar on a terminal, and one that prints a line elsewhere."""
    from rich.progress import Progress

    console = plain_console()
    with Progress(console=console, disable=not console.is_terminal) as bars:
        update = functools.partial(bars.update, bars.add_task(title, total=total))
        yield update, (lambda line: None if console.is_terminal else console.print(line))


@contextmanager
def exit_on_mistake(code: int) -> Iterator[None]:
    """Turn a user's mistake into one line on stderr and an exit code, Ctrl-C into its own, and warnings into notes."""
    notes = Notes()
    try:
        with notes.of_input():
            yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except (*MISTAKES, MemoryError) as error:
        print_error(one_line(error))
        raise typer.Exit(code) from None
    finally:
        notes.close()


def run_each(
    items: Iterable[_Item],
    name: Callable[[_Item], str],
    work: Callable[[_Item], bool],
    notes: Notes | None = None,
    threads: int = 1,
) -> None:
    """Process several items; report failures, continue, and exit with `FAILED` if there were any."""

    def succeeds(item: _Item) -> bool:
        try:
            return work(item)
        except (*MISTAKES, MemoryError) as error:
            print_error(one_line(error, name(item)))
            return False

    try:
        if threads == 1:
            done = [succeeds(item) for item in items]
        else:
            with ThreadPoolExecutor(threads) as pool:
                done = list(pool.map(succeeds, items))
    finally:
        if notes is not None:
            notes.close()
    failed = done.count(False)
    if failed and len(done) > 1:
        print_note(f"{failed} of {len(done)} failed, as reported above")
    if failed:
        raise typer.Exit(FAILED)


def one_line(error: BaseException, name: str = "") -> str:
    """Message of an error, in one line that contains a name."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) and not text.startswith("not enough memory"):  # NumPy's own message
        text = f"not enough memory ({text or 'no details'}); segment only a part of the image"
    text = text or "failed"
    return text if name in text else f"{name}: {text}"


def print_error(message: str) -> None:
    """Print an error to stderr."""
    sys.stderr.write(f"error: {message}\n")  # not typer.echo, which bypasses progress bars and breaks them


def print_note(message: str) -> None:
    """Print a note to stderr, about something that the user may not have intended."""
    sys.stderr.write(f"note: {message}\n")


class Notes:
    """Notes on many images: each text is printed once, and at the end the other images that it applies to."""

    def __init__(self) -> None:
        self._images: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def add(self, image: str, text: str) -> None:
        """Print a note on an image, unless the same text was printed for another."""
        with self._lock:
            images = self._images.setdefault(text, [])
            images.append(image)
            if len(images) == 1:
                print_note(f"{image}: {text}")

    @contextmanager
    def of_input(self) -> Iterator[None]:
        """Add the warnings about input files, each once."""
        with warnings.catch_warnings():
            show = warnings.showwarning

            def add(message: Warning | str, *details: Any) -> None:
                if isinstance(message, InputWarning):
                    self.add(message.path, message.text)
                else:
                    show(message, *details)

            warnings.showwarning = add  # type: ignore[assignment]
            warnings.simplefilter("default", InputWarning)
            yield

    def close(self) -> None:
        """Print the other images that each note applies to."""
        for first, *others in self._images.values():
            if others:
                shown = others if len(others) <= _NAMED else [*others[: _NAMED - 1], f"{len(others) - _NAMED + 1} more"]
                print_note(f"the note on {first} also applies to {', '.join(shown)}")
