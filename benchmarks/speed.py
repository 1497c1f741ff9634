"""Seconds from a normalised image in memory to its labels, and of the network alone.

python benchmarks/speed.py --models nuclei nuclei-paper --sides 1024 --device cpu --threads 2

The image is a mosaic of one 256 x 256 px fluorescence image of DSB 2018 with about 65 nuclei.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cytoseed.core.prepare import fit_channels, normalise
from cytoseed.learn.samples import find_samples
from cytoseed.models.weights import load_model
from cytoseed.run.engine import Engine, choose_device

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("CYTOSEED_DATA", ROOT.parent / "shared" / "data"))


def mosaic(data: Path, side: int) -> Tensor:
    """Make the raw image, (1, side, side)."""
    for sample in find_samples(data, splits=["val"], datasets=["dsb2018"]):
        if sample.modality == "fluorescence":
            pixels, mask = sample.read()
            if mask.shape == (256, 256) and mask.max() > 60:
                return torch.from_numpy(np.tile(pixels[:1], (1, side // 256, side // 256)).astype(np.float32))
    raise FileNotFoundError(f"no image of 256 x 256 px with more than 60 nuclei in {data}")


def median_ms(action: Callable[[], object], device: torch.device, times: int) -> float:
    taken = []
    for _ in range(times + 3):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 1000 * statistics.median(taken[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nuclei"])
    parser.add_argument("--sides", nargs="+", type=int, default=[1024], help="multiples of 256")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's own choice")
    parser.add_argument("--times", type=int, default=9)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    print("| model | image | nuclei | normalise, ms | network, ms | image to labels, ms |\n|---|---|---|---|---|---|")
    for side in arguments.sides:
        raw = mosaic(arguments.data, side)
        for name in arguments.models:
            model = load_model(name)
            engine, thresholds = Engine(model.segmenter, device), model.segmenter.thresholds
            image = fit_channels(normalise(raw), model.config.channels).to(device)
            count = int(engine.labels(image, thresholds).max())
            figures = (
                median_ms(lambda raw=raw: normalise(raw), torch.device("cpu"), arguments.times),
                median_ms(lambda engine=engine, image=image: engine.fields(image), device, arguments.times),
                median_ms(
                    lambda engine=engine, image=image, t=thresholds: engine.labels(image, t), device, arguments.times
                ),
            )
            print(
                f"| {name} | {side} x {side} | {count} | {' | '.join(f'{value:.0f}' for value in figures)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
