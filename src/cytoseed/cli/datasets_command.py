"""`cytoseed datasets`: public data sets, and samples to train on made from their downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoseed.cli.console import (
    FAILED,
    MISUSED,
    Pace,
    exit_on_mistake,
    print_entry,
    print_line,
    print_note,
    progress_bar,
)
from cytoseed.cli.flags import output_flags
from cytoseed.settings import is_non_commercial

datasets_app = typer.Typer(
    name="datasets", help="List public data sets, and prepare their downloads for training.", no_args_is_help=True
)


@datasets_app.command("list")
def list_sources() -> None:
    """List public data sets: contents, size, licence, and what to download."""
    with exit_on_mistake(FAILED):
        from cytoseed.learn.datasets import SOURCES

        for source in SOURCES.values():
            objects = "" if source.objects is None else f", {source.objects:,} objects"
            size = "pixel size unknown" if source.pixel_size_um is None else f"{source.pixel_size_um:g} µm per pixel"
            facts = f"{source.images} images{objects}, {size}, {source.licence}"
            print_entry(f"{source.name}: {source.title}", facts, f"download {source.download}", f"from {source.url}")


def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the data set: see `cytoseed datasets list`.")],
    downloaded: Annotated[
        Path, typer.Argument(metavar="DOWNLOADED_FOLDER", help="Folder with the unpacked official download.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; data sets can share it.")],
) -> None:
    """Convert the unpacked download of a public data set to samples for `cytoseed train --data OUT`.

    Existing identical files are kept: after an interruption, run the same command again.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.learn import datasets

        source = datasets.find_source(name)
        source.find_images(downloaded)
    with exit_on_mistake(FAILED, "images are kept; the same command continues"):
        pace = Pace()
        with progress_bar(f"preparing {name}") as (update, _):

            def report(done: int, total: int) -> None:
                update(completed=done, total=total)
                pace.print("image", done, total)

            prepared = datasets.prepare(source, downloaded, out, report)
        for split, images in prepared.images.items():
            print_line(f"{split:<5} {images:>5,} images {prepared.objects[split]:>8,} objects")
        kept = sum(prepared.images.values()) - prepared.written
        print_line(f"{prepared.written} images written, {kept} there already -> {prepared.folder}")
        print_line(f"licence {source.licence}, from {source.url}")
        for text in prepared.remarks:
            print_note(text)
        if is_non_commercial(source.licence):
            print_note(f"{source.name} is for non-commercial use, and so are weights that are trained on it")


datasets_app.command()(output_flags(prepare, ("quiet", "verbose", "log_file")))
