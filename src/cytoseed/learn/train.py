"""Training: one loop for any device, validated by `segment` itself, and exactly resumable on a CPU."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from cytoseed.core.model import Segmenter
from cytoseed.learn.augment import CropSampler
from cytoseed.learn.checkpoint import checkpoint_errors, find_difference, read_checkpoint, write_checkpoint
from cytoseed.learn.distil import teacher_loss
from cytoseed.learn.evaluate import Accuracy, accuracies_from_json, accuracies_to_json, evaluate_model
from cytoseed.learn.loss import TrainingSeeds, batch_losses
from cytoseed.learn.samples import TrainValSplit
from cytoseed.learn.settings import TrainConfig
from cytoseed.learn.train_log import Provenance, TrainLog
from cytoseed.models.weights import Model, checksum, in_half, keeps_half, save_model
from cytoseed.run.engine import bfloat16_is_fast, choose_device, keep_freed_memory
from cytoseed.run.slide import full_disk_errors
from cytoseed.settings import ModelConfig, SegmentOptions

CHECKPOINT = "checkpoint.pt"
BEST, LAST = "best", "last"
_LOG_EVERY = 20
_CHECKPOINT_SECONDS = 60.0  # longest part of a training run that is lost when its process ends
_SHARED_WITH_TEACHER = (
    *("channels", "targets", "positional_dims", "conditional_dims", "classifier_widths"),
    *("grid_step", "offset_limit", "pixel_size_um"),
)
_MAY_CHANGE_ON_RESUME = ("memory_gb", "patience", "compile")


class TrainProgress(NamedTuple):
    """Progress of a training run, for the progress callback."""

    step: int  # steps done
    steps: int  # total number of steps
    crops_per_second: float  # speed since the last report
    loss: float  # mean of the weighted loss since the last report
    best_f1_mean: float  # highest mean F1 on the validation images so far; nan before the first validation


class TrainResult(NamedTuple):
    """Outcome of a training run."""

    folder: Path  # folder of the best model, as `load_model` takes it
    best_f1_mean: float  # its pooled mean F1 on the validation images
    best_step: int  # the step it was saved at; 0 if no step was better than the model that the training started from
    before: tuple[Accuracy, ...]  # accuracy of the starting model on the validation images; empty for a new network
    after: tuple[Accuracy, ...]  # accuracy of the best model on the same images


def train(  # noqa: PLR0913 - arguments of one run; the settings of training are in `config`
    samples: TrainValSplit,
    model: ModelConfig | Model,
    config: TrainConfig,
    output: str | Path,
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[TrainProgress], None] | None = None,
    *,
    teacher: Model | None = None,
) -> TrainResult:
    """Train a model from random weights (a `ModelConfig`) or from those of another (a `Model`); section 2.5.

    Writes `best/` and `last/` (models), `checkpoint.pt`, `log.jsonl` and, with TensorBoard installed, its event files
    into `output`. A `Model` is scored first, so the best model is never worse than it on the validation images. With a
    `teacher` the fields also approach the teacher's; a new network starts from its pixel classifiers. Mistakes are
    `ValueError`s.
    """
    folder = Path(output)
    _check(samples, model if isinstance(model, ModelConfig) else model.config, teacher)
    if (folder / CHECKPOINT).exists() and not resume:
        raise ValueError(f"output {str(folder)!r} holds a training run; continue it with --resume, or give another")
    trainer = _Trainer(model, config, choose_device(device), samples, teacher, folder)
    if resume and (folder / CHECKPOINT).exists():
        trainer.load()
    with full_disk_errors(folder, "make room, then continue with --resume (resume=True in Python)"):
        _run(trainer, progress)
    return TrainResult(folder / BEST, trainer.best, trainer.best_step, trainer.before, trainer.after)


def _run(trainer: _Trainer, progress: Callable[[TrainProgress], None] | None) -> None:
    """Train from the trainer's step to the end, with validations, log and checkpoints."""
    folder, config = trainer.folder, trainer.config
    folder.parent.mkdir(parents=True, exist_ok=True)
    sampler = CropSampler(trainer.provenance.samples, trainer.model_config, config, trainer.device, folder.parent)
    with closing(sampler), closing(TrainLog(folder, trainer.step)) as log:
        if not sampler.objects:
            raise ValueError("the masks to train on hold no objects; outline the nuclei in some of the images")
        if trainer.step == 0 and trainer.provenance.start is not None:
            log.write(trainer.score_start())
        started = since = saved_at = time.monotonic()
        losses: list[Tensor] = []  # since the last report
        while trainer.step < config.steps and not trainer.patience_exhausted():
            losses.append(trainer.train_step(sampler))
            is_last = trainer.step == config.steps
            if trainer.step % _LOG_EVERY == 0 or is_last:
                seed, instance, loss = torch.stack(losses).mean(0).tolist()
                speed = round(len(losses) * config.batch_size / (time.monotonic() - since), 1)
                losses, since = [], time.monotonic()
                report = {"seed": seed, "instance": instance, "loss": loss, "crops_per_second": speed}
                log.write({"step": trainer.step, "rate": trainer.learning_rate(), **report})
                if progress is not None:
                    progress(TrainProgress(trainer.step, config.steps, speed, loss, trainer.best))
            if trainer.step % config.validate_every == 0 or is_last:
                plain = trainer.validate_and_save()
                log.write({"step": trainer.step, **plain, "seconds": round(time.monotonic() - started, 1)})
                losses, since = [], time.monotonic()
            elif losses or time.monotonic() - saved_at < _CHECKPOINT_SECONDS:
                continue  # between two reports, whose mean would not be the same after a resume
            trainer.save()
            saved_at = time.monotonic()


def _check(samples: TrainValSplit, model: ModelConfig, teacher: Model | None) -> None:
    for split, members in samples._asdict().items():
        if not members:
            raise ValueError(f"there are no samples with split {split!r}; training needs some of both, train and val")
    for name in _SHARED_WITH_TEACHER:
        own, other = getattr(model, name), getattr(model if teacher is None else teacher.config, name)
        if own != other:
            raise ValueError(f"{name} is {own!r}, and the teacher's {other!r}; choose a teacher with the same, or none")


class _Trainer:
    """State of a training run: everything that a step changes, which is also what a checkpoint holds."""

    def __init__(
        self,
        model: ModelConfig | Model,
        config: TrainConfig,
        device: torch.device,
        samples: TrainValSplit,
        teacher: Model | None,
        folder: Path,
    ) -> None:
        self.folder, self.val = folder, samples.val
        start = model.config if isinstance(model, Model) else None
        self.provenance = Provenance(start, None if teacher is None else teacher.config, config, samples.train)
        torch.manual_seed(config.seed)
        if device.type == "cpu":
            keep_freed_memory()
        self.config = config
        self.model_config = model if isinstance(model, ModelConfig) else model.config
        fixed = {name: value for name, value in config.to_dict().items() if name not in _MAY_CHANGE_ON_RESUME}
        self.identity: dict[str, Any] = {  # must be the same on resuming
            "settings": json.dumps([self.model_config.to_dict(), fixed], sort_keys=True),
            "device": device.type,
            "judges": [sample.name for sample in samples.val],
            "lessons": sorted(f"{one.dataset}/{one.name}, {one.licence}" for one in samples.train),
            "taught_by": "" if teacher is None else checksum(teacher.segmenter),
        }
        self.device = device
        self.model = Segmenter(self.model_config).to(device)
        if isinstance(model, Model):
            self.model.load_state_dict(model.segmenter.state_dict())
        elif teacher is not None:
            self.model.classifiers.load_state_dict(teacher.segmenter.classifiers.state_dict())
        self.teacher = None if teacher is None else _prepare_teacher(teacher, device)
        self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.model).eval()
        self.generator = torch.Generator(device).manual_seed(config.seed)
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        decay = config.weight_decay if config.optimizer == "adamw" else 0.0
        fused = device.type == "cuda"
        self.optimizer = kind(self.model.parameters(), config.learning_rate, weight_decay=decay, fused=fused)
        self.half = config.precision == "bfloat16" or (config.precision == "auto" and bfloat16_is_fast(device))
        self.step = 0
        self.best, self.best_step = math.nan, -1
        self.before: tuple[Accuracy, ...] = ()
        self.after: tuple[Accuracy, ...] = ()
        if config.compile:
            self.model.network.compile()

    def patience_exhausted(self) -> bool:
        """Whether the last `patience` validations brought no better model."""
        patience = self.config.patience * self.config.validate_every
        return patience > 0 and self.best_step >= 0 and self.step - self.best_step >= patience

    def learning_rate(self) -> float:
        """Learning rate of the next step: warm-up and cosine for `adamw`, constant for `adam`."""
        config = self.config
        if config.optimizer == "adam":
            return config.learning_rate
        warm = min(1.0, (self.step + 1) / min(200, max(1, config.steps // 20)))
        return config.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.step / config.steps)))

    def train_step(self, sampler: CropSampler) -> Tensor:
        """Train on one batch; returns seed term, instance term and weighted sum, (3,), on the device."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        batch = sampler.draw(self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            fields = self.model.fields(batch.image.contiguous(memory_format=torch.channels_last))
        pretrain = self.step < config.pretrain_steps
        wider = 2 if self.step % 4 == 3 else 1  # so that phi is also trained far from a seed
        max_seeds = max(1, config.max_seeds // wider**2)  # the same number of pixels as in other steps
        seeds = TrainingSeeds(max_seeds, wider * config.window_px, self.generator)
        losses = batch_losses(self.model, fields, batch.labels, batch.distance, seeds, pretrain)
        total = config.seed_weight * losses.seed + config.instance_weight * losses.instance
        if self.teacher is not None:
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                target = self.teacher.fields(batch.image)
            total = total + config.teacher_weight * teacher_loss(self.teacher, fields, target, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if config.clip_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return torch.stack([losses.seed, losses.instance, total]).detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the averaged weights towards the current ones, faster in early steps."""
        decay = min(self.config.average_decay, (1 + self.step) / (10 + self.step))
        pairs = list(zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average([mean for mean, _ in floating], [now for _, now in floating], self.step)
        for mean, now in pairs:
            if not mean.is_floating_point():
                mean.copy_(now)

    def score_start(self) -> dict[str, Any]:
        """Score the starting weights and save them as the best so far; returns the line for the log."""
        self.before = self.after = accuracies = self.validate()
        self.best, self.best_step = accuracies[-1].f1_mean, 0
        plain = accuracies_to_json(accuracies)
        start = dataclasses.replace(self.model_config, figures={"val": plain})  # not trained on the new data yet
        save_model(self.average, start, self.folder / BEST, half=keeps_half(self.average))
        return {"step": 0, **plain}

    def validate_and_save(self) -> dict[str, Any]:
        """Score the averaged weights and save them, also as the best if they are; returns the figures for the log."""
        accuracies = self.validate()
        plain = accuracies_to_json(accuracies)
        saved = self.provenance.describe(self.model_config, self.step, self.device.type, plain)
        if accuracies[-1].f1_mean > self.best or self.best_step < 0:
            self.best, self.best_step, self.after = accuracies[-1].f1_mean, self.step, accuracies
            save_model(self.average, saved, self.folder / BEST)
        save_model(self.average, saved, self.folder / LAST)
        return plain

    def validate(self) -> tuple[Accuracy, ...]:
        """Accuracy of the averaged weights, as they are saved, on whole images."""
        model = Model(self.model_config, self.average if self.step == 0 else in_half(self.average))
        return evaluate_model(model, self.val, SegmentOptions(device=self.device.type)).accuracies

    def save(self) -> None:
        """Write the checkpoint. Its keys are part of the file format and keep their names."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "best": (self.best, self.best_step),
            "figures": json.dumps([accuracies_to_json(self.before), accuracies_to_json(self.after)]),
            **self.identity,
        }
        write_checkpoint(self.folder / CHECKPOINT, state)

    def load(self) -> None:
        """Restore a checkpoint that was made with the same settings and images."""
        path = self.folder / CHECKPOINT
        state = read_checkpoint(path, self.device)
        with checkpoint_errors(path):
            difference = find_difference({"taught_by": "", **state}, self.identity)
        if difference:
            raise ValueError(f"checkpoint {str(path)!r} was made {difference}")
        with checkpoint_errors(path):
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"].cpu())
            self.step = state["step"]
            self.best, self.best_step = state["best"]
            self.before, self.after = (accuracies_from_json(plain) for plain in json.loads(state["figures"]))


def _prepare_teacher(teacher: Model, device: torch.device) -> Segmenter:
    """Copy of a teacher on the device, optimised for inference."""
    prepared = copy.deepcopy(teacher.segmenter).to(device).eval().requires_grad_(False)
    if device.type == "cpu":
        prepared.network.fuse_upsampling()
    else:
        prepared.network.fold()
    prepared.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return prepared
