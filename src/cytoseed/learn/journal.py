"""What a training leaves to read: its log, its figures, the configuration of the models that it saves."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from cytoseed.learn.datasets import find_note
from cytoseed.learn.evaluate import Evaluation
from cytoseed.learn.metrics import ImageScore
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import Model
from cytoseed.paths import write_bytes
from cytoseed.settings import DatasetNote, ModelConfig, TrainConfig, is_non_commercial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
_UNKNOWN = "not stated"


class Figure(NamedTuple):
    """Accuracy on a kind of images, each value in [0, 1]."""

    name: str
    """Data set and modality; `all` for all images together."""
    f1: float
    """F1 at IoU 0.5."""
    f1_mean: float
    """Mean F1 over IoU 0.5 to 0.9."""
    aji: float
    """Aggregated Jaccard index."""


def figures_of(result: Evaluation) -> tuple[Figure, ...]:
    """Pooled figures of each group, rounded to four digits, and of all images together, which come last."""
    groups = [(" ".join(key), group) for key, group in result.groups.items()]
    return tuple(_figure(name, group) for name, group in [*groups, ("all", result.pooled)])


def _figure(name: str, score: ImageScore) -> Figure:
    return Figure(name, round(score.f1, 4), round(score.f1_mean, 4), round(score.aji, 4))


def figures_to_json(figures: tuple[Figure, ...]) -> dict[str, Any]:
    """Plain values for a log or a configuration: those of all images on top, groups by name."""
    if not figures:
        return {}
    plain = {f.name: {"f1": f.f1, "f1_mean": f.f1_mean, "aji": f.aji} for f in figures}
    return {**plain.pop("all"), **plain}


def figures_from_json(values: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Read back what `figures_to_json` gave."""
    if not values:
        return ()
    groups = {name: group for name, group in values.items() if isinstance(group, Mapping)}
    top = {name: value for name, value in values.items() if name not in groups}
    return tuple(Figure(name, **group) for name, group in [*groups.items(), ("all", top)])


class Since:
    """Losses and time since the last report."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._start = time.monotonic()

    def add(self, losses: Tensor) -> None:
        """Take the seed term, the instance term and the weighted sum of a step, (3,), on any device."""
        self._losses.append(losses)

    def report(self, batch_size: int) -> dict[str, float]:
        """Means since the last report, and the speed; starts anew."""
        seed, instance, total = torch.stack(self._losses).mean(0).tolist()
        speed = len(self._losses) * batch_size / (time.monotonic() - self._start)
        self.__init__()  # type: ignore[misc]
        return {"seed": seed, "instance": instance, "loss": total, "crops_per_second": round(speed, 1)}


class Log:
    """Lines of JSON, and TensorBoard where it is installed; what was logged after the checkpoint is dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / LOG
        old = path.read_text().split("\n")[:-1] if step > 0 and path.exists() else []  # a kill may leave half a line
        write_bytes(path, ("".join(line + "\n" for line in old if json.loads(line)["step"] <= step)).encode())
        self._file = path.open("a")
        self._board: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=step + 1)
        except ImportError:
            pass

    def write(self, values: dict[str, Any]) -> None:
        """Add a line, and its numbers to TensorBoard's."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """End the log."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class Description:
    """What is written into the configuration of the models that a training saves."""

    def __init__(
        self,
        model: ModelConfig | Model,
        config: TrainConfig,
        samples: tuple[Sample, ...],
        teacher: ModelConfig | None = None,
    ) -> None:
        self._model_config = model if isinstance(model, ModelConfig) else model.config
        self._config = config
        known = {note.name: note for note in self._model_config.trained_on}
        notes = {} if isinstance(model, ModelConfig) else dict(known)  # the data behind the weights stay behind them
        self._teacher = teacher
        for note in () if teacher is None else teacher.trained_on:  # and so do those that its teacher learnt from
            known.setdefault(note.name, note)
            notes.setdefault(note.name, note)
        for name, own in groupby(sorted(samples, key=_dataset), key=_dataset):
            members = list(own)
            before = notes[name].images if name in notes else 0
            stated = strictest([sample.licence or _UNKNOWN for sample in members])
            note = known.get(name) or find_note(name) or DatasetNote(name, stated)
            if is_non_commercial(stated):
                note = dataclasses.replace(note, licence=stated)
            notes[name] = dataclasses.replace(note, images=max(len(members), before))
        self._notes = tuple(notes[name] for name in sorted(notes))
        self._stages = [] if isinstance(model, ModelConfig) else model.config.stages

    def config(self, step: int, device: str, figures: Mapping[str, Any]) -> ModelConfig:
        """Complete the configuration with licence, data, recipe and validation figures."""
        stage = {**self._config.to_dict(), "step": step, "device": device}
        licences = [self._model_config.licence, *(note.licence for note in self._notes)]
        if self._teacher is not None:
            stage["teacher"] = f"{self._teacher.name} {self._teacher.sha256 or ''}".strip()
            licences.append(self._teacher.licence)
        return dataclasses.replace(
            self._model_config,
            licence=strictest(licences),
            trained_on=self._notes,
            recipe={"stages": [*self._stages, stage]},
            figures={"val": dict(figures)},
        )


def _dataset(sample: Sample) -> str:
    return sample.dataset


def strictest(licences: Sequence[str]) -> str:
    """Of several licences one that binds them all: a non-commercial one, else an unknown one, else the first."""
    bound = [licence for licence in licences if is_non_commercial(licence)]
    return bound[0] if bound else _UNKNOWN if _UNKNOWN in licences else licences[0]
