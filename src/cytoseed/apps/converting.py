"""Stored results in other formats: what `cytoseed convert` and `cytoseed formats` do."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cytoseed.apps.console import MISTAKES, complain, remark

if TYPE_CHECKING:
    from cytoseed.results import Result


def find_results(inputs: Sequence[str]) -> tuple[Path, ...]:
    """Find the stored results that a command line names.

    Parameters
    ----------
    inputs
        Each a file, a folder (the stored results directly in it, by name) or a pattern such as `a/*.objects.zip`.

    Returns
    -------
    tuple of Path
        Each file once, in the order named.

    Raises
    ------
    FileNotFoundError
        An input at which there is no stored result.
    """
    found: dict[Path, Path] = {}
    for name in inputs:
        for path in _results_at(name):
            found.setdefault(path.resolve(), path)
    return tuple(found.values())


def prepare_conversion(
    inputs: Sequence[str], formats: str, output: str | None, image: str | None, into: Path | None, overwrite: bool
) -> ConvertJob:
    """Check what can be checked before a result is opened.

    Raises
    ------
    FileNotFoundError
        No stored result, or no such image.
    ModuleNotFoundError
        A format whose package is not installed.
    ValueError
        An unknown format or none; one image for several results.
    """
    from cytoseed.images import is_url
    from cytoseed.paths import as_path, require_writable
    from cytoseed.results.writers import check_formats

    if not formats and into is None:
        raise ValueError("nothing to make: give --format, such as --format geojson,table (see `cytoseed formats`)")
    names = check_formats([name.strip() for name in formats.split(",")]) if formats else ()
    paths = find_results(inputs)
    for flag, place in (("--image", image), ("--into", into)):
        if place is not None and len(paths) > 1:
            raise ValueError(f"{flag} is the image of one result, and {len(paths)} are given; convert them one by one")
        if place is not None and not is_url(place) and not Path(place).exists():
            raise FileNotFoundError(f"{flag} is {str(place)!r}; there is no such file or folder")
    folder = None if output is None else as_path(output)
    if folder is not None:
        require_writable(folder)
    return ConvertJob(paths, names, folder, image, into, overwrite)


class ConvertJob(NamedTuple):
    """Which results are converted, and how."""

    paths: tuple[Path, ...]
    """The stored results."""
    formats: tuple[str, ...]
    output: Path | None
    """Folder that the files go to; None: that in which each result lies."""
    image: str | None
    """The image of the only result; None: it is looked for."""
    into: Path | None
    """OME-Zarr of the image, into which the labels are put as well."""
    overwrite: bool

    def run(self) -> int:
        """Convert all results; one that fails is reported, and the others go on.

        Returns
        -------
        int
            How many failed.
        """
        from rich.console import Console

        console = Console(soft_wrap=True, highlight=False, markup=False)
        failed = 0
        for path in self.paths:
            try:
                for line in self._converted(path):
                    console.print(line)
            except (*MISTAKES, MemoryError) as error:
                text = " ".join(str(error).split()) or "not enough memory"
                complain(text if path.name in text else f"{path.name}: {text}")
                failed += 1
        if failed and len(self.paths) > 1:
            remark(f"{failed} of {len(self.paths)} results failed, as told above")
        return failed

    def _converted(self, path: Path) -> Iterator[str]:
        """Convert one result; tell of each thing that is made in a line."""
        from cytoseed.paths import same_file
        from cytoseed.results import open_result

        with open_result(path, self.image) as result:
            if self.formats:
                folder = path.parent if self.output is None else self.output
                missing = self._missing(result, folder)
                files = result.save(folder, self.formats, self.overwrite)
                of_formats = zip(self.formats, files, strict=False)  # the record comes last
                made = [str(file) for name, file in of_formats if name in missing and not same_file(file, path)]
                yield f"{path.name}: {'-> ' + ', '.join(made) if made else 'already there'}"
            if self.into is not None:
                from cytoseed.results.into import write_into

                places = write_into(result, self.into, self.overwrite)
                yield f"{path.name}: -> {', '.join(map(str, places))}"

    def _missing(self, result: Result, folder: Path) -> tuple[str, ...]:
        """Tell which formats will be written."""
        from cytoseed.results import compare, stem_of

        if self.overwrite:
            return self.formats
        return compare(folder, stem_of(result.source), result.record, self.formats, result.failed).missing


class FormatLine(NamedTuple):
    """A format, as it is listed."""

    name: str
    suffix: str
    about: str
    lacks: str
    """What is to be installed for it, as a command; empty where it can be written."""


def list_formats() -> tuple[FormatLine, ...]:
    """List the formats that results are written in, by name."""
    from cytoseed.results.writers import WRITERS

    return tuple(
        FormatLine(
            writer.name,
            writer.suffix,
            writer.about,
            f"pip install 'cytoseed[{writer.extra}]'" if writer.needs and find_spec(writer.needs) is None else "",
        )
        for _, writer in sorted(WRITERS.items())
    )


def _results_at(name: str) -> list[Path]:
    """Find the stored results that one input names, sorted; at least one."""
    from cytoseed.images import is_url
    from cytoseed.results.formats.objects import SUFFIX

    if is_url(name):
        raise ValueError(f"{name}: stored results are read from this machine only; copy it, then convert the copy")
    path = Path(name)
    if path.is_dir():
        found = sorted(entry for entry in path.iterdir() if _is_result(entry, SUFFIX))
    elif path.exists():
        return [path]
    elif glob.has_magic(name):
        found = [entry for entry in map(Path, sorted(glob.glob(name, recursive=True))) if _is_result(entry, SUFFIX)]
    else:
        raise FileNotFoundError(f"there is no file or folder {name!r}; check the name")
    if not found:
        raise FileNotFoundError(
            f"no stored result found in {name!r}: those are files that end in {SUFFIX}, which `cytoseed segment` "
            f"writes; of a run whose folder STEM.cytoseed is still there, with --resume --format objects at once"
        )
    return found


def _is_result(path: Path, suffix: str) -> bool:
    return path.name.endswith(suffix) and not path.name.startswith(".") and path.is_file()
