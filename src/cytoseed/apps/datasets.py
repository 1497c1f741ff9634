"""`cytoseed datasets`: what public data sets there are, and their downloads turned into samples to train on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.apps.console import FAILED, MISUSED, exit_on_mistake, remark
from cytoseed.settings import is_non_commercial

if TYPE_CHECKING:
    from cytoseed.learn.datasets import PreparedDataset

datasets_app = typer.Typer(
    name="datasets",
    help="List public data sets, and turn their downloads into samples to train on.",
    no_args_is_help=True,
)


@datasets_app.command("list")
def list_sources() -> None:
    """List the data sets: what they show, their size and licence, where and what to download."""
    with exit_on_mistake(FAILED):
        from rich.console import Console
        from rich.padding import Padding

        from cytoseed.learn.datasets import SOURCES

        console = Console(highlight=False, markup=False)
        for source in SOURCES.values():
            objects = "" if source.objects is None else f", {source.objects:,} objects"
            size = "pixel size unknown" if source.pixel_size_um is None else f"{source.pixel_size_um:g} µm a pixel"
            console.print(f"{source.name}: {source.title}")
            facts = f"{source.images} images{objects}, {size}, {source.licence}"
            for line in (facts, f"download {source.download}", f"from {source.url}"):
                console.print(Padding(line, (0, 0, 0, 4)))


@datasets_app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the data set: see `cytoseed datasets list`.")],
    downloaded: Annotated[
        Path, typer.Argument(metavar="DOWNLOADED_FOLDER", help="Folder that the official download was unpacked to.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; several data sets can share it.")],
) -> None:
    """Turn the unpacked download of a public data set into samples, for `cytoseed train --data OUT`.

    What is there already and the same is kept: after an interruption, give the same command again.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.learn.datasets import find_source, prepare_source

        source = find_source(name)
        source.find_images(downloaded)
    with exit_on_mistake(FAILED):
        from rich.console import Console
        from rich.progress import Progress

        console = Console(soft_wrap=True, highlight=False, markup=False)
        with Progress(console=console, disable=not console.is_terminal) as bars:
            bar = bars.add_task(f"preparing {name}")
            prepared = prepare_source(
                source, downloaded, out, lambda done, total: bars.update(bar, completed=done, total=total)
            )
        _show(prepared)


def _show(prepared: PreparedDataset) -> None:
    source = prepared.source
    for split, images in prepared.images.items():
        typer.echo(f"{split:<5} {images:>5,} images {prepared.objects[split]:>8,} objects")
    kept = sum(prepared.images.values()) - prepared.written
    typer.echo(f"{prepared.written} images written, {kept} there already -> {prepared.folder}")
    typer.echo(f"licence {source.licence}, from {source.url}")
    for text in prepared.remarks:
        remark(text)
    if is_non_commercial(source.licence):
        remark(f"{source.name} is for non-commercial use, and so are weights that are trained on it")
