"""The log of a training (log.jsonl and TensorBoard), and the origin of its models as stated in their config.json."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoseed.learn.datasets import find_note
from cytoseed.learn.samples import Sample
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


@dataclass(frozen=True)
class Provenance:
    """Origin of the models that one training saves."""

    start: ModelConfig | None  # the model that the training continues
    teacher: ModelConfig | None
    recipe: TrainConfig
    samples: Sequence[Sample]

    def describe(self, model: ModelConfig, step: int, device: str, figures: Mapping[str, Any]) -> ModelConfig:
        """Model configuration with licence, data sets, recipe and validation figures."""
        stage = {**self.recipe.to_dict(), "step": step, "device": device}
        notes = self._dataset_notes(model)
        licences = [model.licence, *(note.licence for note in notes)]
        if self.teacher is not None:
            stage["teacher"] = f"{self.teacher.name} {self.teacher.sha256 or ''}".strip()
            licences.append(self.teacher.licence)
        return dataclasses.replace(
            model,
            licence=strictest_licence(licences),
            trained_on=notes,
            recipe={"stages": [*(self.start.stages if self.start else ()), stage]},
            figures={"val": dict(figures)},
        )

    def _dataset_notes(self, model: ModelConfig) -> tuple[DatasetNote, ...]:
        """Data sets behind the weights: of the teacher, of the model that is continued, of the samples."""
        notes = {
            note.name: note for config in (self.teacher, self.start) if config is not None for note in config.trained_on
        }
        known = notes | {note.name: note for note in model.trained_on}
        by_dataset = attrgetter("dataset")
        for name, group in groupby(sorted(self.samples, key=by_dataset), key=by_dataset):
            members = list(group)
            images_before = notes[name].images if name in notes else 0
            stated = strictest_licence([sample.licence or _NOT_STATED for sample in members])
            note = known.get(name) or find_note(name) or DatasetNote(name, stated)
            if is_non_commercial(stated):
                note = dataclasses.replace(note, licence=stated)
            notes[name] = dataclasses.replace(note, images=max(len(members), images_before))
        return tuple(notes[name] for name in sorted(notes))


def strictest_licence(licences: Sequence[str]) -> str:
    """The first non-commercial licence, else `not stated` if it occurs, else the first one."""
    non_commercial = [licence for licence in licences if is_non_commercial(licence)]
    if non_commercial:
        return non_commercial[0]
    return _NOT_STATED if _NOT_STATED in licences else licences[0]
