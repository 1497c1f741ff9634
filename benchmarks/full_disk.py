"""A disk that fills during a run: a clear error, and after there is room, `--resume` to the undisturbed run's bytes.

sudo python benchmarks/full_disk.py runs/slides/he.tif --shares 0.1 0.5 0.95 --tile-size 1024

The disk is a tmpfs with a share of what the undisturbed run took at its most, made larger afterwards. Mounting one
needs root on Linux; elsewhere nothing is tested, and that is said.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kill_resume import undisturbed
from watched import add_flags, command, differences, digests, watch


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def can_mount(folder: Path) -> bool:
    if not sys.platform.startswith("linux") or os.geteuid():
        return False
    try:
        with small_disk(folder / "trial", 2**20):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def faults(code: int, stderr: str) -> list[str]:
    """Tell what is wrong with how a run on a full disk ended."""
    wrong = [] if code > 0 else [f"exit code {code}, not an error's"]
    if "Traceback" in stderr:
        wrong.append("a traceback")
    if not any(words in stderr.lower() for words in ("no space", "room", "disk")):
        wrong.append("nothing said of the disk")
    return wrong


def fill_and_resume(
    slide: Path, folder: Path, size_bytes: int, arguments: argparse.Namespace, wanted: dict[str, str]
) -> list[str]:
    """Run until the disk is full, make room, resume; tell what went wrong."""
    with small_disk(folder, size_bytes):
        output = folder / "results"
        run = watch(command(slide, output, arguments), slide, output)
        print(f"  ended with {run.exit_code} after {run.seconds:.1f} s: {run.stderr.strip()}", flush=True)
        wrong = faults(run.exit_code, run.stderr)
        larger = f"remount,size={8 * size_bytes + 2**30}"
        subprocess.run(["mount", "-o", larger, str(folder)], check=True)
        run = watch(command(slide, output, arguments, resume=True), slide, output)
        if run.exit_code:
            return [*wrong, f"resumed, it ended with {run.exit_code}: {run.stderr.strip()}"]
        print(f"  resumed: {run.seconds:.1f} s", flush=True)
        return [*wrong, *differences(wanted, digests(slide, output))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    add_flags(parser)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.1, 0.5, 0.95], help="of the room it takes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if not can_mount(Path(name)):
            print("skipped: mounting a tmpfs needs root on Linux")
            return
        first, wanted = undisturbed(arguments.slide, Path(name) / "undisturbed", arguments)
        bad = 0
        for index, share in enumerate(arguments.shares):
            size_bytes = int(share * first.folder_bytes)
            print(f"{share:g} of {first.folder_bytes / 1e6:.1f} MB", flush=True)
            wrong = fill_and_resume(arguments.slide, Path(name) / f"disk{index}", size_bytes, arguments, wanted)
            print(f"  {'; '.join(wrong) or f'{len(wanted)} files, all bytes equal'}", flush=True)
            bad += bool(wrong)
    print("FAILED" if bad else f"{len(arguments.shares)} full disks, every resumed run equal to the undisturbed one")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
