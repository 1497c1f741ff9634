"""Seconds to measure many nuclei, beside scikit-image's `regionprops_table`, and how far apart the numbers are.

python benchmarks/measure.py --objects 10000

The nuclei are those of DSB 2018's masks, laid side by side; three channels of 8 bits hold the images. The optical
densities of the stains are measured of all of them, whatever they show: it is their time that counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.measure import regionprops_table

from cytoseed.learn.samples import find_samples
from cytoseed.results.measure.table import measure_objects
from cytoseed.settings import STAINS

DATA = Path(os.environ.get("CYTOSEED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
CHANNELS = ("red", "green", "blue")
STATISTICS = ("mean", "sd", "p05", "p25", "p50", "p75", "p95")
SHAPE = {
    "bbox-1": "box_x_px",
    "bbox-0": "box_y_px",
    "centroid-1": "centroid_x_px",
    "centroid-0": "centroid_y_px",
    "area": "area_px",
    "perimeter": "perimeter_px",
    "axis_major_length": "axis_major_px",
    "axis_minor_length": "axis_minor_px",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
}
"""Columns by their names in scikit-image."""


def mosaic(data: Path, objects: int, width: int) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Lay real images of 8 bits side by side, row by row, until there are enough objects."""
    rows: list[tuple[NDArray[np.int32], NDArray[np.uint8]]] = []
    labels, image = np.zeros((0, width), np.int32), np.zeros((3, 0, width), np.uint8)
    count, filled = 0, width
    read = (sample.read() for sample in find_samples(data, datasets=["dsb2018"]))
    for pixels, mask in sorted(read, key=lambda pair: pair[1].shape):  # equal heights leave no gaps
        height, wide = mask.shape
        if count >= objects:
            break
        if filled + wide > width or height > labels.shape[0]:
            labels, image = np.zeros((height, width), np.int32), np.zeros((3, height, width), np.uint8)
            rows.append((labels, image))
            filled = 0
        ids, place = np.unique(np.maximum(mask, 0), return_inverse=True)
        numbers = np.cumsum(ids > 0) * (ids > 0)
        own = numbers[place].reshape(mask.shape)
        labels[:height, filled : filled + wide] = np.where(own > 0, own + count, 0)
        image[:, :height, filled : filled + wide] = pixels[:3]
        count, filled = count + int(numbers.max()), filled + wide
    return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows], axis=1)


def statistics_of(mask: NDArray[np.bool_], channel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give `STATISTICS` of one object in one channel."""
    inside = channel[mask]
    return np.array([inside.mean(), inside.std(), *np.percentile(inside, [5, 25, 50, 75, 95])])


def by_scikit_image(labels: NDArray[np.int32], image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Measure one object after the other."""
    properties = ("label", "bbox", *(name for name in SHAPE if "-" not in name), "centroid")
    pixels = np.moveaxis(image, 0, -1).astype(np.float64)
    table = regionprops_table(labels, pixels, properties, extra_properties=(statistics_of,))
    return table | {
        f"{statistic}_{channel}": table[f"statistics_of-{row}-{place}"]
        for row, statistic in enumerate(STATISTICS)
        for place, channel in enumerate(CHANNELS)
    }


def differences(table: pd.DataFrame, known: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Give the largest relative difference of each column; of a minor axis, relative to the major one."""
    found = {}
    of_values = {name: name for name in known if name.partition("_")[0] in STATISTICS}
    for theirs, ours in (SHAPE | of_values).items():
        wanted = known[theirs] + (0.5 if theirs.startswith("centroid") else 0)
        apart = np.abs(table[ours].to_numpy() - wanted)
        scale = known["axis_major_length"] if ours == "axis_minor_px" else np.abs(wanted)
        found[ours] = float((apart / np.where(scale != 0, scale, 1)).max())
    return found


def median_seconds(action: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=4096, help="of the mosaic, px")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    labels, image = mosaic(arguments.data, arguments.objects, arguments.width)
    table = measure_objects(labels, image, CHANNELS, 0.5, STAINS)
    print(f"{len(table)} nuclei on {labels.shape[0]} x {labels.shape[1]} px, {np.mean(labels > 0):.0%} of them covered")
    seconds = {
        "shape alone": median_seconds(lambda: measure_objects(labels, (), (), 0.5), arguments.times),
        "and three channels": median_seconds(lambda: measure_objects(labels, image, CHANNELS, 0.5), arguments.times),
        "and three stains": median_seconds(
            lambda: measure_objects(labels, image, CHANNELS, 0.5, STAINS), arguments.times
        ),
    }
    tracemalloc.start()
    measure_objects(labels, image, CHANNELS, 0.5, STAINS)
    peak = tracemalloc.get_traced_memory()[1] / labels.size
    tracemalloc.stop()
    start = time.perf_counter()
    known = by_scikit_image(labels, image)
    theirs = time.perf_counter() - start
    for what, own in seconds.items():
        print(f"measure_objects, {what}: {own:.3f} s, {1e6 * own / len(table):.1f} µs a nucleus")
    print(f"measure_objects: {peak:.1f} bytes a pixel of the image at most, beside labels and image")
    print(f"regionprops_table, without stains: {theirs:.2f} s, {1e6 * theirs / len(table):.1f} µs a nucleus")
    for name, apart in differences(table, known).items():
        print(f"{name}: largest relative difference {apart:.1e}")


if __name__ == "__main__":
    main()
