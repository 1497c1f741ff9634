"""Learning curves: F1 on the validation images against the number of crops, one panel per training.

python benchmarks/curves.py runs/nuclei runs/nuclei-he-nc --output docs/images/curves.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from cytoseed.learn.train import LAST
from cytoseed.learn.train_log import LOG
from cytoseed.models.weights import read_config


def curve(folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Thousands of crops, F1@0.5 and mean F1 of each validation."""
    batch = read_config(folder / LAST).recipe["stages"][-1]["batch_size"]
    lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    marks = [line for line in lines if "f1_mean" in line]
    crops = [line["step"] * batch / 1000 for line in marks]
    return crops, [line["f1"] for line in marks], [line["f1_mean"] for line in marks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="output folders of trainings")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    figure = Figure((4 * len(arguments.runs), 3.2), layout="constrained")
    panels = figure.subplots(1, len(arguments.runs), squeeze=False)[0]
    for panel, folder in zip(panels, arguments.runs, strict=True):
        crops, f1, f1_mean = curve(folder)
        panel.plot(crops, f1, "o-", color="#0072b2", label="F1@0.5")
        panel.plot(crops, f1_mean, "s--", color="#d55e00", label="mean F1")
        panel.set(title=folder.name, xlabel="thousand crops", ylim=(0, 1))
        panel.grid(axis="y", color="#dddddd")
    panels[0].set_ylabel("validation images")
    panels[0].legend()
    figure.savefig(arguments.output, dpi=100)


if __name__ == "__main__":
    main()
