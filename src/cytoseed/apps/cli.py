"""The command line: `cytoseed --help`. What is heavy is imported inside the commands, so that help comes at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed import __version__
from cytoseed.apps.console import FAILED, MISUSED, complain, exit_on_mistake
from cytoseed.apps.datasets import datasets_app
from cytoseed.apps.flags import settings_flags
from cytoseed.settings import SegmentOptions, TrainConfig

if TYPE_CHECKING:
    from cytoseed.images import Image

app = typer.Typer(
    name="cytoseed",
    help="Find every nucleus in microscopy images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.add_typer(datasets_app)


def main() -> None:
    """Run the command line."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cytoseed {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find every nucleus in microscopy images."""


Model = Annotated[str, typer.Option("--model", "-m", help="Name of a model (see `cytoseed models`) or its folder.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Segment again, and replace what is there, whatever made it.")
]


@app.command()
@settings_flags(SegmentOptions)
def segment(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT", help="Image files, folders of them, quoted patterns such as 'a/*.tif', or URLs of these."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder that the results are written to; also a URL.")],
    *,
    model: Model = "nuclei",
    formats: Annotated[
        str,
        typer.Option("--format", "-f", help="Kinds of files to write, with commas between: see `cytoseed formats`."),
    ] = "labels,geojson,table,overlay,objects",
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a large image where an earlier run stopped, however it did.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Share the work among N processes on this machine.")
    ] = None,
    scheduler: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Have the workers of a Dask scheduler do it: address or its file.")
    ] = "",
    patience: Annotated[
        float, typer.Option(metavar="SECONDS", help="How long to wait for a scheduler, or where it has no workers.")
    ] = 60,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Do the I-th of N parts, for `cytoseed merge` to join: for job arrays.")
    ] = "",
    given: Mapping[str, Any],
) -> None:
    """Segment images of any size and write the results for other programs to open.

    A result that is there already, made from the same image with the same settings, is left as it is; one that
    was made otherwise is refused. With --overwrite both are made again. Large images are done tile by tile, and
    what is done is kept in the folder STEM.cytoseed: with --resume a run that was stopped goes on.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps.inputs import find_images
        from cytoseed.apps.segmenting import prepare_job

        if overwrite and resume:
            raise ValueError("--overwrite starts anew and --resume goes on with what is there: give one of them")
        paths = find_images(inputs)
        if shard and (workers is not None or scheduler):
            raise ValueError("--shard is for runs that know nothing of each other: leave out --workers and --scheduler")
        options, kinds = SegmentOptions(**given), formats.split(",")
        job = prepare_job(
            model, options, output, kinds, "overwrite" if overwrite else "resume" if resume else "refuse", shard
        )
    with exit_on_mistake(FAILED):
        if workers is None and not scheduler:
            failed = job.run(paths)
        else:
            from cytoseed.run.cluster import Cluster

            with Cluster(workers, scheduler or None, patience) as cluster:
                failed = job.run(paths, cluster)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def merge(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder that all shards were given.")],
    image: Annotated[
        str | None, typer.Option(help="Where the image is now, if it was moved; for shards of one image.")
    ] = None,
) -> None:
    """Join what `cytoseed segment --shard` made in parts, and write the files that one run would have written."""
    with exit_on_mistake(FAILED):
        from cytoseed.apps.merging import merge_all

        failed = merge_all(output, image)
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def convert(
    results: Annotated[
        list[str],
        typer.Argument(metavar="RESULT", help="Stored results (files that end in .objects.zip), or folders of them."),
    ],
    formats: Annotated[
        str,
        typer.Option("--format", "-f", help="Kinds of files to make, with commas between: see `cytoseed formats`."),
    ] = "",
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder to write to; without it, that of each result.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Where the image is now, if it was moved; for an overlay.")] = None,
    into: Annotated[
        Path | None, typer.Option(metavar="IMAGE", help="OME-Zarr of the image, to put the labels into.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make again what is there, whatever made it.")] = False,
) -> None:
    """Make other files of results that `cytoseed segment` stored, without segmenting again.

    They are those that `segment` would have written. What is there already is left as it is.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps.converting import prepare_conversion

        job = prepare_conversion(results, formats, output, image, into, overwrite)
    with exit_on_mistake(FAILED):
        failed = job.run()
    if failed:
        raise typer.Exit(FAILED)


@app.command("formats")
def show_formats() -> None:
    """List the kinds of files that results are written in."""
    with exit_on_mistake(FAILED):
        from rich.console import Console
        from rich.padding import Padding

        from cytoseed.apps.converting import list_formats

        console = Console(highlight=False, markup=False)
        for line in list_formats():
            console.print(f"{line.name}: STEM{line.suffix}")
            lacks = f" (not installed: {line.lacks})" if line.lacks else ""
            console.print(Padding(f"{line.about}{lacks}", (0, 0, 0, 4)))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of a model (`cytoseed models`) or its folder.")],
    target: Annotated[str, typer.Option("--to", help="qupath, onnx, torchscript or bioimageio.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")] = False,
) -> None:
    """Pack a model, with all that follows the network, for programs that know nothing of cytoseed.

    qupath: a folder that QuPath's InstanSeg extension opens. onnx: from raw pixels to labels in one file, for ONNX
    Runtime, OpenVINO and browsers. torchscript: for C++. bioimageio: a bioimage.io package. What is written is
    reopened and compared with the model before it is put into place.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps.exporting import prepare_export

        job = prepare_export(model, target, output, overwrite)
    with exit_on_mistake(FAILED):
        for line in job.run():
            typer.echo(line)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("demo"),
    model: Model = "nuclei",
) -> None:
    """Segment an example that comes with scikit-image: a section stained with haematoxylin and, in brown, DAB."""
    with exit_on_mistake(MISUSED):
        from cytoseed.apps.segmenting import prepare_job, write_example

        options = SegmentOptions(stain="haematoxylin")
        job = prepare_job(model, options, output, ["labels", "geojson", "table", "overlay", "objects"], "overwrite")
    with exit_on_mistake(FAILED):
        failed = job.run([write_example(output)])
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def models() -> None:
    """List the models that are known by name."""
    with exit_on_mistake(FAILED):
        from rich.console import Console
        from rich.padding import Padding

        from cytoseed.models.weights import list_models

        console = Console(highlight=False, markup=False)
        for config in list_models():
            facts = f"network {config.network}, {config.pixel_size_um:g} µm a pixel, {config.licence}"
            console.print(f"{config.name} {config.version}: {' and '.join(config.targets)}; {facts}")
            console.print(Padding(config.description, (0, 0, 0, 4)))


@app.command()
def info(images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files, or their URLs.")]) -> None:
    """Show size, channels, type and pixel size of images."""
    failed = False
    with exit_on_mistake(FAILED):
        from cytoseed.images import open_image

        for path in images:
            try:
                image = open_image(path)
            except (ValueError, OSError, ModuleNotFoundError) as error:
                complain(str(error))
                failed = True
                continue
            channels, height, width = image.shape
            typer.echo(f"{image.path}")
            typer.echo(f"  size        {width} x {height} px (width x height)")
            names = (f"{index} ({name})" for index, name in enumerate(image.channel_names))
            typer.echo(f"  channels    {channels}: {', '.join(names)}")
            typer.echo(f"  type        {image.dtype}")
            typer.echo(f"  pixel size  {_pixel_size(image)}")
    if failed:
        raise typer.Exit(FAILED)


def _pixel_size(image: Image) -> str:
    """Show what a file says of its pixels' size, squares or not."""
    if image.pixel_size_yx_um is None:
        return image.pixel_size_source
    height, width = image.pixel_size_yx_um
    sides = f"{width:g} µm" if height == width else f"{width:g} x {height:g} µm, width x height"
    return f"{sides} ({image.pixel_size_source})"


@app.command()
def evaluate(
    predicted: Annotated[
        Path, typer.Argument(metavar="PREDICTED", help="Folder of label images to score, such as `segment` writes.")
    ],
    true: Annotated[Path, typer.Argument(metavar="TRUE", help="Folder of true label images with the same names.")],
    samples: Annotated[Path | None, typer.Option(help="Table with columns stem, dataset, modality.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for the figures of each image.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Folder for box plots, F1 against IoU, and the worst images with their errors, as PNG."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, to draw the worst on.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="How many of the worst images to draw.")] = 12,
) -> None:
    """Score label images against true ones.

    With --plot also draw the figures, and the worst images with what was found, missed, false, split and merged.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps.evaluating import check_plots
        from cytoseed.learn.evaluate import evaluate_folders

        check_plots(plot, images)
        evaluation = evaluate_folders(predicted, true, samples)
    with exit_on_mistake(FAILED):
        typer.echo(evaluation.to_table())
        if evaluation.unpaired:
            typer.echo(f"left out: {evaluation.unpaired} predicted files without a true mask", err=True)
        if csv is not None:
            evaluation.write_csv(csv)
        if plot is not None:
            from cytoseed.learn.plots import write_plots

            for path in write_plots(evaluation, plot, images, worst):
                typer.echo(path)


@app.command()
def tune(
    data: Annotated[Path, typer.Option(help="Folder of images with instance masks: see docs/training.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the copy of the model.")],
    model: Model = "nuclei",
    dataset: Annotated[list[str] | None, typer.Option(help="Use this data set only; can be repeated.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in the output folder.")] = False,
) -> None:
    """Choose a model's thresholds on validation images, and write a copy of it with them.

    Neither mean F1 nor F1@0.5 on these images gets worse; a threshold changes only where mean F1
    clearly gains.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps import tuning
        from cytoseed.models.weights import load_model
        from cytoseed.run.engine import choose_device

        loaded = load_model(model)
        choose_device(device)
        chosen = tuning.gather_validation(data, dataset or (), loaded.config)
    with exit_on_mistake(FAILED):
        from cytoseed.learn.tune import tune as search

        typer.echo(tuning.introduction(chosen))
        with tuning.tuning_display(len(chosen.samples)) as report:
            tuned = search(loaded, chosen.samples, output, device, report, overwrite=overwrite)
        typer.echo(tuning.tuning_table(loaded.config, tuned))
        typer.echo(f"model with these thresholds -> {tuned.folder}")


@app.command()
@settings_flags(TrainConfig)
def train(
    data: Annotated[Path, typer.Option(help="Folder of images with instance masks: see docs/training.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the models, the log, the checkpoint.")],
    *,
    recipe: Annotated[
        str, typer.Option(help="Settings to start from: default, paper or finetune; finetune goes with --from.")
    ] = "",
    config: Annotated[Path | None, typer.Option(help="JSON file of settings that go before the recipe's.")] = None,
    start: Annotated[
        str, typer.Option("--from", help="Model to go on from, by name or folder, not from scratch.")
    ] = "",
    network: Annotated[
        str, typer.Option(help="Backbone: lite, slim, or paper (as in its recipe). Without it, that of --from.")
    ] = "",
    teacher: Annotated[str, typer.Option(help="Model whose fields to learn from as well, by name or folder.")] = "",
    name: Annotated[str, typer.Option(help="Name of the model; without it, that of the output folder.")] = "",
    model_pixel_size: Annotated[
        float | None, typer.Option(metavar="µm", help="Pixel size that the model works at; 0.5, or the start's.")
    ] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Use this data set only; can be repeated.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in the output folder.")] = False,
    given: Mapping[str, Any],
) -> None:
    """Train a model on images with instance masks, from scratch or going on from another model.

    With --from, the model is scored on the validation images before and after, and what is kept is never worse.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.apps import learning
        from cytoseed.models.weights import load_model
        from cytoseed.run.engine import choose_device

        recipe = recipe or ("finetune" if start else "default")
        settings = learning.read_train_config(recipe, config, given)
        wanted: dict[str, Any] = {"name": name or output.resolve().name}
        if network or not start:
            wanted["network"] = network or ("paper" if recipe == "paper" else "lite")
        if model_pixel_size is not None:
            wanted["pixel_size_um"] = model_pixel_size
        model = learning.starting_model(start, wanted)
        teacher_model = load_model(teacher) if teacher else None
        choose_device(device)
        samples = learning.gather_samples(data, dataset or ())
    with exit_on_mistake(FAILED):
        from cytoseed.learn.train import train as learn

        typer.echo(f"{len(samples.train)} images to learn from, {len(samples.val)} to validate with")
        with learning.training_display(settings.steps) as report:
            trained = learn(samples, model, settings, output, device, resume, report, teacher=teacher_model)
        typer.echo(learning.compare_figures(trained))
        if trained.best_step == 0:
            typer.echo("no step was better than the model it went on from, so that is what was kept")
        typer.echo(f"best mean F1 {trained.best_f1_mean:.3f} at step {trained.best_step} -> {trained.folder}")
