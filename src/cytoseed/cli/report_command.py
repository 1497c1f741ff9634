"""`cytoseed report`: pages about the results of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_line, print_note, run_each

if TYPE_CHECKING:
    from cytoseed.results import Result


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of results (STEM.objects.zip).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The page; by default report.html in FOLDER.")
    ] = None,
) -> None:
    """Write a page about all results of a folder, and one about each of them.

    The page is one file: for each image a picture, numbers and sizes, in a table that can be sorted, with links to
    STEM.report.html in the folder. Pages that are there already are kept. Images that are not found have no picture.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.cli.inputs import find_results
        from cytoseed.results import open_result
        from cytoseed.results.folder_report import NAME, Row, describe, write_folder_report

        if not folder.is_dir():
            raise FileNotFoundError(f"{str(folder)!r} is not a folder; give one with results of cytoseed segment")
        paths = find_results([str(folder)])
        page = output or folder / NAME
    rows: list[Row] = []

    def work(path: Path) -> bool:
        with open_result(path) as result:
            rows.append(describe(result, _own_report(result, folder), page.parent))
        return True

    with exit_on_mistake(FAILED):
        try:
            run_each(paths, lambda path: path.name, work)
        finally:
            if rows:
                write_folder_report(rows, folder.resolve().name, page)
                print_line(f"{len(rows)} images -> {page}")


def _own_report(result: Result, folder: Path) -> Path | None:
    """Report of one result, written if it is not there; None if the image is not found."""
    try:
        return result.save(folder, ["report"])[0]
    except (FileNotFoundError, ValueError) as error:
        print_note(str(error))
        return None
