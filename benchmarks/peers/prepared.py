"""Shared by the adapters that train peers: reading of the data folder, writing of labels, the command line.

Imports neither cytoseed nor a peer, so that it runs in each peer's own environment: numpy, imageio and tifffile only.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as imageio
import numpy as np
import tifffile
from numpy.typing import NDArray

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

# Scripts here carry their peer's name; their folder must not stand before the installed package of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]


class Sample(NamedTuple):
    """One image with its mask, read."""

    stem: str
    dataset: str
    modality: str
    pixels: NDArray[Any]
    """(H, W, 3), dtype as stored; a grey image three times."""
    mask: NDArray[np.int32]
    """(H, W); 0 is background, as are pixels that nobody annotated (-1): peers cannot ignore pixels."""


class Run(NamedTuple):
    """A training."""

    folder: Path
    """Folder of the trained peer."""
    minutes: float
    seed: int
    deadline: float
    """In seconds of `time.monotonic`."""

    def seconds_left(self) -> float:
        """Seconds until training must end, 0 once it must."""
        return max(self.deadline - time.monotonic(), 0.0)


def read_samples(data: Path, split: str, datasets: Iterable[str] | None) -> list[Sample]:
    with (data / "samples.csv").open(encoding="utf-8-sig", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] == split]
    rows = [row for row in rows if not datasets or row["dataset"] in datasets]
    if not rows:
        raise SystemExit(f"{data / 'samples.csv'} lists no {split} image of {datasets or 'any data set'}")
    stems = [row["stem"] for row in rows]
    if len(set(stems)) < len(stems):
        raise SystemExit(f"two {split} images share a stem; choose one data set with --dataset")
    return [_read(data, row) for row in rows]


def padded(pixels: NDArray[Any], mask: NDArray[Any], least: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image (H, W, C) mirrored below and to the right to at least `least` px; the mask gets background."""
    pads = [(0, max(least - side, 0)) for side in mask.shape]
    return np.pad(pixels, [*pads, (0, 0)], mode="reflect"), np.pad(mask, pads)


def write_labels(folder: Path, stem: str, labels: NDArray[Any], shape: tuple[int, int]) -> None:
    """Write one label image as int32, under the name that `cytoseed evaluate` expects."""
    labels = np.asarray(labels).squeeze()
    if labels.shape != shape:
        raise SystemExit(f"{stem}: labels are {labels.shape}, the image is {shape}")
    folder.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(folder / f"{stem}.labels.tif", labels.astype(np.int32), compression="zlib")


def main(
    train: Callable[[Run, list[Sample], list[Sample], argparse.Namespace], None],
    load: Callable[[Path], Callable[[Sample], NDArray[Any]]],
    extras: Callable[[argparse.ArgumentParser], None] = lambda _: None,
) -> None:
    """Run `train` or `predict`; `load` returns the function from a sample to its labels."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("action", choices=["train", "predict"])
    parser.add_argument("--data", type=Path, required=True, help="folder with samples.csv, DATASET/images and /masks")
    parser.add_argument("--dataset", action="append", help="only this data set; may be repeated")
    parser.add_argument("--split", default="test", help="predict: split of the images")
    parser.add_argument("--run", type=Path, help="predict: folder that train wrote")
    parser.add_argument("--output", type=Path, required=True, help="train: the run's folder; predict: for labels")
    parser.add_argument("--minutes", type=float, default=60.0, help="train: stop after this long, validation aside")
    parser.add_argument("--seed", type=int, default=1)
    extras(parser)
    arguments = parser.parse_args()
    sys.argv[1:] = []  # a peer that parses the command line itself must not see ours
    if arguments.action == "train":
        arguments.output.mkdir(parents=True, exist_ok=True)
        start = time.monotonic()
        run = Run(arguments.output.resolve(), arguments.minutes, arguments.seed, start + 60 * arguments.minutes)
        sides = [read_samples(arguments.data, split, arguments.dataset) for split in ("train", "val")]
        train(run, sides[0], sides[1], arguments)
        print(f"trained in {(time.monotonic() - start) / 60:.1f} min; the run is {run.folder}", flush=True)
        return
    if arguments.run is None:
        parser.error("predict needs --run")
    segment = load(arguments.run.resolve())
    samples, start = read_samples(arguments.data, arguments.split, arguments.dataset), time.monotonic()
    for sample in samples:
        write_labels(arguments.output, sample.stem, segment(sample), sample.mask.shape)
    _link_masks(arguments.data, arguments.output / "masks", samples)
    seconds = (time.monotonic() - start) / len(samples)
    print(f"{len(samples)} label images in {arguments.output}, {seconds:.2f} s per image", flush=True)


def _read(data: Path, row: dict[str, str]) -> Sample:
    pixels = np.asarray(imageio.imread(_locate(data, row["dataset"], "images", row["stem"])))
    mask = np.asarray(imageio.imread(_locate(data, row["dataset"], "masks", row["stem"])))
    pixels = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]
    mask = np.maximum(mask.astype(np.int32), 0)
    return Sample(row["stem"], row["dataset"], row.get("modality") or "unknown", pixels, mask)


def _link_masks(data: Path, folder: Path, samples: list[Sample]) -> None:
    """Link the true masks of these images beside the labels, for `cytoseed evaluate`."""
    folder.mkdir(exist_ok=True)
    for sample in samples:
        source = _locate(data, sample.dataset, "masks", sample.stem).resolve()
        link = folder / f"{sample.stem}{source.suffix}"
        link.unlink(missing_ok=True)
        link.symlink_to(source)


def _locate(data: Path, dataset: str, kind: str, stem: str) -> Path:
    for suffix in SUFFIXES:
        path = data / dataset / kind / f"{stem}{suffix}"
        if path.is_file():
            return path
    raise SystemExit(f"no {kind} file {data / dataset / kind / stem}.* ({', '.join(SUFFIXES)})")
