"""`cytoseed train` and `cytoseed tune`: models and thresholds from images with instance masks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cytoseed.cli.console import FAILED, MISUSED, Pace, exit_on_mistake, print_line, print_note, progress_bar
from cytoseed.cli.flags import DataOption, DatasetOption, DeviceOption, ModelOption, settings_flags
from cytoseed.learn.settings import RECIPES, TrainConfig
from cytoseed.settings import ModelConfig, SegmentOptions
from cytoseed.text_files import parse_json

if TYPE_CHECKING:
    from cytoseed.learn.samples import Sample, TrainValSplit
    from cytoseed.learn.train import TrainProgress, TrainResult
    from cytoseed.learn.tune import TuneProgress, TuneResult
    from cytoseed.models.weights import Model

FEWEST_TO_TUNE = 5
_FIGURES, _HEADINGS = ("f1", "f1_mean", "aji"), ("F1@0.5", "mean F1", "AJI")
PANELS = {
    "Data and output": ("data", "dataset", "pixel_size", "output", "resume"),
    "Model": ("start", "network", "teacher", "name", "model_pixel_size", "channels", "targets"),
    "Length and speed": (
        *("recipe", "config", "steps", "batch_size", "crop_px", "learning_rate", "validate_every", "patience"),
        *("device", "precision", "compile", "memory_gb"),
    ),
    "Augmentation": ("augment", "scale_range", "nominal_scale_share", "synthetic_stain_share", "balance"),
    "Advanced": (
        *("pretrain_steps", "optimizer", "weight_decay", "clip_norm", "average_decay", "seed"),
        *("seed_weight", "instance_weight", "teacher_weight", "max_seeds", "window_px"),
    ),
}


@settings_flags(TrainConfig, PANELS)
def train(
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, log and checkpoint.")],
    *,
    recipe: Annotated[
        str, typer.Option(help="Settings to start from: default, paper or finetune (the default with --from).")
    ] = "",
    config: Annotated[Path | None, typer.Option(help="JSON file of settings, which override the recipe.")] = None,
    start: Annotated[str, typer.Option("--from", help="Model to fine-tune, by name or folder.")] = "",
    network: Annotated[
        str, typer.Option(help="Backbone: lite, slim or paper. By default that of --from or of the recipe.")
    ] = "",
    teacher: Annotated[str, typer.Option(help="Model to learn from, besides the masks, by name or folder.")] = "",
    name: Annotated[str, typer.Option(help="Name of the model; by default that of the output folder.")] = "",
    model_pixel_size: Annotated[
        float | None,
        typer.Option(metavar="µm", help="Pixel size of the model; by default that of --from, or 0.5."),
    ] = None,
    channels: Annotated[
        str, typer.Option(help="Number of image channels, or any. By default that of --from, or 3.")
    ] = "",
    targets: Annotated[
        str,
        typer.Option(help="Objects to find: nuclei, cells or nuclei-and-cells. By default those of --from, or nuclei."),
    ] = "",
    dataset: DatasetOption = None,
    pixel_size: Annotated[
        float | None,
        typer.Option(metavar="µm", help="Pixel size of the images; by default that of samples.csv or of the files."),
    ] = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --output.")] = False,
    given: Mapping[str, Any],
) -> None:
    """Train a model on images with instance masks, from scratch or from another model.

    With --from, the model is scored on the validation images before and after, and a worse model is never kept.
    """
    with exit_on_mistake(MISUSED):
        from cytoseed.models.weights import load_model
        from cytoseed.run.engine import choose_device

        recipe = recipe or ("finetune" if start else "default")
        settings = read_train_config(recipe, config, given)
        wanted: dict[str, Any] = {"name": name or output.resolve().name}
        if network or not start:
            wanted["network"] = network or ("paper" if recipe == "paper" else "lite")
        if model_pixel_size is not None:
            wanted["pixel_size_um"] = model_pixel_size
        if channels:
            wanted["channels"] = int(channels) if channels.isdecimal() else channels
        if targets:
            wanted["targets"] = tuple(targets.split("-and-"))
        model = _starting_model(start, wanted)
        teacher_model = load_model(teacher) if teacher else None
        choose_device(device)
        samples = _find_split_samples(data, dataset or (), pixel_size)
    with exit_on_mistake(FAILED, f"the last checkpoint in {output}, if there is one, is kept; --resume continues"):
        from cytoseed.learn.train import train as run_training

        print_line(f"{len(samples.train)} training images, {len(samples.val)} validation images")
        with progress_bar("training", settings.steps) as (update, print_step):

            def report(progress: TrainProgress) -> None:
                text = f"loss {progress.loss:.3f}, best mean F1 {progress.best_f1_mean:.3f}"
                update(completed=progress.step, description=text)
                speed = f"{progress.crops_per_second:.1f} crops/s"
                crops_left = (progress.steps - progress.step) * settings.batch_size
                left = f"{crops_left / progress.crops_per_second / 60:.0f} min left"
                print_step(f"step {progress.step} of {progress.steps}: {text}, {speed}, {left}")

            trained = run_training(samples, model, settings, output, device, resume, report, teacher=teacher_model)
        print_line(*_comparison(trained).split("\n"))
        if trained.best_step == 0:
            print_line("no step was better than the model given by --from, so that model was kept")
        print_line(f"best mean F1 {trained.best_f1_mean:.3f} at step {trained.best_step} -> {trained.folder}")


def read_train_config(recipe: str, file: Path | None, given: Mapping[str, Any]) -> TrainConfig:
    """Training settings of a recipe, overridden by a JSON file, overridden by flags."""
    if recipe not in RECIPES:
        raise ValueError(f"recipe is {recipe!r}; it must be one of {', '.join(RECIPES)}")
    values: Any = {}
    if file is not None:
        values = parse_json(file.read_bytes(), file, "in JSON, numbers have a decimal point and texts double quotes")
        if not isinstance(values, dict):
            raise ValueError(f"{file} holds a {type(values).__name__}; it must hold a JSON object of settings")
    try:
        settings = TrainConfig.from_dict({**RECIPES[recipe].to_dict(), **values})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{file}: {error}") from error
    return TrainConfig.from_dict({**settings.to_dict(), **given})


def _find_split_samples(folder: Path, datasets: Sequence[str], pixel_size_um: float | None) -> TrainValSplit:
    """Training and validation samples; if none are marked for validation, a fifth of them is set aside."""
    from cytoseed.learn.samples import TrainValSplit, find_samples, split_by_name

    samples = find_samples(folder, datasets=datasets or None)
    if pixel_size_um is not None:
        SegmentOptions(pixel_size_um=pixel_size_um)  # checks it
        samples = tuple(dataclasses.replace(sample, pixel_size_um=pixel_size_um) for sample in samples)
    division = TrainValSplit(*(tuple(s for s in samples if s.split == split) for split in ("train", "val")))
    return division if division.val else split_by_name(division.train)


def _starting_model(start: str, wanted: Mapping[str, Any]) -> ModelConfig | Model:
    """Model to train: a new network, or the model named `start`, narrowed if `wanted` has another network."""
    if not start:
        return ModelConfig(**wanted)
    from cytoseed.learn.distil import narrow_model
    from cytoseed.learn.widen import widen_model
    from cytoseed.models.weights import Model, load_model

    model = load_model(start)
    if wanted.get("network", model.config.network) != model.config.network:
        model = narrow_model(model, wanted["network"])
    channels, targets = wanted.get("channels", model.config.channels), wanted.get("targets", model.config.targets)
    if (channels, targets) != (model.config.channels, model.config.targets):
        model = widen_model(model, channels, targets)
    changed = {**wanted, "description": f"Trained from {model.config.name}."}
    changed |= {"figures": {}, "score_calibration": ()}
    return Model(dataclasses.replace(model.config, **changed), model.segmenter)


def _comparison(trained: TrainResult) -> str:
    """Table of scores on the validation images, before and after."""
    from cytoseed.learn.evaluate import align

    before = {figure.name: figure for figure in trained.before}
    rows: list[tuple[str, ...]] = [("validation images", *_HEADINGS)]
    for after in trained.after:
        pairs = [(getattr(before.get(after.name), name, None), getattr(after, name)) for name in _FIGURES]
        rows.append((after.name, *(f"{new:.3f}" if old is None else f"{old:.3f} -> {new:.3f}" for old, new in pairs)))
    return align(rows)


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
        print_line(f"thresholds are chosen on the {images} {origin}")
        if len(samples) < FEWEST_TO_TUNE:
            print_note(f"with less than {FEWEST_TO_TUNE} images, they may fit only these images")
        with progress_bar("running the network", len(samples)) as (update, print_step):
            best, pace = 0.0, Pace()

            def report(progress: TuneProgress) -> None:
                nonlocal best
                if not progress.tried:
                    update(completed=progress.images_done)
                    pace.print("image", progress.images_done, len(samples))
                    return
                sets = "1 set" if progress.tried == 1 else f"{progress.tried} sets"
                text = f"{sets} of thresholds tried, best mean F1 {progress.best_f1_mean:.4f}"
                update(description=text, total=None)
                if progress.best_f1_mean > best:
                    print_step(text)
                best = max(best, progress.best_f1_mean)

            tuned = search(loaded, samples, output, device, report, overwrite=overwrite)
        print_line(*_thresholds_table(loaded.config, tuned).split("\n"))
        print_line(f"model with these thresholds -> {tuned.folder}")


def _find_validation(folder: Path, datasets: Sequence[str], model: ModelConfig) -> tuple[tuple[Sample, ...], str]:
    """Images that the model was not trained on, and a phrase that describes them.

    These are the images of split `val`; if all are of split `train`, the images that `cytoseed train` sets aside, or
    all images if the model was not trained on these data.
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
            f"'val' alone: mark some samples as 'val' in its samples.csv"
        )
    if {note.name for note in model.trained_on} & {sample.dataset for sample in samples}:
        return split_by_name(samples).val, "set aside in training"
    return samples, "in the data, since none is marked as val"


def _thresholds_table(config: ModelConfig, tuned: TuneResult) -> str:
    """Table of thresholds and pooled scores, before and after."""
    from cytoseed.learn.evaluate import align

    lines = [("", "before", "after", "")]
    for name, after in tuned.thresholds._asdict().items():
        before = getattr(config, name)
        lines.append((name, f"{before:g}", f"{after:g}", "" if before == after else "changed"))
    for before, after in zip(tuned.before, tuned.after, strict=True):
        for title, figure in zip(_HEADINGS, _FIGURES, strict=True):
            old, new = getattr(before, figure), getattr(after, figure)
            lines.append((f"{before.name}: {title}", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}"))
    return align(lines)
