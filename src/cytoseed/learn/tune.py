"""Thresholds chosen on validation images: the network runs once per image, the search over what follows it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from cytoseed.core.model import Thresholds
from cytoseed.learn.evaluate import Evaluation, ScoredImage
from cytoseed.learn.journal import Figure, figures_of, figures_to_json
from cytoseed.learn.metrics import ImageScore, score
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import CONFIG_FILE, WEIGHTS_FILE, Model, keeps_half, save_model
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.segment import full_size_labels, network_image
from cytoseed.settings import ModelConfig, SegmentOptions

LEAST_GAIN = 0.002
"""Mean F1 that a change of a threshold must gain: less did not hold on other images (docs/experiments.md)."""

_STEPS: dict[str, tuple[float, ...]] = {
    "seed_threshold": (-0.05, 0.05, -0.1, 0.1),
    "mask_threshold": (-0.25, 0.25, -0.5, 0.5),
    "peak_radius_px": (-1, 1, -2, 2),
    "agreement_iou": (-0.1, 0.1, -0.2, 0.2),
    "min_size_px": (-0.5, 1.0, 2.0, 4.0),  # shares of the value, or of 5 px where that is more
}
_ALLOWED: dict[str, tuple[float, float]] = {
    "seed_threshold": (0.1, 0.9),  # below, each maximum of the ground is a seed; above, hardly any pixel is
    "mask_threshold": (-5.0, 5.0),
    "peak_radius_px": (1, 32),
    "agreement_iou": (0.1, 0.9),
    "min_size_px": (0, 1000),
}
_LEAST_SIZE_PX = 5


class TuneProgress(NamedTuple):
    """How far a search is."""

    images_done: int
    """Images that the network has seen."""
    images: int
    """All of them."""
    tried: int
    """Sets of thresholds tried."""
    best_f1_mean: float
    """Best pooled mean F1 so far; nan before the first set was tried."""


class Tuned(NamedTuple):
    """What a search left."""

    folder: Path
    """Folder of the model with the thresholds chosen."""
    before: tuple[Figure, ...]
    """Pooled figures with the model's own thresholds: of each group, and of all images, which come last."""
    after: tuple[Figure, ...]
    """The same with the thresholds chosen; the mean F1 of all images is never lower."""
    thresholds: Thresholds
    """The thresholds chosen."""


def tune(
    model: Model,
    samples: Sequence[Sample],
    output: str | os.PathLike[str],
    device: str = "auto",
    progress: Callable[[TuneProgress], None] | None = None,
    *,
    overwrite: bool = False,
) -> Tuned:
    """Choose a model's thresholds by the pooled mean F1 over samples, and write a copy of the model with them.

    A threshold changes where that gains `LEAST_GAIN` and costs no F1 at IoU 0.5. The network sees each sample
    once, as `segment` would show it, at the sample's own pixel size. The fields that it gives wait in a hidden
    folder beside `output`, 4 bytes a channel and pixel (36 a pixel of the bundled models) in all; in memory
    there are those of one sample at a time. That folder goes when the search ends, however it ends, except
    where the process is killed. What follows the network runs on the CPU, once per sample and set of
    thresholds. The figures are those of `evaluate_model`, not estimates.

    Parameters
    ----------
    model : Model
        Its first target is scored.
    samples : sequence of Sample
        Images that the weights were not trained on; at least one, with at least one object in all.
    output : path
        Folder of the copy, made if need be; by its name the copy is called. Weights are the model's to the bit.
        Of its figures only the new ones are kept, as `val`: others were measured with other thresholds.
    device : str, default 'auto'
        Where the network runs; see `choose_device`.
    progress : callable, optional
        Called after each sample that the network has seen, and after each set of thresholds tried.
    overwrite : bool, default False
        Replace the model that `output` holds.

    Returns
    -------
    Tuned

    Raises
    ------
    FileExistsError
        `output` holds a model and `overwrite` is false.
    ValueError
        There are no samples, or no objects in them; a sample that cannot be segmented; a device that is not there.
    OSError
        A folder that cannot be written to.
    """
    folder = Path(output)
    held = [name for name in (WEIGHTS_FILE, CONFIG_FILE) if (folder / name).exists()]
    if held and not overwrite:
        raise FileExistsError(
            f"output {str(folder)!r} holds a model ({held[0]}); give another folder, or "
            f"--overwrite (overwrite=True in Python)"
        )
    if not samples:
        raise ValueError("samples is empty; give at least one image with its mask")
    own = Thresholds(**{name: getattr(model.config, name) for name in Thresholds._fields})
    chosen_device = choose_device(device)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".fields", dir=folder.parent) as place:
        trials = _Trials(model, samples, Path(place), progress)
        trials.run_network(chosen_device)
        least_f1 = trials.evaluate(own).pooled.f1
        best = search(own, lambda thresholds: trials.f1_mean(thresholds, least_f1))
        before, after = trials.figures(own), trials.figures(best)
    config = _config_of_copy(model.config, folder.resolve().name, best, samples, after)
    save_model(model.segmenter, config, folder, half=keeps_half(model.segmenter))
    return Tuned(folder, before, after, best)


def search(start: Thresholds, figure: Callable[[Thresholds], float]) -> Thresholds:
    """Climb from some thresholds to better ones, changing one at a time.

    In each round every threshold in turn, in the order of `_STEPS`, takes the best of a few values around its own, if
    that gains `LEAST_GAIN`; of equally good ones the first, which is nearest. The search ends after a round without
    a change. It draws nothing at random.

    Parameters
    ----------
    start : Thresholds
        Kept where nothing is better.
    figure : callable
        From thresholds to what is to be large; asked once for each set. Must have an upper bound.

    Returns
    -------
    Thresholds
        `start`, or thresholds whose figure is higher by at least `LEAST_GAIN`.
    """
    value = cache(figure)
    best, changed = start, True
    while changed:
        changed = False
        for name in _STEPS:
            others = tuple(_neighbours(best, name))
            if not others:
                continue
            candidate = max(others, key=value)
            if value(candidate) >= value(best) + LEAST_GAIN:
                best, changed = candidate, True
    return best


def _neighbours(thresholds: Thresholds, name: str) -> Iterable[Thresholds]:
    """Thresholds of which one has another value near its own, the nearest first."""
    own = getattr(thresholds, name)
    low, high = _ALLOWED[name]
    for step in _STEPS[name]:
        far = step * max(own, _LEAST_SIZE_PX) if name == "min_size_px" else step
        exact = min(max(own + far, low), high)
        other = int(exact) if name.endswith("_px") else round(exact, 6)
        if other != own:
            yield thresholds._replace(**{name: other})


class _Trials:
    """Samples whose fields are on disk, scored with any thresholds."""

    def __init__(
        self,
        model: Model,
        samples: Sequence[Sample],
        place: Path,
        progress: Callable[[TuneProgress], None] | None,
    ) -> None:
        self._model = model
        self._samples = samples
        self._place = place
        self._progress = progress
        self._seen = 0
        self._evaluations: dict[Thresholds, Evaluation] = {}

    def run_network(self, device: torch.device) -> None:
        """Write the fields and the mask of each sample."""
        engine = engine_for(self._model, device)
        objects = False
        for index, sample in enumerate(self._samples):
            pixels, mask = sample.read()
            options = SegmentOptions(pixel_size_um=sample.find_pixel_size_um())
            try:
                image = network_image(pixels, self._model.config, options)
            except ValueError as error:
                raise ValueError(f"{sample.name}: {error}") from error
            np.save(self._place / f"{index}.fields.npy", engine.fields(image).cpu().numpy())
            np.save(self._place / f"{index}.mask.npy", mask)
            objects = objects or bool((mask > 0).any())
            self._seen = index + 1
            self._report()
        if not objects:
            raise ValueError("samples hold no true object, so there is nothing to choose thresholds by")

    def f1_mean(self, thresholds: Thresholds, least_f1: float) -> float:
        """Pooled mean F1 of all samples; -1 where their F1 at IoU 0.5 is below the least one allowed."""
        pooled = self.evaluate(thresholds).pooled
        return pooled.f1_mean if pooled.f1 >= least_f1 else -1.0

    def evaluate(self, thresholds: Thresholds) -> Evaluation:
        """Score all samples, once for each set of thresholds."""
        if thresholds not in self._evaluations:
            scores = [self._score(index, thresholds) for index in range(len(self._samples))]
            images = (
                ScoredImage(sample.name, sample.dataset, sample.modality, counts)
                for sample, counts in zip(self._samples, scores, strict=True)
            )
            self._evaluations[thresholds] = Evaluation(tuple(images))
            self._report()
        return self._evaluations[thresholds]

    def figures(self, thresholds: Thresholds) -> tuple[Figure, ...]:
        """Pooled figures of thresholds that were tried."""
        return figures_of(self._evaluations[thresholds])

    @torch.inference_mode()
    def _score(self, index: int, thresholds: Thresholds) -> ImageScore:
        fields = torch.from_numpy(np.load(self._place / f"{index}.fields.npy"))  # (1, T, F, h, w)
        mask = np.load(self._place / f"{index}.mask.npy")  # (H, W)
        labels = self._model.segmenter.labels(fields, thresholds)[0]  # (T, h, w)
        return score(full_size_labels(labels, *mask.shape)[0], mask)

    def _report(self) -> None:
        if self._progress is not None:
            figures = [evaluation.pooled.f1_mean for evaluation in self._evaluations.values()]
            best = max(figures, default=float("nan"))
            self._progress(TuneProgress(self._seen, len(self._samples), len(figures), best))


def _config_of_copy(
    config: ModelConfig, name: str, thresholds: Thresholds, samples: Sequence[Sample], figures: tuple[Figure, ...]
) -> ModelConfig:
    """Describe the copy: its thresholds, their figures, and in the recipe how they were chosen."""
    stage = {
        "tuned_from": f"{config.name} {config.version}",
        "images": len(samples),
        "datasets": sorted({sample.dataset for sample in samples}),
        "thresholds_before": {name: getattr(config, name) for name in Thresholds._fields},
    }
    return dataclasses.replace(
        config,
        **thresholds._asdict(),
        name=name,
        recipe={"stages": [*config.stages, stage]},
        figures={"val": figures_to_json(figures)},
    )
