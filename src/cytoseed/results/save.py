"""Writing a result into a folder: all of it or nothing, and never over files that were made differently."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cytoseed.paths import is_remote, lock, replace, require_writable, same_file, set_aside
from cytoseed.results.record import SUFFIX, OldRecord, Record, compare, read_record
from cytoseed.results.store import SUFFIX as STORE_SUFFIX
from cytoseed.results.view import ResultView, stem_of
from cytoseed.results.writers import WRITERS, check_formats, paths_of, refusals

_ABANDONED_S = 3600  # a staging folder unchanged for so long belongs to a run that was killed


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

    `staging` is a folder on the same disk in which the files are first written, emptied before and removed after; by
    default a hidden one in `folder`. `record` is what made the result, by default this version, its input and settings.
    `keep` names files in `folder` that are neither written nor removed, as the result is read from them.
    """
    formats = check_formats(formats)
    stem = stem_of(result.source)
    record = record or Record.of(result.input, result.settings)
    paths, record_path = paths_of(folder, stem, formats), folder / f"{stem}{SUFFIX}"
    files = (*paths.values(), record_path)
    asked = tuple(name for name in formats if paths[name].name not in keep)
    if staging is not None and folder.resolve().is_relative_to(staging.resolve()):
        raise ValueError(f"staging is {staging}, which would be deleted with the results in {folder}; give another")
    for path in paths.values():
        if str(path) == result.source if is_remote(path) else same_file(path, Path(result.source)):
            raise ValueError(f"{path}: is the image itself, and a result has this name; choose another output folder")
    require_writable(folder)
    if not asked or not _to_write(result, folder, record, asked, overwrite)[0]:
        return files
    with _output_errors(record_path, staging), lock(folder / f"{stem}{STORE_SUFFIX}"):
        to_write, adds = _to_write(result, folder, record, asked, overwrite)  # another run may have ended meanwhile
        refused = refusals(to_write, result.shape, result.count)
        names = {name: paths[name].name for name in to_write if name not in refused}
        if names:
            with _staging(record_path, staging) as beside:
                for format_name, name in names.items():
                    WRITERS[format_name].write(result, beside / name)
                _move(result, record, set(names.values()), record_path, adds, keep, beside)
    if refused:
        others = f" ({', '.join(names)}: written)" if names else ""
        raise ValueError(f"{stem}: {'; '.join(refused.values())}{others}")
    return files


def _to_write(
    result: ResultView, folder: Path, record: Record, asked: tuple[str, ...], overwrite: bool
) -> tuple[tuple[str, ...], bool]:
    """Formats to write, and whether they add to the same result; a different one is refused."""
    stem = stem_of(result.source)
    found = compare(folder, stem, record, asked, result.failed)
    if found.state == "different" and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a result for {stem!r} that was made otherwise ({'; '.join(found.differences)}); "
            f"choose another folder, or overwrite it (--overwrite, overwrite=True)"
        )
    return asked if overwrite or found.state != "same" else found.missing, found.state == "same"


def _move(
    result: ResultView,
    record: Record,
    written: set[str],
    record_path: Path,
    adds: bool,
    keep: Sequence[str],
    staging: Path,
) -> None:
    """Move new files into place, and remove those of the result that is replaced, if nothing is added to it.

    At every moment the record says which files are certain and which are not, so that the next run after a kill knows.
    """
    folder = record_path.parent
    old = read_record(record_path) or OldRecord()
    sure = old.files if adds and old.failed == tuple(result.failed) else frozenset[str]()
    kept = {name for name in (*sure, *keep) if name not in written and (folder / name).exists()}
    removed = (old.files | old.pending) - written - kept
    before = record.to_json(sorted(kept), sorted(written | removed), result.failed)
    after = record.to_json(sorted(kept | written), (), result.failed)
    for name, text in (("before", before), ("after", after)):
        (staging / name).write_bytes(text.encode("utf-8", "backslashreplace"))  # JSON's escape for other names
    replace(staging / "before", record_path)
    for name in sorted(removed):
        set_aside(folder / name, staging)
    for name in sorted(written):
        replace(staging / name, folder / name)
    replace(staging / "after", record_path)


@contextmanager
def _staging(record_path: Path, given: Path | None) -> Iterator[Path]:
    """Empty folder for files being written, removed at the end; for a remote result, a temporary folder here."""
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


def _remove_abandoned(staging: Path, prefix: str) -> None:
    """Remove the staging folders of killed runs; those of runs beside this one are younger."""
    now = staging.stat().st_mtime  # by the clock of the disk
    for other in staging.parent.iterdir():
        with suppress(OSError):  # gone meanwhile
            if other.name.startswith(prefix) and now - other.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(other, ignore_errors=True)


def _prefix(record_path: Path) -> str:
    return f".{record_path.name}-"


@contextmanager
def _output_errors(record_path: Path, staging: Path | None) -> Iterator[None]:
    """Name the folder, and the remedy, in errors of writing to a local one."""
    folder = record_path.parent
    try:
        yield
    except OSError as error:
        if is_remote(folder) or isinstance(error, (BlockingIOError, FileExistsError)):
            raise
        if not _is_of_output(error, record_path, staging):
            raise
        named = OSError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose a folder that can, "
            f"and see that there is room on its disk"
        )
        named.errno = error.errno  # which distinguishes a full disk from other errors
        raise named from error


def _is_of_output(error: OSError, record_path: Path, staging: Path | None) -> bool:
    """Whether an error concerns the files being written, not one that the result is read from."""
    if not isinstance(error.filename, (str, os.PathLike)):
        return not isinstance(error, FileNotFoundError)  # files being written are never searched for
    path, folder = Path(error.filename), record_path.parent
    stem = record_path.name.removesuffix(SUFFIX)
    places = (record_path, folder / f"{stem}{STORE_SUFFIX}", *paths_of(folder, stem, tuple(WRITERS)).values())
    if folder.is_relative_to(path) or any(path.is_relative_to(place) for place in places):
        return True
    if staging is None:
        return any(place.name.startswith(_prefix(record_path)) for place in (path, *path.parents))
    return path.is_relative_to(staging) or staging.is_relative_to(path)
