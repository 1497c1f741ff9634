"""`cytoseed convert` and `cytoseed formats`: stored results in other formats."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_entry, print_line, run_each
from cytoseed.cli.flags import FormatsOption
from cytoseed.paths import as_path, is_url, require_writable, same_file

if TYPE_CHECKING:
    from cytoseed.results import Result


def convert(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULT", help="Stored results (files that end in .objects.zip), or folders of them."),
    ],
    formats: FormatsOption = "",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write to; by default the folder of each result.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="New location of the image, if it has moved; needed for an overlay.")
    ] = None,
    into: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="OME-Zarr image to which the labels are added.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Write results of `cytoseed segment` in other formats, without segmenting again.

    The files are those that `segment` would have written. Existing files are kept.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.cli.inputs import find_results
        from cytoseed.results import open_result
        from cytoseed.results.into import write_into
        from cytoseed.results.writers import check_formats

        if not formats and into is None:
            raise ValueError("nothing to write: give --format, such as --format geojson,table (see `cytoseed formats`)")
        names = check_formats([name.strip() for name in formats.split(",")]) if formats else ()
        paths = find_results(results)
        _check_image("--image", image, len(paths))
        _check_image("--into", into, len(paths))
        folder = None if output is None else as_path(output)
        if folder is not None:
            require_writable(folder)

    def work(path: Path) -> bool:
        with open_result(path, image) as result:
            if names:
                written = _save(result, path, folder or path.parent, names, overwrite)
                print_line(f"{path.name}: {'-> ' + ', '.join(written) if written else 'already there'}")
            if into is not None:
                places = write_into(result, into, overwrite)
                print_line(f"{path.name}: -> {', '.join(map(str, places))}")
        return True

    with exit_on_mistake(FAILED):
        run_each(paths, lambda path: path.name, work)


def _check_image(flag: str, place: str | Path | None, results: int) -> None:
    if place is not None and results > 1:
        raise ValueError(f"{flag} is the image of one result, but there are {results}; convert them one by one")
    if place is not None and not is_url(place) and not Path(place).exists():
        raise FileNotFoundError(f"{flag} is {str(place)!r}; there is no such file or folder")


def _save(result: Result, path: Path, folder: Path, names: tuple[str, ...], overwrite: bool) -> list[str]:
    """Write the formats that are missing in a folder; returns the paths of the new files, without the result itself."""
    from cytoseed.results import compare

    missing = names
    if not overwrite:
        missing = compare(folder, result.stem, result.record, names, result.failed).missing
    files = result.save(folder, names, overwrite)
    of_formats = zip(names, files, strict=False)  # the last file is the record
    return [str(file) for name, file in of_formats if name in missing and not same_file(file, path)]


def formats() -> None:
    """List the formats in which results can be written."""
    with exit_on_mistake(FAILED):
        from cytoseed.results.writers import WRITERS

        for _, writer in sorted(WRITERS.items()):
            is_missing = writer.needs and find_spec(writer.needs) is None
            remedy = f" (not installed: pip install 'cytoseed[{writer.extra}]')" if is_missing else ""
            print_entry(f"{writer.name}: STEM{writer.suffix}", f"{writer.about}{remedy}")
