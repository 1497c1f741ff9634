"""Whole slides by `cytoseed segment`: speed, stages, accuracy in some regions, peak memory.

python benchmarks/make_slide.py runs/slides/he.tif
python benchmarks/slides.py runs/slides/he.tif --model nuclei --tile-size 2048

Prints the tables of docs/slides.md. Each slide is segmented in a process of its own, and the memory is that of all its
processes together. Stages run side by side: their sum is more than the wall time. Accuracy needs the truth that
make_slide.py writes beside a slide.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.images import open_image
from cytoseed.learn.metrics import pool, score
from cytoseed.results import stem_of
from places import DATA
from slide_plan import Plan, read_plan, truth
from watched import add_flags, command, run_folder, watch

COUNTS = ("tiles", "skipped", "input_px", "network_px", "wall")
HEADER = "| slide | Mpx | of it tissue | tiles | skipped | wall, s | Mpx/s | of tissue | objects | F1@0.5 | peak, MB |"


def measure(slide: Path, output: Path, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Table row of one slide, and the `timings.json` of its run."""
    run = watch(command(slide, output, arguments), slide, output)
    if run.exit_code:
        raise SystemExit(f"{slide}: cytoseed segment ended with {run.exit_code}:\n{run.stderr}")
    timings = json.loads((run_folder(slide, output) / "timings.json").read_text(encoding="utf-8"))
    _, height, width = open_image(slide).shape
    with (output / f"{stem_of(slide)}.csv").open("rb") as lines:
        objects = sum(1 for _ in lines) - 1
    truth_json, f1, tissue_px = slide.with_name(f"{stem_of(slide)}.truth.json"), "", timings["input_px"]
    if truth_json.exists():
        plan = read_plan(truth_json)
        labels, tissue_px = open_image(output / f"{stem_of(slide)}.labels.tif"), plan.tissue_px
        boxes = choose_regions(plan, arguments.regions, min(arguments.region, plan.side))
        found = pool(score(labels.read(box)[0], truth(truth_json, box, arguments.data)) for box in boxes)
        f1 = f"{found.f1:.3f} ({found.true_objects:,} objects)"
    cells = (
        slide.name,
        f"{height * width / 1e6:.0f}",
        f"{tissue_px / 1e6:.0f}",
        str(timings["tiles"]),
        str(timings["skipped"]),
        f"{run.seconds:.0f}",
        f"{height * width / 1e6 / run.seconds:.2f}",
        f"{tissue_px / 1e6 / run.seconds:.2f}",
        f"{objects:,}",
        f1,
        f"{run.peak_bytes / 1e6:.0f}",
    )
    return f"| {' | '.join(cells)} |", timings


def choose_regions(plan: Plan, count: int, side: int) -> list[tuple[int, int, int, int]]:
    """Disjoint squares (y, x, height, width) around fields drawn at random."""
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


def table_stages(names: list[str], timings: list[dict[str, Any]]) -> str:
    """Seconds per stage."""
    stages = [stage for stage in dict.fromkeys(stage for one in timings for stage in one) if stage not in COUNTS]
    lines = [f"| seconds | {' | '.join(stages)} | sum | wall, in the run |", "|" + "---|" * (len(stages) + 3)]
    for name, one in zip(names, timings, strict=True):
        own = [one.get(stage, 0.0) for stage in stages]
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in (*own, sum(own), one['wall']))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    add_flags(parser)
    parser.add_argument("--output", type=Path, help="folder for the results; without it they are discarded")
    parser.add_argument("--regions", type=int, default=6, help="number of regions to score")
    parser.add_argument("--region", type=int, default=2000, help="side of a region, in px")
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.output or Path(name)
        rows = [measure(slide, folder / stem_of(slide), arguments) for slide in arguments.slides]
    print("\n".join([HEADER, "|" + "---|" * 11, *(row for row, _ in rows)]))
    print(f"\n{table_stages([slide.name for slide in arguments.slides], [timings for _, timings in rows])}")


if __name__ == "__main__":
    main()
