"""Choose a model's thresholds on validation images; the network runs once per image."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from cytoseed.core.model import Thresholds
from cytoseed.learn.evaluate import Accuracy, Evaluation, ScoredImage, accuracies_to_json, score_targets
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import CONFIG_FILE, Model, keeps_half, save_model
from cytoseed.run.api import network_image
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.slide import full_disk_errors
from cytoseed.run.tile import full_size_labels
from cytoseed.settings import SegmentOptions

LEAST_GAIN = 0.002
"""Gain of mean F1 that a change of a threshold needs; smaller gains did not transfer (docs/experiments.md)."""

_GRID: dict[str, tuple[float, float, tuple[float, ...]]] = {  # lowest and highest value, and steps
    "seed_threshold": (0.1, 0.9, (-0.05, 0.05, -0.1, 0.1)),  # below, the background has seeds; above, hardly any pixel
    "mask_threshold": (-5.0, 5.0, (-0.25, 0.25, -0.5, 0.5)),
    "peak_radius_px": (1, 32, (-1, 1, -2, 2)),
    "agreement_iou": (0.1, 0.9, (-0.1, 0.1, -0.2, 0.2)),
    "min_size_px": (0, 1000, (-0.5, 1.0, 2.0, 4.0)),  # steps are fractions of the value, or of 5 px if that is more
}
_LEAST_SIZE_PX = 5
_NO_ROOM = "make room, or give fewer images: what the network finds in all of them is kept there while tuning"


class TuneProgress(NamedTuple):
    """Progress of a search, for the progress callback."""

    images_done: int  # images that the network has processed
    images: int  # total number of images
    tried: int  # sets of thresholds tried so far
    best_f1_mean: float  # best pooled mean F1 so far; nan before the first set


class TuneResult(NamedTuple):
    """Outcome of a search."""

    folder: Path  # folder of the model with the chosen thresholds
    before: tuple[Accuracy, ...]  # pooled accuracy with the model's own thresholds, by group; all images last
    after: tuple[Accuracy, ...]  # the same with the chosen thresholds; the mean F1 of all images is never lower
    thresholds: Thresholds


def tune(
    model: Model,
    samples: Sequence[Sample],
    output: str | os.PathLike[str],
    device: str = "auto",
    progress: Callable[[TuneProgress], None] | None = None,
    *,
    overwrite: bool = False,
) -> TuneResult:
    """Choose thresholds by the pooled mean F1 on samples and write a copy of the model with them to `output`.

    A threshold changes only if mean F1 gains `LEAST_GAIN` and F1 at IoU 0.5 does not fall. The first target is scored,
    as `evaluate_model` does. The network's fields, 4 bytes per channel and pixel, are kept in a temporary folder beside
    `output`.
    """
    folder = Path(output)
    if (folder / CONFIG_FILE).exists() and not overwrite:
        raise FileExistsError(f"output {str(folder)!r} holds a model; give another folder, or --overwrite")
    own = Thresholds(**{name: getattr(model.config, name) for name in Thresholds._fields})
    torch_device = choose_device(device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fields = TemporaryDirectory(prefix=f".{folder.name}.", suffix=".fields", dir=folder.parent)
    with full_disk_errors(folder, _NO_ROOM), fields as fields_folder:
        trials = _Trials(model, samples, Path(fields_folder), progress)
        trials.run_network(torch_device)
        least_f1 = trials.evaluate(own).pooled.f1

        def f1_mean(thresholds: Thresholds) -> float:
            """Pooled mean F1; -1 if F1 at IoU 0.5 is lower than before."""
            pooled = trials.evaluate(thresholds).pooled
            return pooled.f1_mean if pooled.f1 >= least_f1 else -1.0

        best = search(own, f1_mean)
        before, after = (trials.evaluate(each).accuracies for each in (own, best))
    stage = {
        "tuned_from": f"{model.config.name} {model.config.version}",
        "images": len(samples),
        "datasets": sorted({sample.dataset for sample in samples}),
        "thresholds_before": own._asdict(),
    }
    config = dataclasses.replace(
        model.config,
        **best._asdict(),
        name=folder.resolve().name,
        recipe={"stages": [*model.config.stages, stage]},
        figures={"val": accuracies_to_json(after)},
        score_calibration=model.config.score_calibration if best == own else (),  # other objects than it was fitted to
    )
    with full_disk_errors(folder, _NO_ROOM):
        save_model(model.segmenter, config, folder, half=keeps_half(model.segmenter))
    return TuneResult(folder, before, after, best)


def search(start: Thresholds, score_of: Callable[[Thresholds], float]) -> Thresholds:
    """Thresholds with a higher score, found by changing one threshold at a time until a round brings no change.

    Every threshold takes the best of a few values around its own if it gains `LEAST_GAIN`: of equal values the nearest.
    """
    best, before = start, None
    while best != before:
        before = best
        for name in _GRID:
            candidate = max((best, *_neighbours(best, name)), key=score_of)
            if score_of(candidate) >= score_of(best) + LEAST_GAIN:
                best = candidate
    return best


def _neighbours(thresholds: Thresholds, name: str) -> Iterable[Thresholds]:
    """Thresholds with another value of one of them, the nearest first."""
    own = getattr(thresholds, name)
    low, high, steps = _GRID[name]
    for step in steps:
        difference = step * max(own, _LEAST_SIZE_PX) if name == "min_size_px" else step
        exact = min(max(own + difference, low), high)
        other = int(exact) if name.endswith("_px") else round(exact, 6)
        if other != own:
            yield thresholds._replace(**{name: other})


class _Trials:
    """Scores samples with any thresholds, from fields on disk."""

    def __init__(
        self, model: Model, samples: Sequence[Sample], folder: Path, progress: Callable[[TuneProgress], None] | None
    ) -> None:
        self._model, self._samples, self._folder, self._progress = model, samples, folder, progress
        self._evaluations: dict[Thresholds, Evaluation] = {}

    def run_network(self, device: torch.device) -> None:
        """Write the fields and the mask of each sample."""
        engine = engine_for(self._model, device)
        objects = 0
        for index, sample in enumerate(self._samples):
            pixels, masks = sample.read_targets(self._model.config.targets)
            options = SegmentOptions(pixel_size_um=sample.find_pixel_size_um())
            try:
                image = network_image(pixels, self._model.config, options)
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error
            np.save(self._folder / f"{index}.fields.npy", engine.views(image[None])[0].cpu().numpy())
            np.save(self._folder / f"{index}.masks.npy", masks)
            objects += int(masks.max(initial=0) > 0)
            self._report(index + 1)
        if not objects:
            raise ValueError("samples hold no true object, so there is nothing to choose thresholds by")

    def evaluate(self, thresholds: Thresholds) -> Evaluation:
        """Evaluation of all samples, computed once per set of thresholds."""
        if thresholds not in self._evaluations:
            images = (
                scored
                for index, sample in enumerate(self._samples)
                for scored in self._score(index, sample, thresholds)
            )
            self._evaluations[thresholds] = Evaluation(tuple(images))
            self._report(len(self._samples))
        return self._evaluations[thresholds]

    @torch.inference_mode()
    def _score(self, index: int, sample: Sample, thresholds: Thresholds) -> tuple[ScoredImage, ...]:
        fields = torch.from_numpy(np.load(self._folder / f"{index}.fields.npy"))  # (1, T, F, h, w)
        masks = np.load(self._folder / f"{index}.masks.npy")  # (T, H, W)
        labels = self._model.segmenter.labels(fields, thresholds)[0]  # (T, h, w)
        return score_targets(sample, full_size_labels(labels, *masks.shape[1:]), masks, self._model.config.targets)

    def _report(self, images_done: int) -> None:
        if self._progress is not None:
            scores = [evaluation.pooled.f1_mean for evaluation in self._evaluations.values()]
            best = max(scores, default=float("nan"))
            self._progress(TuneProgress(images_done, len(self._samples), len(scores), best))
