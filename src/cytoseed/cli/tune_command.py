"""`cytoseed tune`: thresholds of a model, chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, plain_console
from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    from cytoseed.learn.samples import Sample
    from cytoseed.learn.tune import TuneProgress, TuneResult

_FIGURES = (("F1@0.5", "f1"), ("mean F1", "f1_mean"), ("AJI", "aji"))


def tune(
    data: Annotated[Path, typer.Option(help="Folder of images with instance masks: see docs/data.md.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the copy of the model.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="Name of a model (see `cytoseed models`) or its folder.")
    ] = "nuclei",
    dataset: Annotated[list[str] | None, typer.Option(help="Use only this data set; can be repeated.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in the output folder.")] = False,
) -> None:
    """Choose the thresholds of a model on validation images, and write a copy of the model with them.

    Neither mean F1 nor F1@0.5 on these images gets worse; a threshold changes only if mean F1 clearly improves.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.models.weights import load_model
        from cytoseed.run.engine import choose_device

        loaded = load_model(model)
        choose_device(device)
        samples, origin = _find_validation(data, dataset or (), loaded.config)
    with exit_on_mistake(FAILED):
        from cytoseed.learn.tune import tune as search

        images = "1 image" if len(samples) == 1 else f"{len(samples)} images"
        typer.echo(f"thresholds are chosen on the {images} {origin}")
        with _progress(len(samples)) as report:
            tuned = search(loaded, samples, output, device, report, overwrite=overwrite)
        typer.echo(_comparison(loaded.config, tuned))
        typer.echo(f"model with these thresholds -> {tuned.folder}")


def _find_validation(folder: Path, datasets: Sequence[str], model: ModelConfig) -> tuple[tuple[Sample, ...], str]:
    """Images that the model was not trained on, and a phrase that says which they are.

    Those of split `val`. If all are of split `train`: those that `cytoseed train` sets aside, or all if the model was
    not trained on these data.
    """
    from cytoseed.learn.samples import find_samples, split_by_name

    samples = find_samples(folder, datasets=datasets or None)
    kept = tuple(sample for sample in samples if sample.split == "val")
    if kept:
        return kept, "of split val"
    splits = sorted({sample.split for sample in samples})
    if splits != ["train"]:
        raise ValueError(
            f"{str(folder)!r} has no sample of split 'val', only of {' and '.join(splits)}; thresholds are chosen on "
            f"'val' alone: mark some in its samples.csv"
        )
    if {note.name for note in model.trained_on} & {sample.dataset for sample in samples}:
        return split_by_name(samples).val, "that the training set aside"
    return samples, "in the data, since none is marked as val"


@contextmanager
def _progress(images: int) -> Iterator[Callable[[TuneProgress], None]]:
    """Progress of a search: a bar on a terminal, otherwise a line per better set of thresholds."""
    from rich.progress import Progress as Bars

    console = plain_console()
    best = 0.0
    with Bars(console=console, disable=not console.is_terminal, transient=True) as bars:
        bar = bars.add_task("running the network", total=images)

        def report(progress: TuneProgress) -> None:
            nonlocal best
            if not progress.tried:
                bars.update(bar, completed=progress.images_done)
                return
            sets = "1 set" if progress.tried == 1 else f"{progress.tried} sets"
            text = f"{sets} of thresholds tried, best mean F1 {progress.best_f1_mean:.4f}"
            bars.update(bar, description=text, total=None)
            if not console.is_terminal and progress.best_f1_mean > best:
                console.print(text)
            best = max(best, progress.best_f1_mean)

        yield report


def _comparison(config: ModelConfig, tuned: TuneResult) -> str:
    """Table of thresholds and pooled scores, before and after."""
    from cytoseed.learn.evaluate import align

    lines = [("", "before", "after", "")]
    for name, after in tuned.thresholds._asdict().items():
        before = getattr(config, name)
        lines.append((name, f"{before:g}", f"{after:g}", "" if before == after else "changed"))
    for before, after in zip(tuned.before, tuned.after, strict=True):
        for title, figure in _FIGURES:
            old, new = getattr(before, figure), getattr(after, figure)
            lines.append((f"{before.name}: {title}", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"))
    return align(lines)
