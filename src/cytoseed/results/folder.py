"""The folder that results are written into: what is done to its files, each of which is there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cytoseed.paths import is_remote, replace, set_aside

_LEFT_BEHIND_S = (
    3600  # a folder of half-written files that nothing was added to for so long is of a run that was killed
)


class Change(NamedTuple):
    """What becomes of the files of one result. A format's file may be a folder: all the same is done to it."""

    written: tuple[str, ...]
    """Names of those that are written now."""
    removed: tuple[str, ...]
    """Names of those that are removed: of the result that is replaced, so that nobody takes them for this one's."""
    before: bytes
    """The record while files are moved: it names those that are not sure, so that a run after a kill knows them."""
    after: bytes
    """The record of the complete result."""


@contextmanager
def staging_for(record_path: Path, given: Path | None) -> Iterator[Path]:
    """Make the folder for files that are being written, empty; it goes in the end, whatever happens.

    Parameters
    ----------
    record_path : path
        The record of the result; its folder is made if it is not there.
    given : path or None
        The folder, on the same disk, whatever it holds now; None: a new hidden one beside the record, and where that
        is far away, one of this machine.
    """
    folder = record_path.parent
    if is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="cytoseed-") as here:
            try:
                yield Path(here)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise OSError(
                    f"{here}: its disk is full, and files are made there before they are copied to {folder}; make "
                    f"room, or name a folder on another disk by TMPDIR"
                ) from error
        return
    folder.mkdir(parents=True, exist_ok=True)
    if given is None:
        staging = Path(tempfile.mkdtemp(prefix=_prefix(record_path), dir=folder))
        _remove_left_behind(staging, _prefix(record_path))
    else:
        staging = given
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def move(change: Change, record_path: Path, staging: Path) -> None:
    """Move everything into its place: at every moment a record tells which files are sure and which are not.

    Parameters
    ----------
    change : Change
    record_path : path
    staging : path
        Holds what is written, by its name; what is replaced or removed goes there where it cannot be at once.
    """
    folder = record_path.parent
    for name, record in (("before", change.before), ("after", change.after)):
        (staging / name).write_bytes(record)
    replace(staging / "before", record_path)
    for name in change.removed:
        set_aside(folder / name, staging)
    for name in change.written:
        replace(staging / name, folder / name)
    replace(staging / "after", record_path)


def is_from_writing(error: OSError, places: Sequence[Path], record_path: Path, staging: Path | None) -> bool:
    """Tell whether an error is of the files that are written, not of one that the result is read from.

    Parameters
    ----------
    error : OSError
    places : sequence of path
        Where the formats' files go.
    record_path, staging : path
        As for `staging_for`.
    """
    if not isinstance(error.filename, (str, os.PathLike)):
        return not isinstance(error, FileNotFoundError)  # what is written is never looked for
    path, folder = Path(error.filename), record_path.parent
    if folder.is_relative_to(path) or any(path.is_relative_to(place) for place in (record_path, *places)):
        return True
    if staging is None:
        return any(place.name.startswith(_prefix(record_path)) for place in (path, *path.parents))
    return path.is_relative_to(staging) or staging.is_relative_to(path)


def unwritable(folder: Path, error: OSError) -> OSError:
    """Say what to do about a folder that takes no files, keeping what tells a full disk from others."""
    told = OSError(
        f"{folder}: cannot be written to ({error.strerror or error}); choose a folder that can, "
        f"and see that there is room on its disk"
    )
    told.errno = error.errno
    return told


def _remove_left_behind(staging: Path, prefix: str) -> None:
    """Remove the folders of runs that were killed; those of runs that may go on beside this one are younger."""
    now = staging.stat().st_mtime  # by the clock of the disk
    with os.scandir(staging.parent) as entries:
        others = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for other in others:
        with suppress(OSError):  # gone meanwhile
            if now - other.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(other, ignore_errors=True)


def _prefix(record_path: Path) -> str:
    return f".{record_path.name}-"
