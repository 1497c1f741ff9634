"""The paper's Table 3, dimensions of the embeddings: trains four models alike, and scores them.

python benchmarks/ablation.py --steps 1500 --output runs/ablation --write

Each model is trained from scratch on the open data with the same two seeds, and scored on val; the table has means over
the seeds, as differences from the first row, and half the difference between the seeds. An interrupted training
continues.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from cytoseed.learn.samples import TrainValSplit, find_samples
from cytoseed.learn.settings import RECIPES
from cytoseed.learn.train import train
from cytoseed.settings import ModelConfig
from places import DATA, OPEN_DATA, write_page

DIMENSIONS = ((4, 4), (2, 4), (2, 2), (2, 0))
"""Dp and De of each row."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=RECIPES["default"].steps)
    parser.add_argument("--batch", type=int, default=RECIPES["default"].batch_size)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--network", default="lite")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    samples = TrainValSplit(*(find_samples(arguments.data, [split], OPEN_DATA) for split in ("train", "val")))
    config = dataclasses.replace(
        RECIPES["default"],
        steps=arguments.steps,
        pretrain_steps=arguments.steps // 10,
        batch_size=arguments.batch,
        validate_every=max(1, arguments.steps // 4),
    )
    lines = ["| Dp | De | F1@0.5 | mean F1 |", "|---|---|---|---|"]
    first = np.zeros(2)
    for positional, conditional in DIMENSIONS:
        name = f"dp{positional}-de{conditional}"
        model = ModelConfig(name, network=arguments.network, positional_dims=positional, conditional_dims=conditional)
        scores = []
        for seed in range(arguments.seeds):
            folder, recipe = arguments.output / f"{name}-{seed}", dataclasses.replace(config, seed=seed)
            own = train(samples, model, recipe, folder, arguments.device, resume=True).after[-1]
            scores.append((own.f1, own.f1_mean))
        is_first = len(lines) == 2
        means, spread = np.mean(scores, axis=0), np.ptp(scores, axis=0) / 2
        texts = [
            f"{mean:{'.3f' if is_first else '+.3f'}} ± {own:.3f}"
            for mean, own in zip(means - first, spread, strict=True)
        ]
        first = means if is_first else first
        lines.append(f"| {positional} | {conditional} | {' | '.join(texts)} |")
        print(lines[-1], flush=True)
    if arguments.write:
        write_page("ablation", "\n".join(lines))


if __name__ == "__main__":
    main()
