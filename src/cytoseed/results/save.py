"""Writing a result into a folder: all of it or nothing, and never over what was made otherwise."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cytoseed.results.record import SUFFIX, OldRecord, Record, compare, read_record, stem_of
from cytoseed.results.writers import WRITERS, paths_of

if TYPE_CHECKING:
    from cytoseed.results.result import Result

_LEFT_BEHIND_S = (
    3600  # a folder of half-written files that nothing was added to for so long is of a run that was killed
)


def save(
    result: Result, folder: Path, formats: Sequence[str], overwrite: bool, staging: Path | None = None
) -> tuple[Path, ...]:
    """Write a result into a folder as `Segmentation.save` does, holding only parts of it at a time.

    Parameters
    ----------
    result : Result
        What to write.
    folder : path
        Made if it is not there.
    formats : sequence of str
        Names from `cytoseed.results.WRITERS`.
    overwrite : bool
        Write everything anew, also over files that another input, other settings or another program made.
    staging : path, optional
        Folder in which the files are first written, for nothing else: whatever it holds is deleted, and so is the
        folder, at the end. It must be on the same disk as `folder`. Without it, a new hidden one in `folder`.

    Returns
    -------
    tuple of path
        The files of the formats asked for, and the record, last.

    Raises
    ------
    ValueError
        If a format is not known, or `folder` lies in `staging`.
    FileExistsError
        If files of this name were made otherwise and `overwrite` is false; the message shows how.
    OSError
        If the folder cannot be written to, or its disk is full: with the same `errno`. Results that were there are
        left as they were.
    """
    stem = stem_of(result.source)
    record = Record.of(result.input, result.settings)
    paths = paths_of(folder, stem, formats)
    if staging is not None and folder.resolve().is_relative_to(staging.resolve()):
        raise ValueError(f"staging is {staging}, which would be deleted with the results in {folder}; give another")
    found = compare(folder, stem, record, formats)
    if found.state == "different" and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a result for {stem!r} that was made otherwise ({'; '.join(found.differences)}); "
            f"choose another folder, or overwrite it (--overwrite, overwrite=True)"
        )
    record_path = folder / f"{stem}{SUFFIX}"
    to_write = tuple(paths) if overwrite or found.state != "same" else found.missing
    if to_write:
        names = {name: paths[name].name for name in to_write}
        try:
            with _staging_in(record_path, staging) as beside:
                plan = _planned(result, record, names, record_path, adds=found.state == "same")
                _write(result, plan, names, beside)
                _move(plan, record_path, beside)
        except OSError as error:
            if not _is_from_writing(error, record_path, staging):
                raise
            raise _unwritable(folder, error) from error
    return (*paths.values(), record_path)


class _Plan(NamedTuple):
    """What becomes of the files of this stem."""

    written: tuple[str, ...]
    """Names of those that are written now."""
    removed: tuple[str, ...]
    """Names of those that are removed: of the result that is replaced, so that nobody takes them for this one's."""
    before: bytes
    """The record while files are moved: it names those that are not sure, so that a run after a kill knows them."""
    after: bytes
    """The record of the complete result."""


def _planned(result: Result, record: Record, names: dict[str, str], record_path: Path, adds: bool) -> _Plan:
    """Decide what becomes of files that are there; where the result `adds` to one, what that has for sure is kept."""
    old = read_record(record_path) or OldRecord({}, frozenset(), frozenset(), has_failed=False)
    written = set(names.values())
    sure = old.files if adds and not old.has_failed else frozenset[str]()
    kept = {name for name in sure - written if (record_path.parent / name).exists()}
    removed = (old.files | old.pending) - written - kept
    before = record.to_json(sorted(kept), sorted(written | removed), result.failed)
    after = record.to_json(sorted(kept | written), (), result.failed)
    # backslashreplace is JSON's own escape, for names that are no UTF-8
    texts = (text.encode("utf-8", "backslashreplace") for text in (before, after))
    return _Plan(tuple(sorted(written)), tuple(sorted(removed)), *texts)


def _write(result: Result, plan: _Plan, names: dict[str, str], staging: Path) -> None:
    """Write everything beside its place: a kill meanwhile leaves the folder as it was."""
    for format_name, name in names.items():
        WRITERS[format_name].write(result, staging / name)
    (staging / "before").write_bytes(plan.before)
    (staging / "after").write_bytes(plan.after)


def _move(plan: _Plan, record_path: Path, staging: Path) -> None:
    """Move everything into its place: at every moment a record tells which files are sure and which are not."""
    folder = record_path.parent
    os.replace(staging / "before", record_path)
    for name in plan.removed:
        (folder / name).unlink(missing_ok=True)
    for name in plan.written:
        os.replace(staging / name, folder / name)
    os.replace(staging / "after", record_path)


@contextmanager
def _staging_in(record_path: Path, given: Path | None) -> Iterator[Path]:
    """Make the folder for files that are being written, empty; it goes in the end, whatever happens."""
    folder = record_path.parent
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


def _remove_left_behind(staging: Path, prefix: str) -> None:
    """Remove the folders of runs that were killed; those of runs that may go on beside this one are younger."""
    now = staging.stat().st_mtime  # by the clock of the disk
    with os.scandir(staging.parent) as entries:
        others = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for other in others:
        with suppress(OSError):  # gone meanwhile
            if now - other.stat().st_mtime > _LEFT_BEHIND_S:
                shutil.rmtree(other, ignore_errors=True)


def _is_from_writing(error: OSError, record_path: Path, staging: Path | None) -> bool:
    """Tell whether an error is of the files that are written, not of one that the result is read from."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return True
    path, folder, stem = Path(error.filename), record_path.parent, record_path.name.removesuffix(SUFFIX)
    if path in (record_path, *paths_of(folder, stem, tuple(WRITERS)).values()) or folder.is_relative_to(path):
        return True
    if staging is None:
        return any(place.name.startswith(_prefix(record_path)) for place in (path, path.parent))
    return path.is_relative_to(staging) or staging.is_relative_to(path)


def _prefix(record_path: Path) -> str:
    return f".{record_path.name}-"


def _unwritable(folder: Path, error: OSError) -> OSError:
    """Say what to do about a folder that takes no files, keeping what tells a full disk from others."""
    told = OSError(
        f"{folder}: cannot be written to ({error.strerror or error}); choose a folder that can, "
        f"and see that there is room on its disk"
    )
    told.errno = error.errno
    return told
