"""What a file that cannot be taken as an image raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cytoseed.images.remote import Place


class ImageFileError(ValueError):
    """A file that cannot be taken as an image; the message names the file, the cause and what to do."""


def cut_short(path: Place | None, what: str) -> ImageFileError:
    """Make the error for a file that lacks a part; `what` says in words which."""
    return ImageFileError(f"{path or 'image'}: is cut short or damaged ({what}); copy or export it again")


@contextmanager
def foreign_errors(path: Place | None) -> Iterator[None]:
    """Turn whatever a decoder raises on a damaged file into an `ImageFileError` that names the file.

    A lack of memory, what the system says of a file, and errors of an array in Python (`path` is None) go through. Of a
    file far away that could not be reached, that is what is raised: decoders take missing bytes for damage.
    """
    try:
        yield
    except (ImageFileError, MemoryError, OSError):
        raise
    except Exception as error:  # decoders raise RuntimeError, struct.error, KeyError, ... on damaged files
        if path is None:
            raise
        lost: OSError | None = getattr(path, "failure", None)  # what came instead of bytes from far away
        if lost is not None:
            raise lost from error
        raise ImageFileError(
            f"{path}: cannot be read ({type(error).__name__}: {error}); "
            f"the file is damaged, cut short or of an unusual kind: copy or export it again"
        ) from error
