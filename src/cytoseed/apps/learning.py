"""What `cytoseed train` does before and around the training itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cytoseed.settings import RECIPES, ModelConfig, TrainConfig

if TYPE_CHECKING:
    from cytoseed.learn.evaluate import Accuracy
    from cytoseed.learn.samples import TrainValSplit
    from cytoseed.learn.train import TrainProgress, TrainResult
    from cytoseed.models.weights import Model


class _Report(Protocol):
    def __call__(self, progress: TrainProgress, /) -> None: ...


def read_train_config(recipe: str, file: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Take training settings from a recipe; a JSON file goes before it, and the flags given go before both.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The recipe is unknown, the file is not JSON, holds an unknown setting, or a value that no training can have.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; it must be one of {', '.join(RECIPES)}")
    values: Any = {}
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"config is {str(file)!r}: there is no such file")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds a {type(values).__name__}; it must hold one object of settings")
    return TrainConfig.from_dict({**RECIPES[recipe].to_dict(), **values, **given})


def gather_samples(folder: Path, datasets: Sequence[str]) -> TrainValSplit:
    """Find the images to learn from and to validate with; test images are left alone.

    Where no image is marked as one to validate with, a fifth is set aside, by a hash of the names.

    Raises
    ------
    FileNotFoundError, ValueError
        As `find_samples`.
    """
    from cytoseed.learn.samples import TrainValSplit, find_samples, split_by_name

    samples = find_samples(folder, datasets=datasets or None)
    division = TrainValSplit(*(tuple(s for s in samples if s.split == split) for split in ("train", "val")))
    return division if division.val else split_by_name(division.train)


def starting_model(start: str, wanted: Mapping[str, Any]) -> ModelConfig | Model:
    """Choose what to train: a new network, or another model's weights.

    Parameters
    ----------
    start
        Name or folder of the model to go on from; empty for a new network.
    wanted
        Settings of `ModelConfig`, the name among them. A network other than that of the model to go on from is filled
        with its most telling channels.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_model` and `ModelConfig`.
    """
    if not start:
        return ModelConfig(**wanted)
    from cytoseed.learn.distil import narrow_model
    from cytoseed.models.weights import Model, load_model

    model = load_model(start)
    if wanted.get("network", model.config.network) != model.config.network:
        model = narrow_model(model, wanted["network"])
    changed = {**wanted, "description": f"TrainResult from {model.config.name}.", "figures": {}}
    return Model(dataclasses.replace(model.config, **changed), model.segmenter)


def compare_figures(trained: TrainResult) -> str:
    """Make a table for the terminal: figures on the validation images, before and after."""
    from cytoseed.learn.evaluate import align

    before = {figure.name: _values(figure) for figure in trained.before}
    rows: list[tuple[str, ...]] = [("validation images", "F1@0.5", "mean F1", "AJI")]
    for after in trained.after:
        was = before.get(after.name, ("",) * 3)
        pairs = zip(was, _values(after), strict=True)
        rows.append((after.name, *(f"{old} -> {new}" if old else new for old, new in pairs)))
    return align(rows)


def _values(figure: Accuracy) -> tuple[str, str, str]:
    return f"{figure.f1:.3f}", f"{figure.f1_mean:.3f}", f"{figure.aji:.3f}"


@contextmanager
def training_display(steps: int) -> Iterator[_Report]:
    """Show how far a training is: a bar on a terminal, else a line for each report."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    console = Console(soft_wrap=True, highlight=False, markup=False)
    with Bars(console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task("training", total=steps)

        def report(progress: TrainProgress) -> None:
            text = f"loss {progress.loss:.3f}, best mean F1 {progress.best_f1_mean:.3f}"
            bars.update(bar, completed=progress.step, description=text)
            if not console.is_terminal:
                speed = f"{progress.crops_per_second:.1f} crops/s"
                console.print(f"step {progress.step} of {progress.steps}: {text}, {speed}")

        yield report
