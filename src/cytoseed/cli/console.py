"""Output of the command line: results on stdout, everything else on stderr, one line each; exit codes."""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

import typer
from rich.console import Console
from rich.padding import Padding

from cytoseed.cli.streams import Stopped
from cytoseed.paths import InputWarning

_Item = TypeVar("_Item")

FAILED, MISUSED, INTERRUPTED = 1, 2, 130
"""Exit codes: some of the work failed; an argument is wrong or a package missing; Ctrl-C (docs/command-line.md)."""

_NAMED = 5  # most images named in a note
_PROGRESS_S = 30.0  # between two lines of progress where there is no terminal
# control characters, ends of lines, changes of direction, and halves of characters
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

MISTAKES = (ValueError, TypeError, OSError, ModuleNotFoundError)
"""Errors that a user can fix; any other exception is a bug of the library."""


@dataclass
class Output:
    """Output options of a command."""

    quiet: bool = False  # errors alone
    verbose: bool = False  # details and tracebacks too
    json: bool = False  # JSON on stdout, and no lines
    log: TextIO | None = None


_output = Output()


@contextmanager
def output_as(
    quiet: bool = False, verbose: bool = False, json: bool = False, log_file: Path | None = None
) -> Iterator[None]:
    """Print so during a command; a log is appended to its file."""
    global _output  # noqa: PLW0603 - one command per process
    log = None
    if log_file is not None:
        try:
            log = log_file.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise OSError(
                f"log file {str(log_file)!r} cannot be written to ({error.strerror}); give another"
            ) from error
    _output = Output(quiet, verbose, json, log)
    try:
        _log(" ".join(["cytoseed", *sys.argv[1:]]))
        yield
    finally:
        _output = Output()
        if log is not None:
            with suppress(OSError):
                log.close()


def wants_json() -> bool:
    """Whether stdout is for JSON alone."""
    return _output.json


def printable(text: str) -> str:
    """Text in which nothing can move the cursor, end the line or turn its direction: names of files are anyone's."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\t", " "))


def print_line(*lines: object) -> None:
    """Print lines of results to stdout, above progress bars."""
    for line in map(str, lines):
        _log(line)
        if not (_output.quiet or _output.json):
            _write(sys.stdout, line)


def print_json(value: Any) -> None:
    """Print a JSON value in one line to stdout."""
    sys.stdout.write(f"{json.dumps(value)}\n")  # all in ASCII
    sys.stdout.flush()


def print_error(message: str) -> None:
    """Print an error to stderr."""
    _log(f"error: {message}")
    _write(sys.stderr, f"error: {message}")


def print_note(message: str) -> None:
    """Print a note to stderr, about something that the user may not have intended."""
    _log(f"note: {message}")
    if not _output.quiet:
        _write(sys.stderr, f"note: {message}")


def print_detail(message: str) -> None:
    """Print to stderr what only --verbose and the log file show."""
    for line in message.splitlines():
        _log(line)
        if _output.verbose:
            _write(sys.stderr, line)


def print_progress(message: str) -> None:
    """Print progress to stderr, where no bar shows it."""
    _log(f"progress: {message}")
    if not (_output.quiet or shows_bars()):
        _write(sys.stderr, f"progress: {message}")


def print_entry(title: str, *lines: str) -> None:
    """Print an entry of a list: a title, and indented lines wrapped to the terminal."""
    console = Console(highlight=False, markup=False, emoji=False)
    console.print(printable(title))
    for line in lines:
        console.print(Padding(printable(line), (0, 0, 0, 4)))


def _write(stream: TextIO, line: str) -> None:
    stream.write(f"{printable(line)}\n")  # not typer.echo, which bypasses progress bars and breaks them
    stream.flush()


def _log(line: str) -> None:
    if _output.log is not None:
        with suppress(OSError):  # a full disk
            _output.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}\n")


def bar_console() -> Console:
    """Console for progress bars, which prints the lines above them as they are."""
    return Console(soft_wrap=True, highlight=False, markup=False, emoji=False)


def shows_bars() -> bool:
    """Whether there is a terminal for progress bars, and nobody forbids them."""
    return Console().is_terminal and not (_output.quiet or _output.json)


@contextmanager
def progress_bar(title: str, total: float | None = None) -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """Progress of some work: a function that updates a bar on a terminal, and one that prints a line elsewhere."""
    from rich.progress import Progress

    shown = shows_bars()
    with Progress(console=bar_console(), disable=not shown) as bars:
        update = functools.partial(bars.update, bars.add_task(title, total=total))
        yield update, (lambda line: None if shown else print_line(line))


class Pace:
    """Time left of some work, told now and then."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._due = self._begin + _PROGRESS_S

    def print(self, name: str, done: int, total: int, more: str = "") -> None:
        """Print a line of progress if it is due."""
        now = time.monotonic()
        if now >= self._due and 0 < done < total:
            self._due = now + _PROGRESS_S
            left = as_time((now - self._begin) / done * (total - done))
            print_progress(f"{name} {done} of {total}{more}, about {left} left")


def as_time(seconds: float) -> str:
    """Time in the unit that suits it."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def exit_on_mistake(code: int, kept: str = "no file is half-written") -> Iterator[None]:
    """Turn a user's mistake into a line on stderr and an exit code, and warnings into notes.

    An interruption says what is `kept`.
    """
    notes = Notes()
    try:
        with notes.of_input():
            yield
    except KeyboardInterrupt as stop:
        _log(f"interrupted: {kept}")
        _write(sys.stderr, f"interrupted: {kept}")
        raise typer.Exit(128 + stop.number if isinstance(stop, Stopped) else INTERRUPTED) from None
    except (*MISTAKES, MemoryError) as error:
        print_error(one_line(error))
        print_detail(traceback.format_exc())
        raise typer.Exit(MISUSED if isinstance(error, ModuleNotFoundError) else code) from None
    finally:
        notes.close()


@dataclass
class Tally:
    """Outcome of several items."""

    total: int
    failed: list[str] = field(default_factory=list)  # their names, in the order of failure

    def failures(self) -> str:
        """Phrase that names what failed."""
        return f"{len(self.failed)} of {self.total} failed: {_listed(self.failed)}"


def run_each(
    items: Iterable[_Item],
    name: Callable[[_Item], str],
    work: Callable[[_Item], bool],
    notes: Notes | None = None,
    threads: int = 1,
    on_error: Callable[[_Item, str], None] = lambda _, __: None,
    closing: Callable[[Tally], None] = lambda tally: print_note(tally.failures()) if tally.failed else None,
) -> None:
    """Process several items; report failures, continue, and exit with `FAILED` if there were any.

    `on_error` receives an item and its message; `closing` the outcome of more than one item.
    """
    every = list(items)
    tally, missing, stopped = Tally(len(every)), [], threading.Event()

    def process(item: _Item) -> None:
        try:
            done = work(item)
        except (*MISTAKES, MemoryError) as error:
            if stopped.is_set():  # an error of the workers' end
                return
            message = one_line(error, name(item))
            print_error(message)
            print_detail(traceback.format_exc())
            on_error(item, message)
            missing.extend([error] if isinstance(error, ModuleNotFoundError) else [])
            done = False
        if not done:
            tally.failed.append(name(item))

    try:
        if threads == 1:
            for item in every:
                process(item)
        else:
            _process_in_threads(process, every, threads, stopped)
    finally:
        if notes is not None:
            notes.close()
    if len(every) > 1:
        closing(tally)
    if tally.failed:
        raise typer.Exit(MISUSED if missing else FAILED)


def _process_in_threads(
    process: Callable[[_Item], None], items: list[_Item], threads: int, stopped: threading.Event
) -> None:
    """Process items; at an interruption, which is marked, threads are left to end with the workers they wait for."""
    pool = ThreadPoolExecutor(threads)
    try:
        for done in [pool.submit(process, item) for item in items]:
            done.result()
    except BaseException:
        stopped.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def one_line(error: BaseException, name: str = "") -> str:
    """Message of an error, in one line that contains a name."""
    text, name = (" ".join(each.split()) for each in (str(error), name))
    if isinstance(error, MemoryError) and not text.startswith("not enough memory"):  # NumPy's own message
        text = f"not enough memory ({text or 'no details'}); segment only a part of the image"
    text = text or "failed"
    return text if name in text else f"{name}: {text}"


def _listed(names: list[str]) -> str:
    """Names with commas between; of many, the first."""
    shown = names if len(names) <= _NAMED else [*names[: _NAMED - 1], f"{len(names) - _NAMED + 1} more"]
    return ", ".join(shown)


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

    def on(self, image: str) -> list[str]:
        """Notes on an image."""
        with self._lock:
            return [text for text, images in self._images.items() if image in images]

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
                print_note(f"the note on {first} also applies to {_listed(others)}")
