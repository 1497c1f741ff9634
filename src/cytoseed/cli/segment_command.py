"""`cytoseed segment`, `cytoseed merge` and `cytoseed demo`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed.cli.console import FAILED, MISUSED, Notes, exit_on_mistake, print_line, run_each
from cytoseed.cli.flags import AutoModelOption, FormatsOption, settings_flags
from cytoseed.paths import write_bytes
from cytoseed.settings import DEFAULT_FORMATS, SegmentOptions

if TYPE_CHECKING:
    from cytoseed.run.resume import Existing

PANELS = {
    "Input and scale": (
        *(
            "pixel_size_um",
            "diameter_px",
            "channels",
            "stain",
            "nan",
            "series",
            "z",
            "time",
            "full_canvas",
            "region",
            "mask",
        ),
    ),
    "Model": (
        *("model", "seed_threshold", "mask_threshold", "min_size_px", "peak_radius_px", "agreement_iou", "tta"),
        *("min_score", "expand_um"),
    ),
    "Output": ("output", "formats", "table", "recursive", "overwrite"),
    "Large images": (
        *("resume", "workers", "scheduler", "patience", "shard", "skip_background", "tile_size_px", "margin_px"),
    ),
    "Advanced": ("device", "precision"),
}


@settings_flags(SegmentOptions, PANELS)
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Image files, folders, quoted patterns such as 'a/*.tif', or URLs."),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results; may be a URL.")],
    *,
    model: AutoModelOption = "auto",
    formats: FormatsOption = ",".join(DEFAULT_FORMATS),
    series: Annotated[
        str | None,
        typer.Option(
            metavar="N|NAME|all",
            help="Image of a file that holds several, by name or by number from 0: see `cytoseed info`. By default all "
            "but smaller pictures (macro, label, thumbnail).",
        ),
    ] = None,
    z: Annotated[
        str | None,
        typer.Option(
            metavar="N|max|mean|all", help="Plane of a z-stack by number from 0, a projection, or all planes."
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="N|all", help="Time point of a time series by number from 0, or all.")
    ] = None,
    full_canvas: Annotated[
        bool, typer.Option("--full-canvas", help="Do not crop a slide to the bounds of its scans, as QuPath does.")
    ] = False,
    table: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="One table of all images: a .csv or .parquet, with columns image, well, ..."),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also look in subfolders of folders; results keep the subfolders.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Segment again and replace existing results.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run on a large image.")] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Share the work among N processes on this machine.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Use the workers of a Dask scheduler: its address or file.")
    ] = "",
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="Longest wait for the scheduler or for a worker.")
    ] = 60,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Process part I of N, for job arrays; `cytoseed merge` joins the parts.")
    ] = "",
    given: Mapping[str, Any],
) -> None:
    """Segment images of any size and write the results for other programs.

    Finished results from the same image and settings are kept; results from other settings are refused, unless
    --overwrite is given. Large images are segmented in tiles, which are stored in the folder STEM.cytoseed: --resume
    continues an interrupted run.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.cli.inputs import find_images

        if overwrite and resume:
            raise ValueError("--overwrite starts again and --resume continues a run: give only one of them")
        paths = find_images(inputs, recursive)
        names = _with_table(formats.split(","), table)
        if shard and (workers is not None or scheduler):
            raise ValueError("--shard is for independent runs: leave out --workers and --scheduler")
        from cytoseed.cli.segment_images import Choice, prepare_requests, segment_images

        existing: Existing = "overwrite" if overwrite else "resume" if resume else "refuse"
        options = SegmentOptions(**given)
        requests = prepare_requests(model, options, output, names, existing, shard)
    with exit_on_mistake(FAILED, "finished images and tiles are kept; the same command with --resume continues"):
        from cytoseed.run.cluster import Cluster

        runs_here = workers is None and not scheduler
        with nullcontext() if runs_here else Cluster(workers, scheduler or None, patience) as cluster:
            segment_images(requests, paths, cluster, Choice(series, full_canvas, z, time), table)


def _with_table(formats: list[str], table: Path | None) -> list[str]:
    """Formats to write, with the one that a combined table is made from."""
    if table is None:
        return formats
    from cytoseed.results.run_table import SUFFIXES

    kind = SUFFIXES.get(table.suffix.lower())
    if kind is None:
        raise ValueError(f"--table is {str(table)!r}; its name must end in {' or '.join(SUFFIXES)}")
    table.parent.mkdir(parents=True, exist_ok=True)
    return [*formats, *([] if kind in formats else [kind])]


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("demo"),
    model: AutoModelOption = "auto",
) -> None:
    """Segment an example image of scikit-image: a section stained with hematoxylin (blue) and DAB (brown)."""
    with exit_on_mistake(MISUSED):
        import imagecodecs
        from skimage.data import immunohistochemistry

        from cytoseed.cli.segment_images import prepare_requests, segment_images

        requests = prepare_requests(model, SegmentOptions(), output, DEFAULT_FORMATS, "overwrite")
    with exit_on_mistake(FAILED):
        path = output / "immunohistochemistry.png"
        write_bytes(path, bytes(imagecodecs.png_encode(immunohistochemistry())))
        segment_images(requests, {path: Path()})


def merge(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Output folder of all shards.")],
    image: Annotated[
        str | None, typer.Option(help="New location of the image, if it has moved; only for shards of one image.")
    ] = None,
) -> None:
    """Join the parts made by `cytoseed segment --shard`, and write the files that one run would have written."""
    with exit_on_mistake(FAILED):
        from cytoseed.run.shards import find_shards
        from cytoseed.run.shards import merge as merge_shards
        from cytoseed.run.slide import Callbacks

        stems = sorted(find_shards(output))
        if not stems:
            raise FileNotFoundError(f"no shards in {output!r}; cytoseed segment --shard 1/8 makes one")
        if image is not None and len(stems) > 1:
            raise ValueError(f"{output} holds shards of {len(stems)} images; --image is only for shards of one image")
        notes = Notes()

        def work(stem: str) -> bool:
            run = merge_shards(output, stem, image, Callbacks(lambda text: notes.add(stem, text)))
            counted = "already there" if run.result is None else f"{run.result.count} {run.result.targets[-1]}"
            print_line(f"{stem}: {counted} -> {output}")
            return not run.failures

        run_each(stems, str, work, notes)
