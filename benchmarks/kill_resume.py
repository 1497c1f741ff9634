"""A run that is killed again and again, resumed each time, must leave the bytes of a run that nobody disturbed.

python benchmarks/kill_resume.py runs/slides/he.tif --kills 10 --seed 0 --tile-size 1024

The kills (SIGKILL, to all processes of the run) come at random moments, so far apart that together they cover the run
one and a half times. Where a run ends before its kill comes, its files are compared and the next one starts anew. All
files are compared but those of the run's own folder; one too many counts as a difference.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

from watched import Run, add_flags, command, differences, digests, run_folder, watch


def undisturbed(slide: Path, output: Path, arguments: argparse.Namespace) -> tuple[Run, dict[str, str]]:
    run = watch(command(slide, output, arguments), slide, output)
    if run.exit_code:
        raise SystemExit(f"the undisturbed run ended with {run.exit_code}:\n{run.stderr}")
    wanted = digests(slide, output)
    print(f"undisturbed: {run.seconds:.1f} s, {len(wanted)} files: {', '.join(wanted)}", flush=True)
    return run, wanted


def kill_and_resume(
    slide: Path, output: Path, arguments: argparse.Namespace, first: Run, wanted: dict[str, str]
) -> int:
    """Kill as often as asked, resuming, and then let the run end; give the number of ends that went wrong."""
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
        found = differences(wanted, digests(slide, output))
        wrong += bool(found)
        print(f"end {ends}: {'; '.join(found) or f'{len(wanted)} files, all bytes equal'}", flush=True)
        shutil.rmtree(output)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    add_flags(parser)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        first, wanted = undisturbed(arguments.slide, Path(name) / "undisturbed", arguments)
        wrong = kill_and_resume(arguments.slide, Path(name) / "killed", arguments, first, wanted)
    print("FAILED" if wrong else f"{arguments.kills} kills, every end equal to the undisturbed run")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
