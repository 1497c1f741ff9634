"""The log of a training (log.jsonl and TensorBoard), and what its models' config.json says of their origin."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoseed.learn.datasets import find_note
from cytoseed.learn.samples import Sample
from cytoseed.models.weights import Model
from cytoseed.paths import write_bytes
from cytoseed.settings import DatasetNote, ModelConfig, TrainConfig, is_non_commercial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
_NOT_STATED = "not stated"


class TrainLog:
    """Appends to log.jsonl, and to TensorBoard if installed; lines after `step`, the checkpoint's, are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / LOG
        old = path.read_text().split("\n")[:-1] if step > 0 and path.exists() else []  # the last may be incomplete
        kept = [line + "\n" for line in old if json.loads(line)["step"] <= step]
        write_bytes(path, "".join(kept).encode())
        self._file = path.open("a")
        self._board: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=step + 1)
        except ImportError:
            pass

    def write(self, values: dict[str, Any]) -> None:
        """Append a line; its floats also go to TensorBoard."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class Provenance:
    """Licence, data sets and recipe of the models that one training saves."""

    def __init__(
        self,
        model: ModelConfig | Model,
        config: TrainConfig,
        samples: Sequence[Sample],
        teacher: ModelConfig | None = None,
    ) -> None:
        self._model_config = model if isinstance(model, ModelConfig) else model.config
        self._config = config
        self._teacher = teacher
        self._stages = [] if isinstance(model, ModelConfig) else model.config.stages
        self._notes = _dataset_notes(model, samples, teacher)

    def config(self, step: int, device: str, figures: Mapping[str, Any]) -> ModelConfig:
        """Model configuration with licence, data sets, recipe and validation figures."""
        stage = {**self._config.to_dict(), "step": step, "device": device}
        licences = [self._model_config.licence, *(note.licence for note in self._notes)]
        if self._teacher is not None:
            stage["teacher"] = f"{self._teacher.name} {self._teacher.sha256 or ''}".strip()
            licences.append(self._teacher.licence)
        return dataclasses.replace(
            self._model_config,
            licence=strictest_licence(licences),
            trained_on=self._notes,
            recipe={"stages": [*self._stages, stage]},
            figures={"val": dict(figures)},
        )


def strictest_licence(licences: Sequence[str]) -> str:
    """The first non-commercial licence, else `not stated` if it occurs, else the first one."""
    non_commercial = [licence for licence in licences if is_non_commercial(licence)]
    if non_commercial:
        return non_commercial[0]
    return _NOT_STATED if _NOT_STATED in licences else licences[0]


def _dataset_notes(
    model: ModelConfig | Model, samples: Sequence[Sample], teacher: ModelConfig | None
) -> tuple[DatasetNote, ...]:
    """Data sets behind the weights: of the samples, of the model that the training continues, of the teacher."""
    model_config = model if isinstance(model, ModelConfig) else model.config
    known = {note.name: note for note in model_config.trained_on}
    notes = {} if isinstance(model, ModelConfig) else dict(known)
    for note in () if teacher is None else teacher.trained_on:
        known.setdefault(note.name, note)
        notes.setdefault(note.name, note)
    by_dataset = attrgetter("dataset")
    for name, group in groupby(sorted(samples, key=by_dataset), key=by_dataset):
        members = list(group)
        images_before = notes[name].images if name in notes else 0
        stated = strictest_licence([sample.licence or _NOT_STATED for sample in members])
        note = known.get(name) or find_note(name) or DatasetNote(name, stated)
        if is_non_commercial(stated):
            note = dataclasses.replace(note, licence=stated)
        notes[name] = dataclasses.replace(note, images=max(len(members), images_before))
    return tuple(notes[name] for name in sorted(notes))
