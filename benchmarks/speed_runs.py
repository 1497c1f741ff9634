"""Methods run side by side, each in a process of its own, in turns; every measurement is a line of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from speed_images import Files

ADAPTERS = Path(__file__).resolve().parent / "peers"
STAGES = ("seeds", "maps", "merge", "pieces")
_PAUSE_S = 0.1  # between two runs: threads of the last one that wait actively go to sleep
_WARM_PX = 1 << 21  # larger images have no run to warm up: what happens once is a small part of their time


class Method(NamedTuple):
    """One way to segment, and how to start it."""

    name: str
    """As in the tables."""
    python: Path
    adapter: str
    """Name of a file in `ADAPTERS`, or a path."""
    settings: Mapping[str, str]
    """Fields of `speed_adapter.Settings`."""
    is_slow: bool = False
    """Takes fewer rounds."""

    @property
    def is_ours(self) -> bool:
        return self.adapter == "speed_ours.py"


class Section(NamedTuple):
    """Methods and images that are run in turns."""

    name: str
    images: Sequence[Files]
    methods: Sequence[Method]
    rounds: int
    slow_rounds: int
    threads: int = 2
    device: str = "cpu"
    each_alone: bool = False
    """Every pair of method and image in a fresh process, without a run to warm up: for memory."""

    def todo(self, ledger: Ledger, method: Method, image: Files) -> list[int]:
        """Rounds that are not measured yet; peers run only on images that have fields."""
        if not method.is_ours and image.fields is None:
            return []
        rounds = range(self.slow_rounds if method.is_slow else self.rounds)
        done = {record.round for record in ledger.of(self.name, method.name, image.name, self.threads)}
        return [number for number in rounds if number not in done]


@dataclasses.dataclass(frozen=True)
class Record:
    """One run."""

    section: str
    threads: int
    method: str
    image: str
    round: int
    total_s: float
    network_s: float
    peak_bytes: int
    objects: int
    prepare_s: float | None = None
    """None where stages ran side by side; `post_s` too."""
    post_s: float | None = None
    f1: float | None = None
    """F1 at IoU 0.5; only in the first round."""
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Ledger:
    """All measurements so far, in a file of JSON lines; a line that a kill cut is ignored.

    A file that was begun on another machine is refused with a ValueError.
    """

    def __init__(self, path: Path, machine: Mapping[str, str]) -> None:
        self._path = path
        self.machine = dict(machine)
        self.versions: dict[str, str] = {}
        self.records: list[Record] = []
        self.images: dict[str, dict[str, int]] = {}
        """Side in px, channels and true objects of each image."""
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                self._take(json.loads(line))
        if self.machine["processor"] != machine["processor"]:
            raise ValueError(f"{path} holds figures of {self.machine['processor']}; begin anew with --fresh")
        path.parent.mkdir(parents=True, exist_ok=True)
        if text and not text.endswith("\n"):
            path.write_text(f"{text}\n", encoding="utf-8")
        if not text:
            self.add(machine=self.machine)

    def add(self, **line: Mapping[str, Any]) -> None:
        """Add `record`, `versions`, `images` or `machine`, and write it down."""
        self._take(line)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def of(self, section: str, method: str = "", image: str = "", threads: int = 0) -> list[Record]:
        """Records of a section; of one method, image or number of threads where given."""
        return [
            record
            for record in self.records
            if record.section == section
            and method in ("", record.method)
            and image in ("", record.image)
            and threads in (0, record.threads)
        ]

    def methods_of(self, section: str) -> list[str]:
        """Methods of a section, in order of appearance."""
        return list(dict.fromkeys(record.method for record in self.of(section)))

    def images_of(self, section: str) -> list[str]:
        """Images of a section, in order of appearance."""
        return list(dict.fromkeys(record.image for record in self.of(section)))

    def median(self, field: str, *which: Any) -> float:
        """Median of a field or stage over records, chosen as by `of`; NaN where nothing is known."""
        known = [
            record.stages.get(field, 0.0) if field in STAGES else getattr(record, field) for record in self.of(*which)
        ]
        known = [value for value in known if value is not None]
        return float(statistics.median(known)) if known else float("nan")

    def _take(self, line: Mapping[str, Any]) -> None:
        if "record" in line:
            self.records.append(Record(**line["record"]))
        for name in ("versions", "images", "machine"):
            getattr(self, name).update(line.get(name, {}))


class Worker:
    """A method's process; `log` receives everything it prints but its answers."""

    def __init__(self, method: Method, section: Section, log: IO[str]) -> None:
        self.method = method
        settings = {"threads": section.threads, "device": section.device, **method.settings}
        words = [str(method.python), str(ADAPTERS / method.adapter), json.dumps(settings)]
        self._log = log
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        with _bound_to(section.threads if section.device == "cpu" else 0):
            self._process = subprocess.Popen(words, env=_environment(section), **pipes)
        self.versions: Mapping[str, str] = {}

    def __enter__(self) -> Worker:
        try:
            self.versions = self._read()["versions"]
        except RuntimeError:
            self._process.communicate()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # ends its input, and waits

    def ask(self, image: Files, labels: Path | None = None) -> dict[str, Any]:
        """Segment one image; a RuntimeError with the method's own words if it fails."""
        paths = {"image": image.image, "truth": image.truth, "fields": image.fields, "labels": labels}
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_read` notices
            self._process.stdin.write(json.dumps({key: str(path) for key, path in paths.items() if path}) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        reply: dict[str, Any] = json.loads(line) if line else {"error": f"it ended with {self._process.wait()}"}
        if "error" in reply:
            raise RuntimeError(f"{self.method.name}: {reply['error']}; see {self._log.name}")
        return reply


def run(section: Section, ledger: Ledger, folder: Path, say: Callable[[str], None]) -> None:
    """Measure what the ledger lacks; `folder` holds labels and logs, `say` receives a line per run."""
    if section.each_alone:
        for image in section.images:
            for method in section.methods:
                _run_together(section._replace(images=[image], methods=[method]), ledger, folder, say)
    else:
        _run_together(section, ledger, folder, say)


def _run_together(section: Section, ledger: Ledger, folder: Path, say: Callable[[str], None]) -> None:
    """Run image by image and round by round every method, one after the other."""
    with contextlib.ExitStack() as stack:
        workers = []
        for method in section.methods:
            if any(section.todo(ledger, method, image) for image in section.images):
                worker = stack.enter_context(Worker(method, section, stack.enter_context(_log(folder, method))))
                workers.append(worker)
                ledger.add(versions=worker.versions)
        warm: set[tuple[str, int, int]] = set()
        for image in section.images:
            for number in range(section.rounds):
                for worker in workers:
                    if number not in section.todo(ledger, worker.method, image):
                        continue
                    kind = (worker.method.name, image.side, image.channels)
                    if not section.each_alone and kind not in warm and image.side**2 <= _WARM_PX:
                        worker.ask(image)
                    warm.add(kind)
                    time.sleep(_PAUSE_S)
                    record = _measure(section, worker, image, number, folder)
                    ledger.add(images={image.name: _facts(image)})
                    ledger.add(record=dataclasses.asdict(record))
                    say(f"{section.name:8} {record.image:6} {record.round}  {record.total_s:8.3f} s  {record.method}")


def _measure(section: Section, worker: Worker, image: Files, number: int, folder: Path) -> Record:
    from cytoseed.learn.metrics import score

    labels = folder / "labels.npy" if number == 0 else None
    reply = worker.ask(image, labels)
    f1 = score(np.load(labels), np.load(image.truth)).f1 if labels else None
    return Record(section.name, section.threads, worker.method.name, image.name, number, f1=f1, **reply)


def _facts(image: Files) -> dict[str, int]:
    return {"side": image.side, "channels": image.channels, "objects": image.objects}


def _environment(section: Section) -> dict[str, str]:
    own = {f"{name}_NUM_THREADS": str(section.threads) for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    own |= {f"TF_NUM_{kind}_THREADS": str(section.threads) for kind in ("INTRAOP", "INTEROP")}
    own |= {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONUNBUFFERED": "1"}
    if section.device == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    return os.environ | own


@contextlib.contextmanager
def _bound_to(count: int) -> Iterator[None]:
    """Bind processes started within to `count` cores, 0 for all: no method can use more threads than these run."""
    cores = os.sched_getaffinity(0) if count and hasattr(os, "sched_getaffinity") else set()
    if not cores:
        yield
        return
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _log(folder: Path, method: Method) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    name = "".join(letter if letter.isalnum() else "-" for letter in method.name)
    return (folder / f"{name}.log").open("a", encoding="utf-8")
