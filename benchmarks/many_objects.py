"""A million objects in each format: time to write them, peak memory, and size of the file.

    python benchmarks/many_objects.py                    # each format in a process of its own
    python benchmarks/many_objects.py --format parquet --objects 100000

The objects are discs of three sizes in blocks of 1,600, as of a slide's tiles, with the whole table of a stained
section. Nothing is read from an image: the overlay is left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cytoseed.results import WRITERS, Block, ResultView
from cytoseed.results.measure.table import measure_objects
from cytoseed.settings import STAINS

_PITCH_PX = 32  # from one object to the next
_ACROSS = 40  # objects per side of a block
_BLOCK_PX = _PITCH_PX * _ACROSS
_PER_BLOCK = _ACROSS**2
_CHANNELS = ("red", "green", "blue")
_PIXEL_SIZE_UM = 0.25


class Many:
    """Contents of a result: any number of objects that take no memory."""

    def __init__(self, blocks_across: int) -> None:
        self.blocks_across = blocks_across

    @property
    def count(self) -> int:
        return self.blocks_across**2 * _PER_BLOCK

    @cached_property
    def _first(self) -> tuple[NDArray[np.int32], pd.DataFrame]:
        """Labels and table of the block at the top left."""
        rows, columns = np.mgrid[:_BLOCK_PX, :_BLOCK_PX]
        number = (rows // _PITCH_PX * _ACROSS + columns // _PITCH_PX + 1).astype(np.int32)
        away = np.hypot(rows % _PITCH_PX - 15.5, columns % _PITCH_PX - 15.5)
        labels = np.where(away < 7 + number % 3 * 3, number, 0).astype(np.int32)
        pixels = np.random.default_rng(0).integers(60, 250, (3, *labels.shape), np.uint8)
        return labels, measure_objects(labels, pixels, _CHANNELS, _PIXEL_SIZE_UM, STAINS)

    def blocks(self) -> Iterator[Block]:
        labels, table = self._first
        for index in range(self.blocks_across**2):
            top, left = (place * _BLOCK_PX for place in divmod(index, self.blocks_across))
            moved = {"id": table["id"] + index * _PER_BLOCK}
            for unit, scale in (("px", 1.0), ("um", _PIXEL_SIZE_UM)):
                for name in {f"box_x_{unit}", f"box_y_{unit}", f"centroid_x_{unit}", f"centroid_y_{unit}"} & {*table}:
                    shift = (left if "_x_" in name else top) * scale
                    moved[name] = table[name] + type(table[name].iloc[0])(shift)
            own = np.where(labels > 0, labels + index * _PER_BLOCK, 0).astype(np.int32)
            yield Block(top, left, own[None], table.assign(**moved))

    def labels_in(self, box_yxhw: tuple[int, int, int, int]) -> NDArray[np.int32]:
        top, left, height, width = box_yxhw
        rows, columns = np.arange(top, top + height), np.arange(left, left + width)
        labels = self._first[0][np.ix_(rows % _BLOCK_PX, columns % _BLOCK_PX)]
        block = (rows // _BLOCK_PX * self.blocks_across)[:, None] + columns // _BLOCK_PX
        return np.where(labels > 0, labels + block * _PER_BLOCK, 0).astype(np.int32)[None]

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        raise NotImplementedError("only the overlay needs it")


def many(blocks_across: int) -> ResultView:
    """Result of a slide of blocks of objects."""
    side = blocks_across * _BLOCK_PX

    def thumbnail(_: int) -> tuple[NDArray[Any], float]:
        raise NotImplementedError("only the overlay needs it")

    return ResultView(
        contents=cast(Any, Many(blocks_across)),
        shape=(3, side, side),
        targets=("nuclei",),
        channel_names=_CHANNELS,
        pixel_size_um=_PIXEL_SIZE_UM,
        source="many.svs",
        settings={},
        find_input=dict,
        find_stains=lambda: STAINS,
        thumbnail=thumbnail,
    )


def write(name: str, across: int) -> dict[str, float]:
    """Write one format; seconds, peak memory and size."""
    result = many(across)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"many{WRITERS[name].suffix}"
        started = time.perf_counter()
        WRITERS[name].write(result, path)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())
    return {"s": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "size": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", choices=WRITERS, help="one format, in this process")
    parser.add_argument("--objects", type=int, default=1_000_000)
    arguments = parser.parse_args()
    across = max(1, round((arguments.objects / _PER_BLOCK) ** 0.5))
    if arguments.format:
        print(json.dumps(write(arguments.format, across)))
        return
    print(f"{across**2 * _PER_BLOCK:,} objects on {across * _BLOCK_PX:,} x {across * _BLOCK_PX:,} px\n")
    print("| format | s | peak memory, GB | size, MB |\n|---|---|---|---|")
    for name in WRITERS:
        if name != "overlay" and WRITERS[name].limit(many(across).shape, many(across).count) is None:
            command = [sys.executable, __file__, "--format", name, "--objects", str(arguments.objects)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"| `{name}` | {found['s']:.0f} | {found['peak'] / 1e9:.2f} | {found['size'] / 1e6:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
