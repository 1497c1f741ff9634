"""`cytoseed segment` watched from outside: time, memory and disk space of a run, and the files it leaves."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import math
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from cytoseed.results import stem_of

_EVERY_S = 0.05


class Run(NamedTuple):
    """Observations of one run."""

    exit_code: int
    """Negative: the signal that ended it."""
    seconds: float
    peak_bytes: int
    """Highest resident memory: of all its processes together, or of one alone."""
    folder_bytes: int
    """Most space that the output folder took on its disk."""
    work_after_s: float
    """Time at which the run's own folder appeared; NaN if it never did."""
    stderr: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that are passed on to `cytoseed segment`."""
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--tile-size", type=int, help="in px; the command's own by default")
    parser.add_argument("--flags", default="", help="more flags for `cytoseed segment`, in one text: '--device cpu'")


def command(slide: Path, output: Path, arguments: argparse.Namespace, resume: bool = False) -> list[str]:
    tile = [] if arguments.tile_size is None else ["--tile-size", str(arguments.tile_size)]
    own = ["segment", str(slide), "-o", str(output), "--model", arguments.model, *tile]
    return [sys.executable, "-m", "cytoseed", *own, *shlex.split(arguments.flags), *(["--resume"] if resume else [])]


def run_folder(slide: Path, output: Path) -> Path:
    """Folder in which a run keeps its finished tiles."""
    return output / f"{stem_of(slide)}.cytoseed"


def watch(words: list[str], slide: Path, output: Path, ends_after_s: float = float("inf")) -> Run:
    """Run a command to its end, or kill it and all its processes (SIGKILL) when its time is over."""
    work, started = run_folder(slide, output), time.monotonic()
    peak, most, appeared = 0, 0, float("nan")
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        process = psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)
        try:
            while process.poll() is None:
                passed = time.monotonic() - started
                if passed >= ends_after_s:
                    break
                peak, most = max(peak, _resident_bytes(process)), max(most, used_bytes(output))
                if math.isnan(appeared) and work.exists():
                    appeared = passed
                # a large folder takes long to measure, which should not slow the run
                waiting = max(_EVERY_S, 20 * (time.monotonic() - started - passed))
                time.sleep(max(0.0, min(waiting, ends_after_s - passed)))
        finally:
            if process.poll() is None:
                for one in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.send_signal(signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - started
        log.seek(0)
        text = log.read()
    return Run(process.returncode, seconds, peak, max(most, used_bytes(output)), appeared, text)


def used_bytes(folder: Path) -> int:
    """Space that the files in a folder take on its disk."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            total += path.lstat().st_blocks * 512
    return total


def digests(slide: Path, output: Path) -> dict[str, str]:
    """SHA-256 of every file in an output folder, hidden ones too, except the run's own folder."""
    own, found = run_folder(slide, output), {}
    for path in sorted(output.rglob("*")):
        if path != own and own not in path.parents:
            digest = "a folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(output))] = digest
    return found


def differences(expected: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
    """Differences between the files of two folders, in words."""
    lines = [f"{name}: missing" for name in expected.keys() - found.keys()]
    lines += [f"{name}: should not be there" for name in found.keys() - expected.keys()]
    lines += [f"{name}: other bytes" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    return tuple(sorted(lines))


def _resident_bytes(process: psutil.Process) -> int:
    """Resident memory of a process with its children, or the highest so far of one of them."""
    total, highest = 0, 0
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                total += one.memory_info().rss
                found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{one.pid}/status").read_text(encoding="utf-8"))
                highest = max(highest, 1024 * int(found[1]) if found else 0)
    return max(total, highest)
