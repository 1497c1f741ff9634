"""`cytoseed segment` and `cytoseed demo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake
from cytoseed.cli.flags import FormatsOption, ModelOption, settings_flags
from cytoseed.settings import SegmentOptions

if TYPE_CHECKING:
    from cytoseed.run.resume import Existing

_FORMATS = "labels,geojson,table,overlay,objects"
PANELS = {
    "Input and scale": ("pixel_size_um", "diameter_px", "channels", "stain", "region", "mask"),
    "Model": (*("model", "seed_threshold", "mask_threshold", "min_size_px", "peak_radius_px", "agreement_iou", "tta"),),
    "Output": ("output", "formats", "overwrite"),
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
    model: ModelOption = "nuclei",
    formats: FormatsOption = _FORMATS,
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
        str, typer.Option(metavar="I/N", help="Do part I of N, for job arrays; `cytoseed merge` joins the parts.")
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
        from cytoseed.cli.segment_images import prepare_requests, segment_images

        if overwrite and resume:
            raise ValueError("--overwrite starts anew and --resume continues a run: give one of them")
        paths = find_images(inputs)
        if shard and (workers is not None or scheduler):
            raise ValueError("--shard is for independent runs: leave out --workers and --scheduler")
        existing: Existing = "overwrite" if overwrite else "resume" if resume else "refuse"
        options = SegmentOptions(**given)
        requests = prepare_requests(model, options, output, formats.split(","), existing, shard)
    with exit_on_mistake(FAILED):
        if workers is None and not scheduler:
            segment_images(requests, paths)
        else:
            from cytoseed.run.cluster import Cluster

            with Cluster(workers, scheduler or None, patience) as cluster:
                segment_images(requests, paths, cluster)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("demo"),
    model: ModelOption = "nuclei",
) -> None:
    """Segment an example image of scikit-image: a section stained with hematoxylin and, in brown, DAB."""
    with exit_on_mistake(MISUSED):
        from cytoseed.cli.segment_images import prepare_requests, segment_images, write_example

        options = SegmentOptions(stain="haematoxylin")
        requests = prepare_requests(model, options, output, _FORMATS.split(","), "overwrite")
    with exit_on_mistake(FAILED):
        segment_images(requests, [write_example(output)])
