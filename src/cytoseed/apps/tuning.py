"""What `cytoseed tune` does before and around the search itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cytoseed.settings import ModelConfig

if TYPE_CHECKING:
    from cytoseed.learn.samples import Sample
    from cytoseed.learn.tune import TuneProgress, TuneResult

_FIGURES = (("F1@0.5", "f1"), ("mean F1", "f1_mean"), ("AJI", "aji"))


class _Report(Protocol):
    def __call__(self, progress: TuneProgress, /) -> None: ...


class Validation(NamedTuple):
    """Samples to choose thresholds by."""

    samples: tuple[Sample, ...]
    """One or more."""
    origin: str
    """Which they are, for a sentence."""


def gather_validation(folder: Path, datasets: Sequence[str], model: ModelConfig) -> Validation:
    """Find images that the model was not trained on.

    The samples of split `val`; where no sample has a split other than `train`, those that `cytoseed train` sets aside
    if the model was trained on this data, else all of them.

    Raises
    ------
    FileNotFoundError
        As `find_samples`.
    ValueError
        As `find_samples`; or there are test images and none to validate with.
    """
    from cytoseed.learn.samples import find_samples, split_by_name

    samples = find_samples(folder, datasets=datasets or None)
    kept = tuple(sample for sample in samples if sample.split == "val")
    if kept:
        return Validation(kept, "of split val")
    splits = sorted({sample.split for sample in samples})
    if splits != ["train"]:
        raise ValueError(
            f"{str(folder)!r} has no sample of split 'val', only of {' and '.join(splits)}; thresholds are chosen on "
            f"'val' alone: mark some in its samples.csv"
        )
    if {note.name for note in model.trained_on} & {sample.dataset for sample in samples}:
        return Validation(split_by_name(samples).val, "that the training set aside")
    return Validation(samples, "that there are, since the data mark none as val")


def introduction(chosen: Validation) -> str:
    """Say in a line which images thresholds are chosen on."""
    count = len(chosen.samples)
    images = "1 image" if count == 1 else f"{count} images"
    return f"thresholds are chosen on the {images} {chosen.origin}"


@contextmanager
def tuning_display(images: int) -> Iterator[_Report]:
    """Show how far a search is: a bar on a terminal, else a line after the network and after each better set."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(soft_wrap=True, highlight=False, markup=False)
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


def tuning_table(config: ModelConfig, tuned: TuneResult) -> str:
    """Show thresholds and pooled figures, a line each, before and after; what changed is marked."""
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
