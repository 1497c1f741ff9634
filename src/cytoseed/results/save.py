"""Writing a result into a folder: all of it or nothing, and never over what was made otherwise."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.results.record import SUFFIX, Record, compare, record_of, stem_of
from cytoseed.results.writers import WRITERS, paths_of

if TYPE_CHECKING:
    from cytoseed.results.segmentation import Segmentation


def save(result: Segmentation, folder: Path, formats: Sequence[str], overwrite: bool) -> tuple[Path, ...]:
    """Do what `Segmentation.save` says."""
    stem = stem_of(result.source)
    record = record_of(result.image, result.source, result.settings)
    paths = paths_of(folder, stem, formats)
    found = compare(folder, stem, record, formats)
    if found.state == "different" and not overwrite:
        raise FileExistsError(
            f"{folder}: holds a result for {stem!r} that was made otherwise ({'; '.join(found.differences)}); "
            f"choose another folder, or overwrite it (--overwrite, overwrite=True)"
        )
    record_path = folder / f"{stem}{SUFFIX}"
    to_write = found.missing if found.state == "same" and not overwrite else tuple(paths)
    if to_write:
        try:
            _write(result, record, {name: paths[name] for name in to_write}, record_path, found.state == "same")
        except OSError as error:
            raise OSError(
                f"{folder}: cannot be written to ({error.strerror or error}); choose a folder that can, "
                f"and see that there is room on its disk"
            ) from error
    return (*paths.values(), record_path)


def _write(result: Segmentation, record: Record, paths: dict[str, Path], record_path: Path, adds: bool) -> None:
    """Write all files beside their places, then move them there, the record last.

    A kill while they are written leaves the folder as it was, but for a hidden folder; and a record is only
    ever there together with the files that it names.
    """
    folder = record_path.parent
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _files_of(record_path)
    kept = [name for name in earlier if adds and (folder / name).exists()]
    staging = Path(tempfile.mkdtemp(prefix=f".{record_path.name}-", dir=folder))
    try:
        for name, path in paths.items():
            WRITERS[name].write(result, staging / path.name)
        files = sorted({*kept, *(path.name for path in paths.values())})
        text = record.to_json(files).encode("utf-8", "backslashreplace")  # JSON's escape, for names that are no UTF-8
        (staging / record_path.name).write_bytes(text)
        if not adds:
            record_path.unlink(missing_ok=True)
            for name in set(earlier) - set(files):  # of the result that is replaced: nobody could tell them apart
                (folder / name).unlink(missing_ok=True)
        for name in files:
            if (staging / name).exists():
                os.replace(staging / name, folder / name)
        os.replace(staging / record_path.name, record_path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _files_of(record_path: Path) -> list[str]:
    """Name the files that a record lists, as far as they are such as cytoseed writes beside it."""
    stem = record_path.name.removesuffix(SUFFIX)
    possible = {f"{stem}{writer.suffix}" for writer in WRITERS.values()}
    try:
        listed = set(json.loads(record_path.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return sorted(possible & listed)
