"""Interrupted runs: killed at random, or on a full disk; resumed, they must leave the bytes of an undisturbed run.

python benchmarks/interrupted.py runs/slides/he.tif --kills 10 --tile-size 1024
sudo python benchmarks/interrupted.py runs/slides/he.tif --kills 0 --full-disks 0.1 0.5 0.95

The kills (SIGKILL, to all processes of the run) come at random moments, spaced so that together they cover the run one
and a half times. A full disk is a tmpfs with a share of what the undisturbed run needs, enlarged afterwards; mounting
needs root on Linux. All files are compared but those of the run's own folder.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from watched import Run, add_flags, command, differences, digests, run_folder, watch


def run_undisturbed(slide: Path, output: Path, arguments: argparse.Namespace) -> tuple[Run, dict[str, str]]:
    run = watch(command(slide, output, arguments), slide, output)
    if run.exit_code:
        raise SystemExit(f"the undisturbed run ended with {run.exit_code}:\n{run.stderr}")
    expected = digests(slide, output)
    print(f"undisturbed: {run.seconds:.1f} s, {len(expected)} files: {', '.join(expected)}", flush=True)
    return run, expected


def kill_and_resume(
    slide: Path, output: Path, arguments: argparse.Namespace, first: Run, expected: dict[str, str]
) -> int:
    """Kill and resume, then let the run end; the number of completed runs that differ."""
    rng = np.random.default_rng(arguments.seed)
    started_s = 0.0 if math.isnan(first.work_after_s) else first.work_after_s
    between_s = 3 * (first.seconds - started_s) / max(1, arguments.kills)
    kills, ends, wrong = 0, 0, 0
    while kills < arguments.kills or not ends or output.exists():
        last = kills == arguments.kills
        ends_after_s = float("inf") if last else float(rng.uniform(0.5 * started_s, started_s + between_s))
        run = watch(command(slide, output, arguments, resume=output.exists()), slide, output, ends_after_s)
        if run.exit_code == -9:
            kills += 1
            kept = sum(1 for _ in run_folder(slide, output).rglob("*"))
            print(f"kill {kills} after {run.seconds:.1f} s: {kept} files in the run's folder", flush=True)
            continue
        ends += 1
        if run.exit_code:
            print(f"end {ends}: exit code {run.exit_code}: {run.stderr.strip()}", flush=True)
            return wrong + 1
        found = differences(expected, digests(slide, output))
        wrong += bool(found)
        print(f"end {ends}: {'; '.join(found) or f'{len(expected)} files, all bytes equal'}", flush=True)
        shutil.rmtree(output)
    return wrong


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill_and_resume(
    slide: Path, folder: Path, size_bytes: int, arguments: argparse.Namespace, expected: dict[str, str]
) -> list[str]:
    """Run until the disk is full, make room, resume; the faults, in words."""
    with small_disk(folder, size_bytes):
        output = folder / "results"
        run = watch(command(slide, output, arguments), slide, output)
        print(f"  ended with {run.exit_code} after {run.seconds:.1f} s: {run.stderr.strip()}", flush=True)
        faults = [] if run.exit_code > 0 else [f"exit code {run.exit_code}, not an error's"]
        faults += ["a traceback"] if "Traceback" in run.stderr else []
        faults += [] if "disk" in run.stderr else ["the error does not name the disk"]
        larger = f"remount,size={8 * size_bytes + 2**30}"
        subprocess.run(["mount", "-o", larger, str(folder)], check=True)
        run = watch(command(slide, output, arguments, resume=True), slide, output)
        if run.exit_code:
            return [*faults, f"resumed, it ended with {run.exit_code}: {run.stderr.strip()}"]
        return [*faults, *differences(expected, digests(slide, output))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    add_flags(parser)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--full-disks", nargs="*", type=float, default=[], help="shares of the room that a run needs")
    arguments = parser.parse_args()
    slide, wrong = arguments.slide, 0
    with tempfile.TemporaryDirectory() as name:
        first, expected = run_undisturbed(slide, Path(name) / "undisturbed", arguments)
        if arguments.kills:
            wrong += kill_and_resume(slide, Path(name) / "killed", arguments, first, expected)
        for number, share in enumerate(arguments.full_disks):
            size_bytes = int(share * first.folder_bytes)
            print(f"disk of {size_bytes / 1e6:.1f} MB, {share:g} of what is needed", flush=True)
            faults = fill_and_resume(slide, Path(name) / f"disk{number}", size_bytes, arguments, expected)
            print(f"  {'; '.join(faults) or f'{len(expected)} files, all bytes equal'}", flush=True)
            wrong += bool(faults)
    print("FAILED" if wrong else "every resumed run is equal to the undisturbed one")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
