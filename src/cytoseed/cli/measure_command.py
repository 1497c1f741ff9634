"""`cytoseed measure`: the tables of objects that another program outlined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_line
from cytoseed.cli.flags import FormatsOption
from cytoseed.paths import as_path, display, require_writable


def measure(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Image in which objects are measured; may be a URL.")],
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS|GEOJSON", help="Label image, or outlines in pixels of the image.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results; may be a URL.")],
    *,
    cells: Annotated[
        Path | None, typer.Option(metavar="LABELS", help="Label image of the cells, where the first one shows nuclei.")
    ] = None,
    formats: FormatsOption = "table",
    pixel_size_um: Annotated[
        float | None,
        typer.Option("--pixel-size", metavar="µm", help="Pixel size of the image; by default the one in its file."),
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="N|NAME", help="Image of a file that holds several: see `cytoseed info`.")
    ] = None,
    full_canvas: Annotated[
        bool, typer.Option("--full-canvas", help="Do not crop a slide to the bounds of its scans, as QuPath does.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing results.")] = False,
) -> None:
    """Measure objects that any program outlined, and write what `segment` writes of its own.

    Outlines are a label image (PNG, TIFF, ...) or GeoJSON, as QuPath exports it; cells with nuclei give both.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.results.outlined import measure as measure_outlines
        from cytoseed.results.view import SINGULAR
        from cytoseed.results.writers import check_formats

        names = check_formats([name.strip() for name in formats.split(",")])
        folder = as_path(output)
        require_writable(folder)
    with exit_on_mistake(FAILED):
        result = measure_outlines(
            image, labels, cells, pixel_size_um=pixel_size_um, series=series, full_canvas=full_canvas
        )
        files = result.save(folder, names, overwrite)
        target, count = result.targets[-1], result.count
        written = ", ".join(file.name for file in files[:-1])
        print_line(f"{count} {SINGULAR[target] if count == 1 else target} -> {display(folder)}: {written}")
