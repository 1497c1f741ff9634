"""Accuracy of models on a folder of samples, by data set and modality; writes docs/benchmarks.md's tables.

python benchmarks/accuracy.py --models nuclei nuclei-paper --splits test --write
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from cytoseed.learn.evaluate import Evaluation, evaluate_samples
from cytoseed.learn.metrics import ImageScore
from cytoseed.learn.samples import Sample, find_samples
from cytoseed.models.weights import load_model
from cytoseed.run.segment import segment

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
DATA = Path(os.environ.get("CYTOSEED_DATA", ROOT.parent / "shared" / "data"))


def evaluate(name: str, samples: tuple[Sample, ...]) -> Evaluation:
    model = load_model(name)
    return evaluate_samples(lambda pixels: segment(pixels, model).labels, samples)


def table(result: Evaluation) -> str:
    lines = [
        "| data set | modality | images | objects | F1@0.5 | mean F1 | AP@0.5 | PQ | AJI | Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [row(dataset, modality, group) for (dataset, modality), group in result.groups.items()]
    return "\n".join([*lines, row("all", "", result.pooled)])


def row(dataset: str, modality: str, result: ImageScore) -> str:
    figures = (result.f1, result.f1_mean, result.ap, result.pq, result.aji, result.dice)
    cells = [dataset, modality, str(result.images), str(result.true_objects), *(f"{value:.3f}" for value in figures)]
    return f"| {' | '.join(cells)} |"


def write(key: str, text: str) -> None:
    """Replace what stands between the marks of `key` on the page."""
    start, end = f"<!-- {key} -->", f"<!-- /{key} -->"
    page = PAGE.read_text(encoding="utf-8")
    if start not in page:
        page += f"\n{start}\n{end}\n"
    page = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{text}\n{end}", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["nuclei"])
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--datasets", nargs="+", default=["dsb2018", "bbbc039", "bitdepth_nucseg"])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    arguments = parser.parse_args()
    for split in arguments.splits:
        samples = find_samples(arguments.data, splits=[split], datasets=arguments.datasets)
        for name in arguments.models:
            text = table(evaluate(name, samples))
            print(f"{name}, {split}\n{text}\n", flush=True)
            if arguments.write:
                write(f"accuracy {name} {split}", text)


if __name__ == "__main__":
    main()
