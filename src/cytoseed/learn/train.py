"""Training on any device: one loop, validated with the module that users run, resumable to the bit on a CPU."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cytoseed.core.model import Segmenter
from cytoseed.learn.augment import Bank
from cytoseed.learn.distil import Taught, teacher_loss
from cytoseed.learn.journal import Description, Figure, Log, Since, figures_from_json, figures_of, figures_to_json
from cytoseed.learn.loss import TrainingSeeds, batch_losses
from cytoseed.learn.samples import Division, Sample
from cytoseed.learn.validate import evaluate_model
from cytoseed.models.weights import Model, checksum, in_half, keeps_half, save_model
from cytoseed.paths import atomic_file
from cytoseed.run.engine import choose_device, keep_freed_memory
from cytoseed.run.runtimes import bfloat16_pays
from cytoseed.settings import ModelConfig, SegmentOptions, TrainConfig

CHECKPOINT = "checkpoint.pt"
BEST, LAST = "best", "last"
_LOG_EVERY = 20
_TAUGHT = (  # what a teacher must have in common with who learns from it
    "channels",
    "targets",
    "positional_dims",
    "conditional_dims",
    "classifier_widths",
    "grid_step",
    "offset_limit",
    "pixel_size_um",
)
_FREE = ("memory_gb", "patience", "compile")  # settings that may change when a training is resumed


class Progress(NamedTuple):
    """How far a training is; given to the progress callback."""

    step: int
    """Steps done."""
    steps: int
    """Steps to do."""
    crops_per_second: float
    """Speed since the last report."""
    loss: float
    """Mean of the weighted loss since the last report."""
    best_f1_mean: float
    """Highest mean F1 on the validation images so far; nan before the first validation."""


class Trained(NamedTuple):
    """What a training gave."""

    folder: Path
    """Folder of the best model, as `load_model` takes it."""
    best_f1_mean: float
    """Its mean F1 on the validation images, pooled."""
    best_step: int
    """The step it was saved at; 0 where no step was better than the model that the training went on from."""
    before: tuple[Figure, ...]
    """Figures of the model that the training went on from, on the validation images; empty for a new network."""
    after: tuple[Figure, ...]
    """Figures of the best model, on the same images."""


def train(
    samples: Division,
    model: ModelConfig | Model | Taught,
    config: TrainConfig,
    output: str | Path,
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a model, from scratch or from the weights of another (the paper's section 2.5).

    Going on from a model, its own figures are taken first: what is best is never worse on the validation images. In
    `output` it keeps `best/` and `last/` (models as `load_model` takes them), `checkpoint.pt` (to go on from),
    `log.jsonl` and, where TensorBoard is installed, its event files.

    Parameters
    ----------
    samples : Division
        Images to learn from and images to choose the best weights by.
    model : ModelConfig or Model or Taught
        What to train: a configuration starts from random weights, a model from its own; either may have a teacher.
        Name, licence and thresholds are saved with the weights.
    config : TrainConfig
    output : str or Path
        Folder; made if missing.
    device : {'auto', 'cpu', 'cuda', 'mps'}
    resume : bool
        Go on from `output`'s checkpoint, if there is one. On a CPU in float32 the result is the same as without
        the interruption.
    progress : callable, optional
        Called now and then with a `Progress`.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        If there is nothing to learn from or to validate with, the model has two targets (a sample has the mask of
        one), the teacher's fields are of another kind, `output` holds another training and `resume` is False, or the
        checkpoint was made with other settings or images.
    """
    folder = Path(output)
    start, teacher = model if isinstance(model, Taught) else (model, None)
    _check(samples, start if isinstance(start, ModelConfig) else start.config, teacher)
    if (folder / CHECKPOINT).exists() and not resume:
        raise ValueError(
            f"output {str(folder)!r} holds a training already; go on with --resume (resume=True in Python), or give "
            f"another folder"
        )
    run = _Run(start, config, choose_device(device), samples, teacher)
    if resume and (folder / CHECKPOINT).exists():
        run.load(folder / CHECKPOINT)
    description = Description(start, config, samples.train, None if teacher is None else teacher.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with closing(Bank(samples.train, run.model_config, config, run.device, folder.parent)) as bank:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(Log(folder, run.step)) as log:
            if run.step == 0 and isinstance(start, Model):
                log.write(run.take_start(samples.val, folder))
            _learn(run, bank, samples.val, log, progress, description, folder)
    return Trained(folder / BEST, run.best, run.best_step, run.before, run.after)


def _learn(
    run: _Run,
    bank: Bank,
    val: tuple[Sample, ...],
    log: Log,
    progress: Callable[[Progress], None] | None,
    description: Description,
    folder: Path,
) -> None:
    """Take steps until the last, or until patience ends."""
    config = run.config
    since, started = Since(), time.monotonic()
    while run.goes_on():
        since.add(run.do_step(bank))
        if run.step % _LOG_EVERY == 0 or run.step == config.steps:
            report = since.report(config.batch_size)
            log.write({"step": run.step, "rate": run.rate(), **report})
            if progress is not None:
                progress(Progress(run.step, config.steps, report["crops_per_second"], report["loss"], run.best))
        if run.step % config.validate_every == 0 or run.step == config.steps:
            figures = run.validate(val)
            plain = figures_to_json(figures)
            log.write({"step": run.step, **plain, "seconds": round(time.monotonic() - started, 1)})
            saved = description.config(run.step, run.device.type, plain)
            if figures[-1].f1_mean > run.best or run.best_step < 0:
                run.best, run.best_step, run.after = figures[-1].f1_mean, run.step, figures
                save_model(run.average, saved, folder / BEST)
            save_model(run.average, saved, folder / LAST)
            run.save(folder / CHECKPOINT)
            since = Since()


def _check(samples: Division, model: ModelConfig, teacher: Model | None) -> None:
    if not samples.train or not samples.val:
        which = "train" if not samples.train else "val"
        raise ValueError(f"there are no samples with split {which!r}; training needs some of both, train and val")
    if len(model.targets) > 1:
        raise ValueError(
            f"targets is {model.targets!r}; training takes one, as a sample has the mask of one: "
            f"('nuclei',) or ('cells',)"
        )
    if teacher is None:
        return
    for name in _TAUGHT:
        own, other = getattr(model, name), getattr(teacher.config, name)
        if own != other:
            raise ValueError(f"{name} is {own!r}, and the teacher's {other!r}: fields of another kind teach nothing")


class _Run:
    """Everything that a step changes, and so all that a checkpoint holds."""

    def __init__(
        self,
        model: ModelConfig | Model,
        config: TrainConfig,
        device: torch.device,
        samples: Division,
        teacher: Model | None,
    ) -> None:
        self.judges = [sample.name for sample in samples.val]  # images to validate with
        self.lessons = sorted(f"{one.dataset}/{one.name}, {one.licence}" for one in samples.train)
        torch.manual_seed(config.seed)
        if device.type == "cpu":
            keep_freed_memory()
        self.config = config
        self.model_config = model if isinstance(model, ModelConfig) else model.config
        self.device = device
        self.model = Segmenter(self.model_config).to(device)
        if isinstance(model, Model):
            self.model.load_state_dict(model.segmenter.state_dict())
        elif teacher is not None:
            self.model.classifiers.load_state_dict(teacher.segmenter.classifiers.state_dict())
        self.teacher = None if teacher is None else _ready_teacher(teacher, device)
        self.taught_by = "" if teacher is None else checksum(teacher.segmenter)
        self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval()
        self.generator = torch.Generator(device).manual_seed(config.seed)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        self.optimizer = kind(
            self.model.parameters(), config.learning_rate, weight_decay=decay, fused=device.type == "cuda"
        )
        self.half = config.precision == "bfloat16" or (config.precision == "auto" and bfloat16_pays(device))
        self.step = 0
        self.best, self.best_step = math.nan, -1
        self.before: tuple[Figure, ...] = ()
        self.after: tuple[Figure, ...] = ()
        if config.compile:
            self.model.network.compile()

    def goes_on(self) -> bool:
        """Tell whether there is a step to come."""
        patience = self.config.patience * self.config.validate_every
        tired = patience > 0 and self.best_step >= 0 and self.step - self.best_step >= patience
        return self.step < self.config.steps and not tired

    def rate(self) -> float:
        """Learning rate of the step to come: warm-up and cosine for `adamw`, fixed for `adam`."""
        config = self.config
        if config.optimizer == "adam":
            return config.learning_rate
        warm = min(1.0, (self.step + 1) / min(200, max(1, config.steps // 20)))
        return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / config.steps)))

    def do_step(self, bank: Bank) -> Tensor:
        """Learn from one batch.

        Returns the seed term, the instance term and the weighted sum, shape (3,), on the device.
        """
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.model.train()
        batch = bank.draw(self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            fields = self.model.fields(batch.image.contiguous(memory_format=torch.channels_last))
        pretrain = self.step < config.pretrain_steps
        wider = 2 if self.step % 4 == 3 else 1  # so that phi also learns what lies far from a seed
        most = max(1, config.max_seeds // wider**2)  # as many pixels as in other steps
        seeds = TrainingSeeds(most, wider * config.window_px, self.generator)
        losses = batch_losses(self.model, fields, batch.labels, batch.distance, seeds, pretrain)
        total = config.seed_weight * losses.seed + config.instance_weight * losses.instance
        if self.teacher is not None:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                taught = self.teacher.fields(batch.image)
            total = total + config.teacher_weight * teacher_loss(self.teacher, fields, taught, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return torch.stack([losses.seed, losses.instance, total]).detach()

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the weights, faster at first."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([mean for mean, _ in moving], [now for _, now in moving], self.step)
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)

    def take_start(self, samples: tuple[Sample, ...], folder: Path) -> dict[str, Any]:
        """Score the weights that the training goes on from, and keep them as the best so far; gives the log's line."""
        self.before = self.after = figures = self.validate(samples)
        self.best, self.best_step = figures[-1].f1_mean, 0
        plain = figures_to_json(figures)
        start = dataclasses.replace(self.model_config, figures={"val": plain})  # nothing was learnt from the data yet
        save_model(self.average, start, folder / BEST, half=keeps_half(self.average))
        return {"step": 0, **plain}

    def validate(self, samples: tuple[Sample, ...]) -> tuple[Figure, ...]:
        """Score the averaged weights as they are saved, on whole images; all images together come last."""
        model = Model(self.model_config, self.average if self.step == 0 else in_half(self.average))
        return figures_of(evaluate_model(model, samples, SegmentOptions(device=self.device.type)))

    def save(self, path: Path) -> None:
        """Write the checkpoint beside its place and rename it into it."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "best": (self.best, self.best_step),
            "figures": json.dumps([figures_to_json(self.before), figures_to_json(self.after)]),
            "settings": self._settings(),
            "device": self.device.type,
            "judges": self.judges,
            "lessons": self.lessons,
            "taught_by": self.taught_by,
        }
        with atomic_file(path) as beside:
            torch.save(state, beside)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint, whose settings must be the same."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["device"] != self.device.type:
            raise ValueError(
                f"checkpoint {str(path)!r} was made on {state['device']}, and device is {self.device.type}: random "
                f"draws do not carry over; resume with --device {state['device']}"
            )
        if state["judges"] != self.judges:
            raise ValueError(
                f"checkpoint {str(path)!r} was made with other images to validate with ({len(state['judges'])}, now "
                f"{len(self.judges)}), so its best figure does not compare; give the same data, or another output"
            )
        if state.get("lessons", self.lessons) != self.lessons:
            raise ValueError(
                f"checkpoint {str(path)!r} was made with other images to learn from ({len(state['lessons'])}, now "
                f"{len(self.lessons)}), or under other licences; give the same data, or another output"
            )
        if state.get("taught_by", "") != self.taught_by:
            raise ValueError(
                f"checkpoint {str(path)!r} was made with another teacher, or with none; resume with the same --teacher"
            )
        if state["settings"] != self._settings():
            differing = "; ".join(_differences(state["settings"], self._settings()))
            raise ValueError(
                f"checkpoint {str(path)!r} was made with other settings: {differing}. "
                f"Go on with its settings, or start anew in another folder"
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.step = state["step"]
        self.best, self.best_step = state["best"]
        self.before, self.after = (figures_from_json(plain) for plain in json.loads(state["figures"]))

    def _settings(self) -> str:
        """Give, as JSON, what must be the same for a training to go on; memory and patience change no step."""
        steps = {name: value for name, value in self.config.to_dict().items() if name not in _FREE}
        return json.dumps([self.model_config.to_dict(), steps], sort_keys=True)


def _ready_teacher(teacher: Model, device: torch.device) -> Segmenter:
    """Copy a teacher onto the device, ready to run."""
    ready = copy.deepcopy(teacher.segmenter).to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        ready.network.join()
    else:
        ready.network.fold()
    ready.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready


def _differences(there: str, here: str) -> Iterator[str]:
    """Tell which settings of two `_Run._settings` differ, and how."""
    for old, new in zip(json.loads(there), json.loads(here), strict=True):
        for name in sorted(old.keys() | new.keys()):
            values = [str(settings.get(name, "unknown")) for settings in (old, new)]
            if values[0] != values[1]:
                was, now = (value if len(value) <= 60 else value[:57] + "..." for value in values)
                yield f"{name} was {was}, now {now}"
