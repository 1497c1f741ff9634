"""`cytoseed evaluate`: accuracy of label images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, print_json, print_line, print_note, wants_json


def evaluate(
    predicted: Annotated[
        Path, typer.Argument(metavar="PREDICTED", help="Folder of label images to score, as `segment` writes them.")
    ],
    true: Annotated[Path, typer.Argument(metavar="TRUE", help="Folder of true label images with the same names.")],
    samples: Annotated[Path | None, typer.Option(help="Table with columns stem, dataset, modality.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for the scores of each image.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Folder for box plots, F1 against IoU, and the worst images with their errors, as PNG."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images on which the worst are drawn.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Number of worst images to draw.")] = 12,
) -> None:
    """Score label images against true ones.

    --plot also draws the scores, and the worst images with found, missed, false, split and merged nuclei.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.learn.evaluate import evaluate_folders

        if plot is None and images is not None:
            raise ValueError(f"images is {str(images)!r}, which is only for the pictures of --plot; give --plot too")
        if images is not None and not images.is_dir():
            raise FileNotFoundError(f"images is {str(images)!r}, which is not a folder; give the folder of the images")
        if plot is not None:
            from cytoseed.learn.plots import write_plots
        evaluation = evaluate_folders(predicted, true, samples)
    with exit_on_mistake(FAILED):
        print_line(*evaluation.to_table().split("\n"))
        if wants_json():
            print_json(evaluation.to_json())
        if evaluation.unpaired:
            print_note(f"{evaluation.unpaired} predicted files without a true mask are left out")
        if csv is not None:
            evaluation.write_csv(csv)
        if plot is not None:
            for path in write_plots(evaluation, plot, images, worst):
                print_line(path)
