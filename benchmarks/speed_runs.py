"""Methods run side by side: each in a process of its own, asked in turn, and what was measured kept line by line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from speed_images import Files

ADAPTERS = Path(__file__).resolve().parent / "peers"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)
_PAUSE_S = 0.1  # between two runs: threads of the last one that wait actively go to sleep
_WARM_PX = 1 << 21  # of larger images the first run is counted as well: what it does once is little of its time


class Method(NamedTuple):
    """One way to segment, and how to start it."""

    name: str
    """As the tables have it."""
    python: Path
    adapter: str
    """File among `ADAPTERS`, or a path."""
    settings: Mapping[str, str]
    """For the adapter; see `speed_adapter.Settings`."""
    is_slow: bool = False
    """Takes fewer rounds."""

    @property
    def is_ours(self) -> bool:
        return self.adapter == "speed_ours.py"


class Section(NamedTuple):
    """Methods and images that are run by turns."""

    name: str
    images: Sequence[Files]
    methods: Sequence[Method]
    rounds: int
    slow_rounds: int
    threads: int = 2
    device: str = "cpu"
    each_alone: bool = False
    """Every pair of method and image in a fresh process, without a first run that does not count: for memory."""
    batch: bool = False


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
    """None where the stages ran side by side."""
    post_s: float | None = None
    f1: float | None = None
    """At IoU 0.5, against the truth; of the first round."""
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int, str, str, int]:
        return (self.section, self.threads, self.method, self.image, self.round)


class Ledger:
    """Everything measured so far, in a file that a killed run leaves whole up to its last line.

    Parameters
    ----------
    path : Path
        JSON lines; the first one tells of the machine.

    Raises
    ------
    ValueError
        If the file was begun on another machine.
    """

    def __init__(self, path: Path, machine: Mapping[str, str]) -> None:
        self._path = path
        self.machine = dict(machine)
        self.versions: dict[str, str] = {}
        self.records: list[Record] = []
        self.accuracy: list[dict[str, Any]] = []
        self.images: dict[str, dict[str, int]] = {}
        """Side in px, channels and true objects of each image."""
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a kill may have cut one
                self._take(json.loads(line))
        if self.machine["processor"] != machine["processor"]:
            raise ValueError(f"{path} holds figures of {self.machine['processor']}; begin anew with --fresh")
        path.parent.mkdir(parents=True, exist_ok=True)
        if not text:
            self._write({"machine": self.machine})
        elif not text.endswith("\n"):
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")

    def __contains__(self, key: tuple[str, int, str, str, int]) -> bool:
        return any(record.key == key for record in self.records)

    def add(self, record: Record) -> None:
        self.records.append(record)
        self._write({"record": dataclasses.asdict(record)})

    def add_versions(self, versions: Mapping[str, str]) -> None:
        if not versions.items() <= self.versions.items():
            self.versions |= versions
            self._write({"versions": dict(versions)})

    def add_image(self, image: Files) -> None:
        known = {"side": image.side, "channels": image.channels, "objects": image.objects}
        if self.images.get(image.name) != known:
            self.images[image.name] = known
            self._write({"images": {image.name: known}})

    def add_accuracy(self, row: Mapping[str, Any]) -> None:
        self.accuracy.append(dict(row))
        self._write({"accuracy": dict(row)})

    def of(self, section: str, method: str = "", image: str = "", threads: int = 0) -> list[Record]:
        """Give the records of a section; of one method, image or number of threads where that is given."""
        return [
            record
            for record in self.records
            if record.section == section
            and method in ("", record.method)
            and image in ("", record.image)
            and threads in (0, record.threads)
        ]

    def _take(self, line: dict[str, Any]) -> None:
        if "record" in line:
            self.records.append(Record(**line["record"]))
        elif "accuracy" in line:
            self.accuracy.append(line["accuracy"])
        else:
            self.versions |= line.get("versions", {})
            self.images |= line.get("images", {})
            self.machine |= line.get("machine", {})

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Worker:
    """A method's process.

    Parameters
    ----------
    method : Method
    section : Section
        Threads and device.
    log : IO
        Where everything else goes that the process says.
    """

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

    def ask(self, image: Files, batch: bool = False, labels: Path | None = None) -> dict[str, Any]:
        """Let the method segment one image.

        Raises
        ------
        RuntimeError
            If it could not, with what it said.
        """
        paths = {"image": image.image, "truth": image.truth, "fields": image.fields, "labels": labels}
        request = {key: str(path) for key, path in paths.items() if path} | {"batch": batch}
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it has ended: the answer says so
            self._process.stdin.write(json.dumps(request) + "\n")
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
    """Measure what the ledger does not hold yet: for each image in each round every method, one after the other.

    Parameters
    ----------
    section : Section
    ledger : Ledger
    folder : Path
        For labels and logs.
    say : callable
        Told of every run.
    """
    methods = [method for method in section.methods if _missing(section, method, ledger)]
    if section.each_alone:
        for image in section.images:
            for method in methods:
                if (section.name, section.threads, method.name, image.name, 0) not in ledger and _can(method, image):
                    _run_together(section._replace(images=[image]), [method], ledger, folder, say)
    elif methods:
        _run_together(section, methods, ledger, folder, say)


def _run_together(
    section: Section, methods: Sequence[Method], ledger: Ledger, folder: Path, say: Callable[[str], None]
) -> None:
    with contextlib.ExitStack() as stack:
        workers = []
        for method in methods:
            log = stack.enter_context(_log(folder, method))
            workers.append(stack.enter_context(Worker(method, section, log)))
            ledger.add_versions(workers[-1].versions)
        warm: set[tuple[str, int, int]] = set()
        for image in section.images:
            ledger.add_image(image)
            for worker, number in _turns(section, workers, image, ledger):
                shape = (worker.method.name, image.side, image.channels)
                if not section.each_alone and shape not in warm and image.side**2 <= _WARM_PX:
                    worker.ask(image, section.batch)
                warm.add(shape)
                time.sleep(_PAUSE_S)
                record = _record(section, worker, image, number, folder)
                ledger.add(record)
                say(f"{section.name:8} {record.image:6} {record.round}  {record.total_s:8.3f} s  {record.method}")


def _turns(section: Section, workers: Sequence[Worker], image: Files, ledger: Ledger) -> Iterator[tuple[Worker, int]]:
    """Give the methods in turn, round after round, with the number of the round."""
    for number in range(section.rounds):
        for worker in workers:
            key = (section.name, section.threads, worker.method.name, image.name, number)
            if number < _rounds(section, worker.method) and key not in ledger and _can(worker.method, image):
                yield worker, number


def _record(section: Section, worker: Worker, image: Files, number: int, folder: Path) -> Record:
    labels = folder / "labels.npy" if number == 0 and not section.batch else None
    reply = worker.ask(image, section.batch, labels)
    return Record(
        section=section.name,
        threads=section.threads,
        method=worker.method.name,
        image=image.name,
        round=number,
        total_s=reply["total_s"],
        network_s=reply["network_s"],
        peak_bytes=reply["peak_bytes"],
        objects=reply["objects"],
        prepare_s=reply.get("prepare_s"),
        post_s=reply.get("post_s"),
        f1=_f1(labels, image) if labels else None,
        stages=reply.get("stages", {}),
    )


def _f1(labels: Path, image: Files) -> float:
    from cytoseed.learn.metrics import score

    return score(np.load(labels), np.load(image.truth)).f1


def _missing(section: Section, method: Method, ledger: Ledger) -> bool:
    return any(
        (section.name, section.threads, method.name, image.name, number) not in ledger
        for image in section.images
        for number in range(_rounds(section, method))
        if _can(method, image)
    )


def _rounds(section: Section, method: Method) -> int:
    return section.slow_rounds if method.is_slow else section.rounds


def _can(method: Method, image: Files) -> bool:
    """Peers are run on those images only for which the fields were made: the largest would take them minutes each."""
    return method.is_ours or image.fields is not None


def _environment(section: Section) -> dict[str, str]:
    own = dict.fromkeys(_THREAD_VARIABLES, str(section.threads)) | {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONUNBUFFERED": "1",
    }
    if section.device == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    return os.environ | own


@contextlib.contextmanager
def _bound_to(count: int) -> Iterator[None]:
    """Bind what is started within to so many cores, 0 for all: no runtime can take more threads than these run."""
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


def names(records: Iterable[Record]) -> list[str]:
    """Give the methods that occur, in the order in which they first do."""
    return list(dict.fromkeys(record.method for record in records))
