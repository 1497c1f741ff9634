"""`cytoseed segment` seen from outside: the time, the memory and the disk that a run takes, and the files it leaves."""

from __future__ import annotations

import argparse
import hashlib
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cytoseed.results import stem_of

_EVERY_S = 0.05


class Run(NamedTuple):
    """What was seen of one run."""

    exit_code: int
    """Below 0: the signal that ended it."""
    seconds: float
    peak_bytes: int
    """Highest resident memory: of all its processes at one moment, or of the first alone if that was higher."""
    folder_bytes: int
    """Most that the output folder took on its disk."""
    work_after_s: float
    """When the run's own folder appeared; NaN if it never did."""
    stderr: str


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that are handed on to `cytoseed segment`."""
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--tile-size", type=int, help="in px; the command's own where not given")
    parser.add_argument("--flags", default="", help="more for `cytoseed segment`, in one text: '--device cpu'")


def command(slide: Path, output: Path, arguments: argparse.Namespace, resume: bool = False) -> list[str]:
    tile = [] if arguments.tile_size is None else ["--tile-size", str(arguments.tile_size)]
    own = ["segment", str(slide), "-o", str(output), "--model", arguments.model, *tile]
    return [sys.executable, "-m", "cytoseed", *own, *shlex.split(arguments.flags), *(["--resume"] if resume else [])]


def run_folder(slide: Path, output: Path) -> Path:
    """Give the folder in which a run keeps what is done so far."""
    return output / f"{stem_of(slide)}.cytoseed"


def watch(
    words: list[str], slide: Path, output: Path, ends_after_s: float = float("inf"), every_s: float = _EVERY_S
) -> Run:
    """Run a command to its end, or kill it and all its processes (SIGKILL) when its time is over."""
    work, started = run_folder(slide, output), time.monotonic()
    peak, most, appeared, waiting = 0, 0, float("nan"), every_s
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            while process.poll() is None:
                passed = time.monotonic() - started
                if passed >= ends_after_s:
                    break
                peak = max(peak, _resident_bytes(process.pid))
                most = max(most, used_bytes(output))
                if math.isnan(appeared) and work.exists():
                    appeared = passed
                # A large folder takes long to measure, and the run should not feel it.
                waiting = max(every_s, 20 * (time.monotonic() - started - passed))
                time.sleep(max(0.0, min(waiting, ends_after_s - passed)))
        finally:
            _kill(process)
        seconds = time.monotonic() - started
        said.seek(0)
        text = said.read()
    return Run(process.returncode, seconds, peak, max(most, used_bytes(output)), appeared, text)


def used_bytes(folder: Path) -> int:
    """Give what the files in a folder take on its disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except FileNotFoundError:  # it was renamed meanwhile
                continue
    return total


def digests(slide: Path, output: Path) -> dict[str, str]:
    """Give the SHA-256 of every file in an output folder, hidden ones too, but for the run's own folder."""
    own, found = run_folder(slide, output), {}
    for path in sorted(output.rglob("*")):
        if path == own or own in path.parents:
            continue
        name = str(path.relative_to(output))
        if path.is_dir():
            found[name] = "a folder"
        else:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def differences(wanted: dict[str, str], found: dict[str, str]) -> tuple[str, ...]:
    """Tell in words how the files of two folders differ; empty if they do not."""
    lines = [f"{name}: missing" for name in wanted.keys() - found.keys()]
    lines += [f"{name}: should not be there" for name in found.keys() - wanted.keys()]
    lines += [f"{name}: other bytes" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return tuple(sorted(lines))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the session that a process leads, and wait for it."""
    for pid in _session(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def _resident_bytes(leader: int) -> int:
    total, highest = 0, 0
    for pid in _session(leader):
        total += _status_bytes(pid, "VmRSS")
        highest = max(highest, _status_bytes(pid, "VmHWM"))
    return max(total, highest)


def _session(leader: int) -> Iterator[int]:
    """Give the processes of a session, by /proc."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            # After the name, which may hold anything, come state, parent, group and session.
            fields = _read(f"/proc/{entry}/stat").rpartition(")")[2].split()
            if len(fields) > 3 and int(fields[3]) == leader and fields[0] != "Z":
                yield int(entry)


def _status_bytes(pid: int, key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB$", _read(f"/proc/{pid}/status"), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:  # the process has ended
        return ""
