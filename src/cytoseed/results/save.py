"""Writing a result into a folder: all of it or nothing, and never over what was made otherwise."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from cytoseed.paths import is_remote, lock, replace, require_writable, same_file, set_aside
from cytoseed.results.facts import stem_of
from cytoseed.results.record import SUFFIX, OldRecord, Record, compare, read_record
from cytoseed.results.store import SUFFIX as STORE_SUFFIX
from cytoseed.results.view import ResultView
from cytoseed.results.writers import WRITERS, check_formats, paths_of, refusals

_ABANDONED_S = 3600  # a staging folder that nothing was added to for so long is of a run that was killed


def save(
    result: ResultView,
    folder: Path,
    formats: Sequence[str],
    overwrite: bool,
    staging: Path | None = None,
    record: Record | None = None,
    keep: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Write a result into a folder as `Result.save` does.

    Parameters
    ----------
    result, folder, formats, overwrite
        As for `Result.save`.
    staging : path, optional
        Folder of its own, on the same disk as `folder`, in which the files are first written; emptied before and
        removed after. By default a new hidden one in `folder`.
    record : Record, optional
        What made the result; by default this version of cytoseed, its input and settings.
    keep : sequence of str
        Names of files in `folder` that are neither written nor removed: the result is read from them.

    Returns
    -------
    tuple of path
        The files of the formats asked for, and the record, last.

    Raises
    ------
    ValueError
        If a format is not known, `folder` lies in `staging`, or a file would replace the image itself. If a format
        cannot hold the result: then all others were written, and the message names one that can.
    BlockingIOError, FileExistsError, ModuleNotFoundError, OSError
        As `Result.save`; of a full disk with the same `errno`. Results that were there are left as they were.
    """
    formats = check_formats(formats)
    stem = stem_of(result.source)
    record = record or Record.of(result.input, result.settings)
    paths, record_path = paths_of(folder, stem, formats), folder / f"{stem}{SUFFIX}"
    asked = tuple(name for name in formats if paths[name].name not in keep)
    if staging is not None and folder.resolve().is_relative_to(staging.resolve()):
        raise ValueError(f"staging is {staging}, which would be deleted with the results in {folder}; give another")
    for path in paths.values():
        _refuse_image(path, result.source)
    require_writable(folder)
    if not asked:
        return (*paths.values(), record_path)
    files = (*paths.values(), record_path)
    if not _to_write(result, folder, record, asked, overwrite)[0]:
        return files
    with _locked(folder, stem):
        to_write, adds = _to_write(result, folder, record, asked, overwrite)  # another run may have ended meanwhile
        refused = refusals(to_write, result.shape, result.count)
        names = {name: paths[name].name for name in to_write if name not in refused}
        if names:
            change = _plan(result, record, names.values(), record_path, adds, keep)
            _write(result, change, names, record_path, staging)
    if refused:
        others = f" ({', '.join(names)}: written)" if names else ""
        raise ValueError(f"{stem}: {'; '.join(refused.values())}{others}")
    return files


def _to_write(
    result: ResultView, folder: Path, record: Record, asked: tuple[str, ...], overwrite: bool
) -> tuple[tuple[str, ...], bool]:
    """List the formats to write, and tell whether they add to the same result; a different one is refused."""
    stem = stem_of(result.source)
    found = compare(folder, stem, record, asked, result.failed)
    if found.state == "different" and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a result for {stem!r} that was made otherwise ({'; '.join(found.differences)}); "
            f"choose another folder, or overwrite it (--overwrite, overwrite=True)"
        )
    return asked if overwrite or found.state != "same" else found.missing, found.state == "same"


@contextmanager
def _locked(folder: Path, stem: str) -> Iterator[None]:
    """Lock one image's results; a folder that cannot be written to gives the same error as writing does."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / f"{stem}{STORE_SUFFIX}"))
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno is None:
                raise
            raise _unwritable(folder, error) from error
        yield


def _refuse_image(path: Path, source: str) -> None:
    """Refuse to write a result over the image it comes from."""
    if str(path) == source if is_remote(path) else same_file(path, Path(source)):
        raise ValueError(
            f"{path}: is the image itself, and a result would be called the same; choose another folder for the results"
        )


class _Change(NamedTuple):
    """Planned changes to the files of one result; a format's file may be a folder."""

    written: tuple[str, ...]
    """Names of those that are written."""
    removed: tuple[str, ...]
    """Names of those that are removed: they belong to the result that is replaced."""
    before: bytes
    """The record while files are moved: it names the uncertain ones, so that a run after a kill knows them."""
    after: bytes
    """The record of the complete result."""


def _plan(
    result: ResultView, record: Record, names: Iterable[str], record_path: Path, adds: bool, keep: Sequence[str]
) -> _Change:
    """Decide what happens to files that are there; where the result `adds` to one, its certain files are kept."""
    old = read_record(record_path) or OldRecord({}, frozenset(), frozenset(), failed=())
    written = set(names)
    sure = old.files if adds and old.failed == tuple(result.failed) else frozenset[str]()
    kept = {name for name in (*sure, *keep) if name not in written and (record_path.parent / name).exists()}
    removed = (old.files | old.pending) - written - kept
    before = record.to_json(sorted(kept), sorted(written | removed), result.failed)
    after = record.to_json(sorted(kept | written), (), result.failed)
    # backslashreplace is JSON's own escape, for names that are not UTF-8
    texts = (text.encode("utf-8", "backslashreplace") for text in (before, after))
    return _Change(tuple(sorted(written)), tuple(sorted(removed)), *texts)


def _write(
    result: ResultView, change: _Change, names: Mapping[str, str], record_path: Path, staging: Path | None
) -> None:
    """Write everything beside its place, then move it there: a kill leaves the old files or the new ones."""
    folder = record_path.parent
    try:
        with _staging(record_path, staging) as beside:
            for format_name, name in names.items():
                WRITERS[format_name].write(result, beside / name)
            _move(change, record_path, beside)
    except OSError as error:
        if is_remote(folder) or not _is_of_output(error, record_path, staging):
            raise
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OSError:
    """Error for a folder that takes no files, with the number that tells a full disk from others."""
    told = OSError(
        f"{folder}: cannot be written to ({error.strerror or error}); choose a folder that can, "
        f"and see that there is room on its disk"
    )
    told.errno = error.errno
    return told


@contextmanager
def _staging(record_path: Path, given: Path | None) -> Iterator[Path]:
    """Empty folder for files being written, removed in the end; for a remote result, a temporary folder here."""
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
        _remove_abandoned(staging, _prefix(record_path))
    else:
        staging = given
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move(change: _Change, record_path: Path, staging: Path) -> None:
    """Move everything into place; at every moment the record says which files are certain and which are not."""
    folder = record_path.parent
    for name, record in (("before", change.before), ("after", change.after)):
        (staging / name).write_bytes(record)
    replace(staging / "before", record_path)
    for name in change.removed:
        set_aside(folder / name, staging)
    for name in change.written:
        replace(staging / name, folder / name)
    replace(staging / "after", record_path)


def _is_of_output(error: OSError, record_path: Path, staging: Path | None) -> bool:
    """Whether an error is of the files that are written, not of one that the result is read from."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return not isinstance(error, FileNotFoundError)  # what is written is never looked for
    path, folder = Path(error.filename), record_path.parent
    places = paths_of(folder, record_path.name.removesuffix(SUFFIX), tuple(WRITERS)).values()
    if folder.is_relative_to(path) or any(path.is_relative_to(place) for place in (record_path, *places)):
        return True
    if staging is None:
        return any(place.name.startswith(_prefix(record_path)) for place in (path, *path.parents))
    return path.is_relative_to(staging) or staging.is_relative_to(path)


def _remove_abandoned(staging: Path, prefix: str) -> None:
    """Remove the staging folders of killed runs; those of runs beside this one are younger."""
    now = staging.stat().st_mtime  # by the clock of the disk
    with os.scandir(staging.parent) as entries:
        others = [Path(entry.path) for entry in entries if entry.name.startswith(prefix)]
    for other in others:
        with suppress(OSError):  # gone meanwhile
            if now - other.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(other, ignore_errors=True)


def _prefix(record_path: Path) -> str:
    return f".{record_path.name}-"
