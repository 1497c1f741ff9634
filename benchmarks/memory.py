"""Peak memory of a training whose images take more than it may hold; the rest stays on disk.

python benchmarks/memory.py --images 150 --side 2048 --memory-gb 1

Makes images (discs on noise, 12 bytes per pixel once unpacked) in a temporary folder, trains `lite` on them for a few
steps and prints the peak resident memory.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from cytoseed.learn.samples import TrainValSplit, find_samples
from cytoseed.learn.settings import TrainConfig
from cytoseed.learn.train import train
from cytoseed.settings import ModelConfig


def make_image(folder: Path, index: int, side: int) -> None:
    rng = np.random.default_rng(index)
    rows, columns = np.mgrid[-8:9, -8:9]
    disc = rows**2 + columns**2 <= 64
    mask = np.zeros((side, side), np.uint16)
    for number, place in enumerate(np.ndindex(side // 24, side // 24), start=1):
        row, column = (24 * part + int(rng.integers(0, 7)) for part in place)
        mask[row : row + 17, column : column + 17][disc] = number
    image = np.clip(rng.normal(40, 8, mask.shape) + 120 * (mask > 0), 0, 255).astype(np.uint8)
    for kind, pixels in (("images", image), ("masks", mask)):
        (folder / kind).mkdir(exist_ok=True)
        tifffile.imwrite(folder / kind / f"{index}.tif", pixels, compression="zlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--memory-gb", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(arguments.images + 1):
            make_image(folder, index, 256 if index == 0 else arguments.side)
        first, *others = sorted(find_samples(folder), key=lambda sample: int(sample.name))
        config = TrainConfig(
            steps=arguments.steps, pretrain_steps=0, memory_gb=arguments.memory_gb, validate_every=arguments.steps
        )
        started = time.monotonic()
        train(TrainValSplit(tuple(others), (first,)), ModelConfig("memory"), config, folder / "run", "cpu")
        seconds = time.monotonic() - started
    unpacked = 12e-9 * arguments.images * arguments.side**2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{unpacked:.1f} GB of images, {arguments.memory_gb:g} GB allowed: peak {peak:.2f} GB, {seconds:.0f} s")


if __name__ == "__main__":
    main()
