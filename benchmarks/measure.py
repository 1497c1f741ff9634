"""Seconds to measure many nuclei, beside scikit-image's `regionprops_table`, and the differences between both.

python benchmarks/measure.py --side 4096 --objects 10000

The nuclei are those of DSB 2018's masks in a mosaic; three equal channels of 8 bits hold the images.
"""

from __future__ import annotations

import argparse
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

from cytoseed.results.measure.table import measure_objects
from cytoseed.settings import STAINS
from places import DATA
from speed_images import draw, find_parts

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


def statistics_of(mask: NDArray[np.bool_], channel: NDArray[np.float64]) -> NDArray[np.float64]:
    """`STATISTICS` of one object in one channel."""
    inside = channel[mask]
    return np.array([inside.mean(), inside.std(), *np.percentile(inside, [5, 25, 50, 75, 95])])


def by_scikit_image(labels: NDArray[np.int32], image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Table of scikit-image, with our names for the statistics."""
    properties = ("label", "bbox", *(name for name in SHAPE if "-" not in name), "centroid")
    pixels = np.moveaxis(image, 0, -1).astype(np.float64)
    table = regionprops_table(labels, pixels, properties, extra_properties=(statistics_of,))
    return table | {
        f"{statistic}_{channel}": table[f"statistics_of-{row}-{place}"]
        for row, statistic in enumerate(STATISTICS)
        for place, channel in enumerate(CHANNELS)
    }


def differences(table: pd.DataFrame, known: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Largest relative difference of each column; of a minor axis, relative to the major one."""
    found = {}
    of_values = {name: name for name in known if name.partition("_")[0] in STATISTICS}
    for theirs, ours in (SHAPE | of_values).items():
        expected = known[theirs] + (0.5 if theirs.startswith("centroid") else 0)
        apart = np.abs(table[ours].to_numpy() - expected)
        scale = known["axis_major_length"] if ours == "axis_minor_px" else np.abs(expected)
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
    parser.add_argument("--side", type=int, default=4096, help="of the mosaic, px, a multiple of 256")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    grey, labels = draw(find_parts(arguments.data), arguments.side, arguments.objects)
    image = np.stack([grey] * 3)

    def measure(channels: tuple[str, ...] = CHANNELS, stains: tuple[str, ...] = ()) -> pd.DataFrame:
        return measure_objects(labels, image if channels else (), channels, 0.5, stains)

    table = measure()
    print(f"{len(table)} nuclei on {arguments.side} x {arguments.side} px, {np.mean(labels > 0):.0%} of them covered")
    kinds: dict[str, tuple[tuple[str, ...], ...]] = {
        "shape alone": ((),),
        "and three channels": (CHANNELS,),
        "and three stains": (CHANNELS, STAINS),
    }
    for what, given in kinds.items():
        own = median_seconds(lambda given=given: measure(*given), arguments.times)  # type: ignore[misc]
        print(f"measure_objects, {what}: {own:.3f} s, {1e6 * own / len(table):.1f} µs per nucleus")
    tracemalloc.start()
    measure(CHANNELS, STAINS)
    peak = tracemalloc.get_traced_memory()[1] / labels.size
    print(f"measure_objects: at most {peak:.1f} bytes per pixel of the image, beside labels and image")
    tracemalloc.stop()
    start = time.perf_counter()
    known = by_scikit_image(labels, image)
    theirs = time.perf_counter() - start
    print(f"regionprops_table, without stains: {theirs:.2f} s, {1e6 * theirs / len(table):.1f} µs per nucleus")
    for name, apart in differences(table, known).items():
        print(f"{name}: largest relative difference {apart:.1e}")


if __name__ == "__main__":
    main()
