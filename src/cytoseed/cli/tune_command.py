"""`cytoseed tune`: thresholds of a model, chosen on validation images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cytoseed.cli.console import FAILED, MISUSED, exit_on_mistake, progress_bar
from cytoseed.cli.flags import DataOption, DatasetOption, DeviceOption, ModelOption
from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    from cytoseed.learn.samples import Sample
    from cytoseed.learn.tune import TuneProgress, TuneResult

_FIGURES = (("F1@0.5", "f1"), ("mean F1", "f1_mean"), ("AJI", "aji"))


def tune(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the copy of the model.")],
    model: ModelOption = "nuclei",
    dataset: DatasetOption = None,
    device: DeviceOption = "auto",
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
        with progress_bar("running the network", len(samples)) as functions:
            tuned = search(loaded, samples, output, device, _reporter(*functions), overwrite=overwrite)
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


def _reporter(update: Callable[..., None], print_line: Callable[[str], None]) -> Callable[[TuneProgress], None]:
    """Report the progress of a search; away from terminals, a line per better set of thresholds."""
    best = 0.0

    def report(progress: TuneProgress) -> None:
        nonlocal best
        if not progress.tried:
            update(completed=progress.images_done)
            return
        sets = "1 set" if progress.tried == 1 else f"{progress.tried} sets"
        text = f"{sets} of thresholds tried, best mean F1 {progress.best_f1_mean:.4f}"
        update(description=text, total=None)
        if progress.best_f1_mean > best:
            print_line(text)
        best = max(best, progress.best_f1_mean)

    return report


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
