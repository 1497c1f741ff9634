"""Log of a training run (log.jsonl and TensorBoard), and the origin of its models as stated in their config.json."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoseed.learn.datasets import find_note
from cytoseed.learn.samples import Sample
from cytoseed.learn.settings import TrainConfig
from cytoseed.paths import write_bytes
from cytoseed.settings import DatasetNote, ModelConfig, is_non_commercial

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
_NOT_STATED = "not stated"


class TrainLog:
    """Appends to log.jsonl, and to TensorBoard if installed; lines after `step`, the checkpoint's, are dropped."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / LOG
        old = path.read_bytes().split(b"\n")[:-1] if step > 0 and path.exists() else []  # the last may be incomplete
        try:
            kept = [line + b"\n" for line in old if json.loads(line)["step"] <= step]
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise ValueError(f"{path} holds a line that no training wrote; move the file away to resume") from error
        write_bytes(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board: SummaryWriter | None = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=step + 1)
        self._excepthook, threading.excepthook = threading.excepthook, self._report

    def _report(self, failed: threading.ExceptHookArgs) -> None:
        """Leave a full disk in TensorBoard's thread to the next `write`, which raises that error too."""
        if not isinstance(failed.exc_value, OSError):
            self._excepthook(failed)

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
        threading.excepthook = self._excepthook
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
        notes = self._dataset_notes()
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

    def _dataset_notes(self) -> tuple[DatasetNote, ...]:
        """Data sets behind the weights: of the teacher, of the model that is continued, of the samples."""
        configs = [config for config in (self.teacher, self.start) if config is not None]
        notes = {note.name: note for config in configs for note in config.trained_on}
        for name in {sample.dataset for sample in self.samples}:
            licences = [sample.licence or _NOT_STATED for sample in self.samples if sample.dataset == name]
            stated = strictest_licence(licences)
            note = notes.get(name) or find_note(name) or DatasetNote(name, stated)
            licence = stated if is_non_commercial(stated) else note.licence
            notes[name] = dataclasses.replace(note, licence=licence, images=max(len(licences), note.images))
        return tuple(notes[name] for name in sorted(notes))


def strictest_licence(licences: Sequence[str]) -> str:
    """The first non-commercial licence, else `not stated` if it occurs, else the first one."""
    otherwise = _NOT_STATED if _NOT_STATED in licences else licences[0]
    return next((licence for licence in licences if is_non_commercial(licence)), otherwise)
