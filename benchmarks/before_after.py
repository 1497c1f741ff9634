"""Times two versions of cytoseed against each other, in fresh processes that take turns.

python benchmarks/before_after.py OLD/src NEW/src --image IMAGE --rounds 7
python benchmarks/before_after.py OLD/src NEW/src --image IMAGE --rounds 3 --what command --options "--tile-size 2048"
python benchmarks/before_after.py OLD/src NEW/src --image IMAGE --rounds 3 --what read

By default each process loads the model, segments the image once to warm up, and then times `cytoseed.segment` of the
pixels in memory, labels included. `command` times `cytoseed segment IMAGE --output TMP` as a whole, `read` the reading
of the image in regions of 2048 x 2048 px. Memory is the median of the processes' peaks.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

REGION_PX = 2048


class Times(NamedTuple):
    """One process: seconds of each repetition, and its peak memory."""

    seconds: list[float]
    peak_bytes: int


def run_in_memory(image: Path, model_name: str, repeats: int, threads: int) -> Times:
    """Time repeated calls in this process, after one that is not counted."""
    torch: Any = importlib.import_module("torch")
    cytoseed: Any = importlib.import_module("cytoseed")
    images: Any = importlib.import_module("cytoseed.images")
    torch.set_num_threads(threads)
    model, opened = cytoseed.load_model(model_name), images.open_image(image)
    pixels, pixel_size_um = opened.read(), opened.pixel_size_um
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        cytoseed.segment(pixels, model, pixel_size_um=pixel_size_um).labels  # noqa: B018
        seconds.append(time.perf_counter() - started)
    return Times(seconds[1:], _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def run_read(image: Path, repeats: int) -> Times:
    """Time reading all channels of an image, in regions, up to a width of 8192 px."""
    images: Any = importlib.import_module("cytoseed.images")
    opened, seconds = images.open_image(image), []
    channels, height, width = opened.shape
    for _ in range(repeats):
        started = time.perf_counter()
        with opened.regions() as regions:
            for top in range(0, height - REGION_PX + 1, REGION_PX):
                for left in range(0, min(width, 8192) - REGION_PX + 1, REGION_PX):
                    regions.read((top, left, REGION_PX, REGION_PX), 0, range(channels))
        seconds.append(time.perf_counter() - started)
    return Times(seconds, _bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


def run_command(image: Path, model_name: str, repeats: int, threads: int, options: str) -> Times:
    """Time whole commands, started by this process; the memory is the largest of them."""
    seconds = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as output:
            words = [sys.executable, "-m", "cytoseed", "segment", str(image), "--model", model_name, "-o", output]
            words += options.split()
            started = time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=_environment(threads))
            seconds.append(time.perf_counter() - started)
    return Times(seconds, _bytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))


def measure(source: Path, arguments: argparse.Namespace) -> Times:
    """Measure one version in a fresh process."""
    words = [sys.executable, __file__, "--worker", "--image", str(arguments.image), "--model", arguments.model]
    words += ["--repeats", str(arguments.repeats), "--threads", str(arguments.threads)]
    words += ["--what", arguments.what, f"--options={arguments.options}"]
    environment = _environment(arguments.threads) | {"PYTHONPATH": str(source.resolve())}
    answer = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    return Times(**json.loads(answer.splitlines()[-1]))


def report(names: list[str], found: list[list[Times]]) -> str:
    """Median, minimum and peak memory of each version, and the ratios to the first."""
    figures = []
    for rounds in found:
        seconds = [second for times in rounds for second in times.seconds]
        peak = statistics.median(times.peak_bytes for times in rounds)
        figures.append((statistics.median(seconds), min(seconds), peak / 1e6))
    lines = ["| version | median, s | ratio | minimum, s | ratio | peak memory, MB | ratio |", "|---" * 7 + "|"]
    for name, own in zip(names, figures, strict=True):
        cells = [f"{value:.4g} | {value / first:.3f}" for value, first in zip(own, figures[0], strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="two folders that hold the package cytoseed")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--rounds", type=int, default=7, help="processes per version")
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions per process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--what", choices=("memory", "command", "read"), default="memory")
    parser.add_argument("--options", default="", help="further options of the command")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        fixed = arguments.image, arguments.model, arguments.repeats, arguments.threads
        if arguments.what == "read":
            times = run_read(arguments.image, arguments.repeats)
        else:
            times = run_command(*fixed, arguments.options) if arguments.what == "command" else run_in_memory(*fixed)
        print(json.dumps(times._asdict()))
        return
    if len(arguments.sources) != 2 or not all((source / "cytoseed").is_dir() for source in arguments.sources):
        parser.error("give two folders that hold the package cytoseed, such as OLD/src NEW/src")
    found: list[list[Times]] = [[], []]
    for number in range(arguments.rounds):
        for rounds, source in zip(found, arguments.sources, strict=True):
            rounds.append(measure(source, arguments))
            print(f"round {number + 1}, {source}: {min(rounds[-1].seconds):.4g} s", file=sys.stderr, flush=True)
    print(report([str(source) for source in arguments.sources], found))


def _environment(threads: int) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def _bytes(max_rss: int) -> int:
    return max_rss if sys.platform == "darwin" else 1024 * max_rss


if __name__ == "__main__":
    main()
