"""Whole slides by `cytoseed segment`: speed, where the time goes, accuracy in some regions, peak memory.

python benchmarks/make_slide.py runs/slides/he.tif
python benchmarks/slides.py runs/slides/he.tif --model nuclei --tile-size 2048

Prints the tables of docs/slides.md. Each slide is segmented in a process of its own, whose memory is that of all its
processes together. The parts of the time are those that the run notes itself; where it reads ahead they overlap and
their sum is more than the wall time. Accuracy needs the truth that make_slide.py writes beside a slide.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cytoseed.images import open_image
from cytoseed.learn.metrics import ImageScore, pool, score
from cytoseed.results import stem_of
from slide_plan import DATA, Plan, read_plan, truth
from watched import Run, add_flags, command, run_folder, watch

COUNTS = ("tiles", "skipped", "input_px", "network_px")
"""What a run notes in `timings.json` beside seconds."""


class Timings(NamedTuple):
    """What a run notes of itself in `timings.json`."""

    seconds: dict[str, float]
    """Of each part of the work."""
    wall: float
    """Of the run, without what Python takes to start."""
    tiles: int
    """Those that were looked at."""
    skipped: int
    """Tiles in which there is nothing but glass or darkness."""
    input_px: int
    """Of the slide, in the tiles that were looked at."""
    network_px: int
    """As `input_px`, at the model's pixel size."""


class Measured(NamedTuple):
    """One slide, segmented."""

    name: str
    slide_px: int
    tissue_px: int
    """As the truth says; without it, that of the tiles that were looked at."""
    run: Run
    timings: Timings
    objects: int
    accuracy: ImageScore | None


def read_timings(path: Path) -> Timings:
    values = json.loads(path.read_text(encoding="utf-8"))
    counts = [int(values.pop(name)) for name in COUNTS]
    wall = float(values.pop("wall"))
    return Timings({part: float(seconds) for part, seconds in values.items()}, wall, *counts)


def measure(slide: Path, output: Path, arguments: argparse.Namespace) -> Measured:
    run = watch(command(slide, output, arguments), slide, output)
    if run.exit_code:
        raise SystemExit(f"{slide}: cytoseed segment ended with {run.exit_code}:\n{run.stderr}")
    timings = read_timings(run_folder(slide, output) / "timings.json")
    _, height, width = open_image(slide).shape
    json_path = slide.with_name(f"{stem_of(slide)}.truth.json")
    plan = read_plan(json_path) if json_path.exists() else None
    return Measured(
        slide.name,
        height * width,
        plan.tissue_px if plan is not None else timings.input_px,
        run,
        timings,
        count_rows(output / f"{stem_of(slide)}.csv"),
        accuracy_of(json_path, plan, output / f"{stem_of(slide)}.labels.tif", arguments) if plan is not None else None,
    )


def count_rows(path: Path) -> int:
    """Count the objects of a table, which has a line of names."""
    with path.open("rb") as lines:
        return sum(1 for _ in lines) - 1


def accuracy_of(json_path: Path, plan: Plan, labels_path: Path, arguments: argparse.Namespace) -> ImageScore:
    """Score some regions; objects are cut alike at their edges in both labellings."""
    labels = open_image(labels_path)
    boxes = choose_regions(plan, arguments.regions, min(arguments.region, plan.side))
    return pool(score(labels.read(box)[0], truth(json_path, box, arguments.data)) for box in boxes)


def choose_regions(plan: Plan, count: int, side: int) -> list[tuple[int, int, int, int]]:
    """Choose squares (y, x, height, width) around fields drawn at random; none meets another."""
    filled = [place for place in plan.places if place.objects]
    boxes: list[tuple[int, int, int, int]] = []
    for index in np.random.default_rng(0).permutation(len(filled)).tolist():
        place = filled[index]
        top, left = (
            min(max(0, first + size // 2 - side // 2), plan.side - side)
            for first, size in ((place.y, place.height), (place.x, place.width))
        )
        if len(boxes) < count and all(max(abs(top - box[0]), abs(left - box[1])) >= side for box in boxes):
            boxes.append((top, left, side, side))
    return boxes


def tables(rows: list[Measured], arguments: argparse.Namespace) -> str:
    lines = [
        "| slide | Mpx | of it tissue | tiles | skipped | wall, s | Mpx/s | of tissue | objects | F1@0.5 | peak, MB |",
        "|" + "---|" * 11,
    ]
    for row in rows:
        wall = row.run.seconds
        f1 = "" if row.accuracy is None else f"{row.accuracy.f1:.3f} ({row.accuracy.true_objects:,} objects)"
        cells = (
            f"{row.slide_px / 1e6:.0f}",
            f"{row.tissue_px / 1e6:.0f}",
            str(row.timings.tiles),
            str(row.timings.skipped),
            f"{wall:.0f}",
            f"{row.slide_px / 1e6 / wall:.2f}",
            f"{row.tissue_px / 1e6 / wall:.2f}",
            f"{row.objects:,}",
            f1,
            f"{row.run.peak_bytes / 1e6:.0f}",
        )
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    parts = list(dict.fromkeys(part for row in rows for part in row.timings.seconds))
    lines += ["", f"| seconds | {' | '.join(parts)} | their sum | wall, in the run |", "|" + "---|" * (len(parts) + 3)]
    for row in rows:
        seconds = row.timings.seconds
        own = " | ".join(f"{seconds.get(part, 0.0):.1f}" for part in parts)
        lines.append(f"| {row.name} | {own} | {sum(seconds.values()):.1f} | {row.timings.wall:.1f} |")
    lines += ["", "| share of the parts' sum | reading | network | the rest |", "|---|---|---|---|"]
    for row in rows:
        seconds = row.timings.seconds
        whole = max(sum(seconds.values()), 1e-9)
        read, network = (seconds.get(part, 0.0) / whole for part in ("read", "network"))
        lines.append(f"| {row.name} | {read:.0%} | {network:.0%} | {1 - read - network:.0%} |")
    tile = "" if arguments.tile_size is None else f", --tile-size {arguments.tile_size}"
    return "\n".join([f"Model {arguments.model}{tile} {arguments.flags}".rstrip() + ":", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    add_flags(parser)
    parser.add_argument("--output", type=Path, help="folder for the results; else they are thrown away")
    parser.add_argument("--regions", type=int, default=6, help="how many regions are scored")
    parser.add_argument("--region", type=int, default=2000, help="side of a region, in px")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.output or Path(name)
        rows = [measure(slide, folder / stem_of(slide), arguments) for slide in arguments.slides]
    print(tables(rows, arguments))


if __name__ == "__main__":
    main()
