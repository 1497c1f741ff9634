"""Accuracy of models and peers on samples, by data set and modality; writes docs/benchmarks.md's tables.

python benchmarks/accuracy.py --models nuclei nuclei-paper --splits test val --write
python benchmarks/accuracy.py --models nuclei --splits test --tta --write
python benchmarks/accuracy.py --predictions cellpose=runs/peers/cellpose/test --splits test --write

A table of methods (the paper's Table 2) has a row per method; rows that are not measured anew stay. `--csv` keeps the
figures of each image for benchmarks/compare.py; `--record` writes the totals into a bundled model's config.json.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cytoseed.images.label_image import read_labels
from cytoseed.learn.evaluate import Evaluation, accuracies_to_json, evaluate_model, evaluate_samples
from cytoseed.learn.metrics import ImageScore
from cytoseed.learn.samples import Sample, find_samples
from cytoseed.models.weights import CONFIG_FILE, load_model
from cytoseed.settings import PRECISIONS, SegmentOptions
from places import DATA, OPEN_DATA, ROOT, read_page, write_page

MODELS = ROOT / "src" / "cytoseed" / "models"
HEADER = (
    "| data set | modality | images | objects | F1@0.5 | mean F1 | AP@0.5 | PQ | AJI | Dice |\n" + "|---" * 10 + "|"
)


def evaluate_folder(folder: Path, samples: tuple[Sample, ...]) -> Evaluation:
    """Score the label images STEM.labels.tif of a peer."""

    def read(_pixels: NDArray[Any], sample: Sample) -> NDArray[Any]:
        return read_labels(folder / f"{sample.name}.labels.tif")

    return evaluate_samples(read, samples)


def details(result: Evaluation) -> str:
    """Table with a row per data set and modality."""
    rows = [_row(dataset, modality, group) for (dataset, modality), group in result.groups.items()]
    return "\n".join([HEADER, *rows, _row("all", "", result.pooled)])


def methods(old: str, method: str, result: Evaluation) -> str:
    """Table of methods with this method's row, F1@0.5 / mean F1 per data set and modality, replaced or added."""
    kinds = [" ".join(key) for key in result.groups]
    header = f"| method | {' | '.join([*kinds, 'all'])} |\n" + "|---" * (len(kinds) + 2) + "|"
    known = old.removeprefix(header) if old.startswith(header) else ""
    rows = dict(re.findall(r"^(\| [^|]+ )(\|.*)$", known, re.MULTILINE))
    groups = [*result.groups.values(), result.pooled]
    rows[f"| {method} "] = f"| {' | '.join(f'{group.f1:.3f} / {group.f1_mean:.3f}' for group in groups)} |"
    return "\n".join([header, *(name + cells for name, cells in rows.items())])


def record(name: str, split: str, result: Evaluation) -> None:
    """Write a bundled model's figures into its configuration."""
    path = MODELS / name / CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8"))
    config["figures"][split] = accuracies_to_json(result.accuracies)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def report(method: str, split: str, result: Evaluation, arguments: argparse.Namespace) -> None:
    print(f"{method}, {split}\n{details(result)}\n", flush=True)
    if arguments.csv:
        arguments.csv.mkdir(parents=True, exist_ok=True)
        result.write_csv(arguments.csv / f"{method}-{split}.csv")
    if arguments.write:
        title = split if arguments.datasets == OPEN_DATA else f"{split} {' '.join(arguments.datasets)}"
        write_page(f"methods {title}", methods(read_page(f"methods {title}"), method, result))
        if method in arguments.models:
            write_page(f"accuracy {method} {title}", details(result))
    if arguments.record and method in arguments.models:
        record(method, split, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=[], help="names or folders")
    parser.add_argument("--predictions", nargs="+", default=[], metavar="NAME=FOLDER", help="label images of peers")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--datasets", nargs="+", default=OPEN_DATA)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tta", action="store_true", help="use test-time augmentation")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/benchmarks.md")
    parser.add_argument("--csv", type=Path, help="folder for a file with the figures of each image")
    parser.add_argument("--record", action="store_true", help="write the figures into the bundled models' config.json")
    arguments = parser.parse_args()
    options = SegmentOptions(tta=arguments.tta, device=arguments.device, precision=arguments.precision)
    notes = ["TTA"] * arguments.tta + [arguments.precision] * (arguments.precision != "float32")
    suffix = f" ({', '.join(notes)})" if notes else ""
    for split in arguments.splits:
        samples = find_samples(arguments.data, splits=[split], datasets=arguments.datasets)
        for name in arguments.models:
            report(name + suffix, split, evaluate_model(load_model(name), samples, options), arguments)
        for pair in arguments.predictions:
            name, _, folder = pair.partition("=")
            report(name, split, evaluate_folder(Path(folder), samples), arguments)


def _row(dataset: str, modality: str, result: ImageScore) -> str:
    figures = [result.metrics[name] for name in ("f1", "f1_mean", "ap", "pq", "aji", "dice")]
    cells = [dataset, modality, str(result.images), str(result.true_objects), *(f"{value:.3f}" for value in figures)]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
