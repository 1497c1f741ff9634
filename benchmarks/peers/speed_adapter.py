"""Shared by the adapters of benchmarks/speed.py: one process per method that answers lines of JSON.

The driver writes a request to standard input, `{"image": "a.npy", "truth": "a.truth.npy", ...}`, and reads one line
from standard output: seconds, peak memory, number of objects. Imports neither cytoseed nor a peer: numpy only.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

# Scripts here carry their peer's name; their folder must not stand before the installed package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]


class Settings(NamedTuple):
    """Settings of a method; the script's only argument, as JSON."""

    threads: int = 2
    device: str = "cpu"
    model: str = ""
    """Ours only: name or folder of the model."""
    precision: str = "float32"
    """Ours only: precision of the network."""
    phi: str = ""
    """instanseg-torch only: file with the weights of the pixel classifier."""


class Request(NamedTuple):
    """One image to segment."""

    image: Path
    """(H, W) or (H, W, 3) uint8."""
    truth: Path
    """(H, W) int32, for the output of a perfect network; 0 is background."""
    fields: Path | None = None
    """(9, H, W) float32: raw output of the network of `nuclei-paper`, for instanseg-torch."""
    labels: Path | None = None
    """File to write the labels to, if any."""


class Stopwatch:
    """Times of the network and of other stages; `wait` waits for the device before the clock is read."""

    def __init__(self, wait: Callable[[], object] = lambda: None) -> None:
        self.wait = wait
        self.clear()

    def clear(self) -> None:
        self.first_begin = self._begin = 0.0
        self.network_s = 0.0
        self.calls = 0
        self.stages: dict[str, float] = {}

    def begin(self) -> None:
        self.wait()
        self._begin = time.perf_counter()
        if not self.calls:
            self.first_begin = self._begin
        self.calls += 1

    def end(self) -> None:
        self.wait()
        self.network_s += time.perf_counter() - self._begin

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent within to a stage."""
        self.wait()
        start = time.perf_counter()
        yield
        self.wait()
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - start


class Method(Protocol):
    """A method ready to run."""

    versions: dict[str, str]
    watch: Stopwatch

    def prepare(self, request: Request) -> None:
        """Set the output of a perfect network for this image; not timed."""

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        """Labels (H, W) of a raw image; timed."""


def serve(build: Callable[[Settings], Method]) -> None:
    """Answer requests until standard input ends; `build` makes the method and is not timed."""
    answers = _take_standard_output()
    settings = Settings(**json.loads(sys.argv[1]))
    sys.argv[1:] = []  # a peer that parses the command line itself must not see ours
    method = build(settings)
    _answer(answers, {"versions": method.versions})
    for line in sys.stdin:
        request = Request(**{key: Path(path) for key, path in json.loads(line).items()})
        try:
            _answer(answers, _run(method, request))
        except Exception as error:
            traceback.print_exc()
            _answer(answers, {"error": f"{type(error).__name__}: {error}"})


def _run(method: Method, request: Request) -> dict[str, Any]:
    image = np.load(request.image)
    method.prepare(request)
    method.watch.clear()
    gc.collect()
    _reset_peak()
    start = time.perf_counter()
    labels = method.segment(image)
    method.watch.wait()
    total = time.perf_counter() - start
    peak = _peak_bytes()
    reply: dict[str, Any] = {"total_s": total, "network_s": method.watch.network_s, "peak_bytes": peak}
    if method.watch.calls == 1:  # in tiles, stages run side by side
        before = method.watch.first_begin - start
        reply |= {"prepare_s": before, "post_s": total - before - method.watch.network_s}
    if request.labels:
        np.save(request.labels, np.asarray(labels).astype(np.int32))
    return reply | {"objects": len(np.unique(labels[labels > 0])), "stages": method.watch.stages}


def _take_standard_output() -> TextIO:
    """Keep standard output for answers; what a peer prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, reply: dict[str, Any]) -> None:
    answers.write(json.dumps(reply) + "\n")
    answers.flush()


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # without /proc the peak is that of the whole process
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_bytes() -> int:
    """Peak resident memory since `_reset_peak`."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
