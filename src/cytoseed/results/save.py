"""Writing a result into a folder: all of it or nothing, and never over what was made otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.paths import is_remote, lock, require_writable, same_file
from cytoseed.results.facts import stem_of
from cytoseed.results.folder import Change, is_from_writing, move, staging_for, unwritable
from cytoseed.results.record import SUFFIX, OldRecord, Record, compare, read_record
from cytoseed.results.store import SUFFIX as STORE_SUFFIX
from cytoseed.results.writers import WRITERS, check_formats, paths_of, refusals

if TYPE_CHECKING:
    from cytoseed.results.view import ResultView


def save(
    result: ResultView,
    folder: Path,
    formats: Sequence[str],
    overwrite: bool,
    staging: Path | None = None,
    record: Record | None = None,
    keep: Sequence[str] = (),
) -> tuple[Path, ...]:
    """Write a result into a folder as `Result.save` does, holding only parts of it at a time.

    Parameters
    ----------
    result : ResultView
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
    record : Record, optional
        What made the result; without it, this version of cytoseed, its input and settings.
    keep : sequence of str
        Names of the result's files in `folder` that are neither written nor removed in any case: it is read from them.

    Returns
    -------
    tuple of path
        The files, or folders, of the formats asked for, and the record, last.

    Raises
    ------
    ValueError
        If a format is not known, `folder` lies in `staging`, or a file would replace the image itself. If a format
        cannot hold the result: then all others were written, and the message says which can.
    ModuleNotFoundError
        If a format needs a package that is not installed.
    FileExistsError
        If files of this name were made otherwise and `overwrite` is false; the message shows how.
    BlockingIOError
        If another run is writing results of this image into the folder.
    OSError
        If the folder cannot be written to, or its disk is full: with the same `errno`. Results that were there are
        left as they were.
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
            change = _planned(result, record, names.values(), record_path, adds, keep)
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
            raise unwritable(folder, error) from error
        yield


def _refuse_image(path: Path, source: str) -> None:
    """See that no result is written over the image it comes from."""
    is_it = str(path) == source if is_remote(path) else same_file(path, Path(source))
    if is_it:
        raise ValueError(
            f"{path}: is the image itself, and a result would be called the same; choose another folder for the results"
        )


def _planned(
    result: ResultView, record: Record, names: Iterable[str], record_path: Path, adds: bool, keep: Sequence[str]
) -> Change:
    """Decide what becomes of files that are there; where the result `adds` to one, what that has for sure is kept."""
    old = read_record(record_path) or OldRecord({}, frozenset(), frozenset(), failed=())
    written = set(names)
    sure = old.files if adds and old.failed == tuple(result.failed) else frozenset[str]()
    kept = {name for name in (*sure, *keep) if name not in written and (record_path.parent / name).exists()}
    removed = (old.files | old.pending) - written - kept
    before = record.to_json(sorted(kept), sorted(written | removed), result.failed)
    after = record.to_json(sorted(kept | written), (), result.failed)
    # backslashreplace is JSON's own escape, for names that are no UTF-8
    texts = (text.encode("utf-8", "backslashreplace") for text in (before, after))
    return Change(tuple(sorted(written)), tuple(sorted(removed)), *texts)


def _write(
    result: ResultView, change: Change, names: Mapping[str, str], record_path: Path, staging: Path | None
) -> None:
    """Write everything beside its place, then move it there: a kill meanwhile leaves the old files or the new ones."""
    try:
        with staging_for(record_path, staging) as beside:
            for format_name, name in names.items():
                WRITERS[format_name].write(result, beside / name)
            move(change, record_path, beside)
    except OSError as error:
        folder, stem = record_path.parent, record_path.name.removesuffix(SUFFIX)
        places = tuple(paths_of(folder, stem, tuple(WRITERS)).values())
        if is_remote(folder) or not is_from_writing(error, places, record_path, staging):
            raise
        raise unwritable(folder, error) from error
