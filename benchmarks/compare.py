"""Figure 3 of the paper: mean F1 per image, ours against each other method, by a paired t-test.

python benchmarks/compare.py nuclei=runs/nuclei-test.csv cellpose=runs/peers/cellpose/test --plot runs/figure3.png

Each argument is NAME=PATH, ours first. PATH is a file of `cytoseed evaluate --csv` or `accuracy.py --csv`, or a folder
of label images with the true masks in its folder `masks`, as `peers/` writes; --samples then names the data sets.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_rel

from cytoseed.learn.evaluate import evaluate_folders

Scores = dict[tuple[str, str], float]
"""Mean F1 by (data set, name of the image)."""
LEVELS = ((1e-4, "****"), (1e-3, "***"), (1e-2, "**"), (0.05, "*"))
"""Significance levels and their stars; a p-value above all is `ns`."""


class Comparison(NamedTuple):
    """Ours against one other method on the same images."""

    dataset: str
    """`all` for all data sets together."""
    other: str
    images: int
    ours_mean: float
    other_mean: float
    p_value: float
    """Two-sided, not corrected for the number of comparisons; NaN where nothing can be tested."""

    @property
    def stars(self) -> str:
        """Level of significance; empty where nothing could be tested."""
        if np.isnan(self.p_value):
            return ""
        return next((stars for level, stars in LEVELS if self.p_value < level), "ns")


def read_scores(path: Path, samples_csv: Path | None) -> Scores:
    if path.is_dir():
        images = evaluate_folders(path, path / "masks", samples_csv).images
        return {(image.dataset, image.name): image.score.f1_mean for image in images}
    with path.open(encoding="utf-8", newline="") as lines:
        return {(row["dataset"], row["name"]): float(row["f1_mean"]) for row in csv.DictReader(lines)}


def compare(dataset: str, other: str, ours: Scores, others: Scores) -> Comparison:
    """Compare the images of one data set, or of `all`."""
    keys = [key for key in ours if dataset in ("all", key[0])]
    a, b = (np.array([scores[key] for key in keys]) for scores in (ours, others))
    testable = len(keys) > 1 and np.any(a != b)
    p_value = float(ttest_rel(a, b).pvalue) if testable else float("nan")
    return Comparison(dataset, other, len(keys), float(a.mean()), float(b.mean()), p_value)


def table(ours: str, comparisons: list[Comparison]) -> str:
    lines = [
        f"| data set | against | images | {ours} | other | difference | p | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        p_value = "" if np.isnan(c.p_value) else f"{c.p_value:.2g}"
        figures = f"{c.ours_mean:.3f} | {c.other_mean:.3f} | {c.ours_mean - c.other_mean:+.3f} | {p_value} | {c.stars}"
        lines.append(f"| {c.dataset} | {c.other} | {c.images} | {figures} |")
    return "\n".join(lines)


def plot(path: Path, methods: dict[str, Scores], comparisons: list[Comparison]) -> None:
    """Draw a box per method, grouped by data set, with the level of significance above each other method's."""
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(c.dataset for c in comparisons))
    stars = {(c.dataset, c.other): c.stars for c in comparisons}
    figure = Figure((1.5 + 0.6 * len(datasets) * (len(methods) + 1), 4), layout="constrained")
    axes = figure.subplots()
    for i, (name, scores) in enumerate(methods.items()):
        columns = [[score for key, score in scores.items() if d in ("all", key[0])] for d in datasets]
        positions = [d * (len(methods) + 1) + i for d in range(len(datasets))]
        boxes = axes.boxplot(columns, positions=positions, widths=0.8, patch_artist=True, flierprops={"markersize": 3})
        for box, median in zip(boxes["boxes"], boxes["medians"], strict=True):
            box.set_facecolor(f"C{i}")
            median.set_color("black")
        axes.plot([], [], "s", color=f"C{i}", label=name)
        for position, dataset in zip(positions, datasets, strict=True):
            axes.text(position, 1.03, stars.get((dataset, name), ""), ha="center", fontsize=8)
    axes.set_xticks([d * (len(methods) + 1) + (len(methods) - 1) / 2 for d in range(len(datasets))], datasets)
    axes.set_ylim(-0.02, 1.1)
    axes.set_ylabel("mean F1 per image")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(methods), frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", metavar="NAME=PATH", help="ours first, then at least one other")
    parser.add_argument("--samples", type=Path, help="samples.csv, for the data sets of images scored from folders")
    parser.add_argument("--plot", type=Path, help="PNG file for the box plot; needs matplotlib")
    arguments = parser.parse_args()
    pairs = [text.partition("=")[::2] for text in arguments.methods]
    if len(pairs) < 2 or not all(name and path for name, path in pairs) or len(dict(pairs)) < len(pairs):
        parser.error("give at least two different NAME=PATH")
    methods = {name: read_scores(Path(path), arguments.samples) for name, path in pairs}
    ours, *others = methods
    for name in others:
        if methods[name].keys() != methods[ours].keys():
            odd = sorted(methods[name].keys() ^ methods[ours].keys())
            parser.error(f"{ours} and {name} differ in {len(odd)} images, such as {odd[0]}; score the same images")
    datasets = sorted({dataset for dataset, _ in methods[ours] if dataset})
    datasets = [*datasets, "all"] if len(datasets) != 1 else datasets
    comparisons = [compare(d, name, methods[ours], methods[name]) for d in datasets for name in others]
    print(table(ours, comparisons))
    if arguments.plot is not None:
        plot(arguments.plot, methods, comparisons)


if __name__ == "__main__":
    main()
