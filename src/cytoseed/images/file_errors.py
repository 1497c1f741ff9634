"""Errors of files that cannot be taken as an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytoseed.paths import display


class ImageFileError(ValueError):
    """A file that cannot be taken as an image; the message names the file, the cause and what to do."""


class CutFileError(ImageFileError):
    """A file that lacks a part."""


def cut_short(path: Path | None, what: str) -> CutFileError:
    """Error for a file that lacks a part; `what` says in words which."""
    return CutFileError(f"{name_of(path)}: is cut short or damaged ({what}); copy or export it again")


def name_of(path: Path | None) -> str:
    """What an image is called in messages."""
    return "image" if path is None else display(path)


@contextmanager
def foreign_errors(path: Path | None) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into an `ImageFileError` that names the file.

    Memory errors, errors of the file system, and errors of a Python array (`path` is None) pass through.
    """
    try:
        yield
    except (ImageFileError, MemoryError, OSError):
        raise
    except Exception as error:  # decoders raise RuntimeError, struct.error, KeyError, ... on damaged files
        if path is None:
            raise
        raise ImageFileError(
            f"{name_of(path)}: cannot be read ({type(error).__name__}: {error}); "
            f"the file is damaged, cut short or of an unusual kind: copy or export it again"
        ) from error
