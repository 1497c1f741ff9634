"""Makes the folder that `nuclei-he` is trained from: open H&E sets, backgrounds, and synthetic DAB stains.

python benchmarks/tissue.py --output ~/tissue

`backgrounds` are regions without nuclei, listed in backgrounds.csv. `dab` holds the stained training images with their
eosin replaced by DAB in membranes, cytoplasm or nuclei; every image has its own colours and strengths. The folder is
one that `cytoseed train --data` takes; images that are already in the data are linked. Reproducible.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.segmentation import expand_labels, find_boundaries

from cytoseed.images import open_image
from cytoseed.learn.samples import Sample, find_samples
from places import DATA

COLUMNS = ("dataset", "stem", "field", "split", "modality", "pixel_size_um", "licence")
TISSUE = ("nuinsseg", "tnbc")
EVERY = 6  # images between two that get a DAB copy, so that a fifth of the crops are of this kind
HAEMATOXYLIN, EOSIN, DAB = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists; remove it, or give another --output")
    found = find_samples(arguments.data, ["train", "val"], [*TISSUE, "dsb2018"])
    kept = [sample for sample in found if sample.modality == "brightfield"]
    for dataset in {sample.dataset for sample in kept}:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / dataset).symlink_to((arguments.data / dataset).resolve())
    kept += backgrounds(arguments.data, arguments.output)
    stained = [sample for sample in found if sample.dataset in TISSUE]
    kept += [synthetic_dab(sample, arguments.output) for sample in stained[::EVERY]]
    with (arguments.output / "samples.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *map(row_of, kept)])
    print(f"{len(kept)} images in {arguments.output}")


def row_of(sample: Sample) -> tuple[str | float, ...]:
    """Row of samples.csv."""
    um = "" if sample.pixel_size_um is None else sample.pixel_size_um
    field = sample.field or sample.name
    return (sample.dataset, sample.name, field, sample.split, sample.modality, um, sample.licence)


def backgrounds(data: Path, output: Path) -> Iterator[Sample]:
    """Write the regions of backgrounds.csv with empty masks."""
    with Path(__file__).with_name("backgrounds.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    for number, row in enumerate(rows):
        (source,) = [data / row["image"]] if row["image"].endswith(".svs") else data.glob(row["image"] + ".*")
        top, left, height, width = (int(row[name]) for name in ("top", "left", "height", "width"))
        pixels = open_image(source).read()[:, top : top + height, left : left + width]
        licence = "CC0-1.0" if source.suffix == ".svs" else "CC-BY-4.0"
        name = f"{number:02d}_{source.stem}"
        empty = np.zeros((height, width), np.uint16)
        paths = write(output / "backgrounds", name, pixels, empty)
        um = float(row["pixel_size_um"])
        yield Sample(name, "backgrounds", "brightfield", "train", *paths, um, f"background_{source.stem}", licence)


def synthetic_dab(sample: Sample, output: Path) -> Sample:
    """Write a copy of an H&E image in haematoxylin and DAB."""
    pixels, mask = sample.read()
    seed = zlib.crc32(sample.name.encode())
    stained = replace_eosin(pixels, mask, np.random.default_rng(seed))
    image_path, mask_path = write(output / "dab", sample.name, stained, mask.astype(np.uint16))
    return dataclasses.replace(sample, dataset="dab", image_path=image_path, mask_path=mask_path)


def replace_eosin(pixels: NDArray[Any], mask: NDArray[np.int32], random: np.random.Generator) -> NDArray[np.uint8]:
    """H&E image (3, H, W) of 8 bits with DAB in the membranes, the cytoplasm or the nuclei of some cells."""
    density = -np.log((pixels.reshape(3, -1).T.astype(np.float64) + 1) / 256)
    stains = np.array([HAEMATOXYLIN, EOSIN, DAB])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    amounts = np.clip(density @ np.linalg.inv(stains), 0, None).T.reshape(3, *mask.shape)
    haematoxylin, eosin = amounts[0], amounts[1]
    eosin = eosin / max(np.percentile(eosin, 95), 0.1)
    inside = np.clip(ndimage.gaussian_filter((mask > 0).astype(float), 1), 0, 1)
    cells = expand_labels(mask, random.uniform(8, 24))
    positive = random.random(int(cells.max()) + 1) < random.choice([0.0, 0.2, 0.5, 0.8, 1.0])
    strength = np.where(positive, random.uniform(0.5, 1.5, positive.size), 0)
    strength[0] = 0
    of_cell = ndimage.gaussian_filter(strength[cells], 1)
    kind = random.choice(["membrane", "cytoplasm", "nucleus"])
    if kind == "membrane":
        lines = ndimage.gaussian_filter(find_boundaries(cells, mode="thick").astype(float), random.uniform(1, 2.5))
        dab = of_cell * (1.5 * lines * (0.5 + eosin) + 0.2 * eosin * (1 - inside))
    elif kind == "cytoplasm":
        dab = of_cell * (0.3 + 0.7 * eosin) * (1 - random.uniform(0.6, 1.0) * inside)
    else:
        inner = haematoxylin / max(np.percentile(haematoxylin[mask > 0], 90) if (mask > 0).any() else 1, 0.1)
        dab = of_cell * inside * np.clip(0.3 + inner, 0, 1.5)
        haematoxylin = haematoxylin * (1 - random.uniform(0, 0.8) * np.clip(of_cell, 0, 1) * inside)
    dab = dab * random.uniform(0.4, 1.6) + eosin * random.uniform(0, 0.35)
    own = stains[[0, 2]] + random.normal(0, 0.05, (2, 3))
    amount = np.stack([haematoxylin * random.uniform(0.4, 1.0), dab]).reshape(2, -1)
    light = 256 * np.exp(-(np.clip(own, 0.02, None).T @ amount)) - 1
    white = random.uniform(0.9, 1.0, (3, 1))
    return np.clip(np.rint(light * white), 0, 255).astype(np.uint8).reshape(3, *mask.shape)


def write(folder: Path, name: str, pixels: NDArray[Any], mask: NDArray[np.uint16]) -> tuple[Path, Path]:
    """Write an image as JPEG of quality 95, like most of the originals, and its mask; returns their paths."""
    paths = folder / "images" / f"{name}.jpg", folder / "masks" / f"{name}.png"
    jpeg = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels.transpose(1, 2, 0)), level=95, subsampling="444")
    for path, content in zip(paths, (jpeg, imagecodecs.png_encode(mask)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return paths


if __name__ == "__main__":
    main()
