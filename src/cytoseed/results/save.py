"""Writing a result into a folder: all of it or nothing, and never over files that were made differently."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cytoseed.paths import is_remote, lock, replace, require_writable, same_file, set_aside
from cytoseed.results.record import SUFFIX, OldRecord, compare, read_record
from cytoseed.results.store import SUFFIX as STORE_SUFFIX
from cytoseed.results.store import TILES
from cytoseed.results.view import ResultView
from cytoseed.results.writers import WRITERS, check_formats, paths_of, refusals


def save(result: ResultView, folder: Path, formats: Sequence[str], overwrite: bool) -> tuple[Path, ...]:
    """Write a result into a folder as `Result.save` does."""
    formats = check_formats(formats)
    stem = result.stem
    paths, record_path = paths_of(folder, stem, formats), folder / f"{stem}{SUFFIX}"
    for path in paths.values():
        if str(path) == result.source if is_remote(path) else same_file(path, Path(result.source)):
            raise ValueError(f"{path}: is the image itself, and a result has this name; choose another output folder")
    own = folder / f"{stem}{WRITERS['objects'].suffix}"  # neither written nor removed where the result is read from it
    keep = {own.name} if result.path is not None and same_file(own, result.path) else set[str]()
    asked = tuple(name for name in formats if paths[name].name not in keep)
    require_writable(folder)
    files = (*paths.values(), record_path)
    if not asked or not _to_write(result, folder, asked, overwrite)[0]:
        return files
    store = folder / f"{stem}{STORE_SUFFIX}"
    with _output_errors(store), lock(store):
        to_write, adds = _to_write(result, folder, asked, overwrite)  # another run may have ended meanwhile
        refused = refusals(to_write, result.shape, result.count)
        names = {name: paths[name].name for name in to_write if name not in refused}
        if names:
            with _staging(store) as staging:
                for format_name, name in names.items():
                    WRITERS[format_name].write(result, staging / name)
                _move(result, set(names.values()), record_path, adds, keep, staging)
    if refused:
        others = f" ({', '.join(names)}: written)" if names else ""
        raise ValueError(f"{stem}: {'; '.join(refused.values())}{others}")
    return files


def _to_write(
    result: ResultView, folder: Path, asked: tuple[str, ...], overwrite: bool
) -> tuple[tuple[str, ...], bool]:
    """Formats to write, and whether they add to the same result; a different one is refused."""
    stem = result.stem
    found = compare(folder, stem, result.record, asked, result.failed)
    if found.state == "different" and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a result for {stem!r} that was made differently ({'; '.join(found.differences)}); "
            f"choose another folder, or overwrite it (--overwrite, overwrite=True)"
        )
    return asked if overwrite or found.state != "same" else found.missing, found.state == "same"


def _move(result: ResultView, written: set[str], record_path: Path, adds: bool, keep: set[str], staging: Path) -> None:
    """Move new files into place, and remove those of the result that is replaced, if nothing is added to it.

    At every moment the record says which files are certain and which are not, so that the next run after a kill knows.
    """
    folder = record_path.parent
    old = read_record(record_path) or OldRecord()
    sure = old.files if adds and old.failed == tuple(result.failed) else frozenset[str]()
    kept = {name for name in (sure | keep) - written if (folder / name).exists()}
    removed = (old.files | old.pending) - written - kept
    before = result.record.to_json(sorted(kept), sorted(written | removed), result.failed)
    after = result.record.to_json(sorted(kept | written), (), result.failed)
    for name, text in (("before", before), ("after", after)):
        (staging / name).write_bytes(text.encode("utf-8", "backslashreplace"))  # JSON's escape for other names
    replace(staging / "before", record_path)
    for name in sorted(removed):
        set_aside(folder / name, staging)
    for name in sorted(written):
        replace(staging / name, folder / name)
    replace(staging / "after", record_path)


@contextmanager
def _staging(store: Path) -> Iterator[Path]:
    """Empty folder for files being written, removed at the end; in the locked one, or for a remote result here."""
    if is_remote(store):
        with tempfile.TemporaryDirectory(prefix="cytoseed-") as here:
            yield Path(here)
        return
    staging = store / "staging"
    shutil.rmtree(staging, ignore_errors=True)  # left by a killed run
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def _output_errors(store: Path) -> Iterator[None]:
    """Name the folder, and the remedy, in errors of writing to a local one; not in those of reading the result."""
    folder = store.parent
    try:
        yield
    except OSError as error:
        if is_remote(folder) or isinstance(error, (BlockingIOError, FileExistsError, FileNotFoundError)):
            raise
        path = Path(error.filename) if isinstance(error.filename, (str, os.PathLike)) else store
        is_written = path.is_relative_to(store) and not path.is_relative_to(store / TILES)
        if not is_written and not folder.is_relative_to(path):
            raise
        named = OSError(
            f"{folder}: cannot be written to ({error.strerror or error}); choose one that can, "
            f"and check that there is room on its disk"
        )
        named.errno = error.errno  # the number distinguishes a full disk from other errors
        raise named from error
