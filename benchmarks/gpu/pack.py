"""Packs training and validation images into a small folder that travels to a machine with a GPU.

python benchmarks/gpu/pack.py --pixel-size-um 0.5 --output .gpu/pack

Images of known pixel size are scaled to that of the model, and all are stored as 8-bit JPEG; masks are PNG. The folder
is one that `cytoseed train --data` takes, and has the same bytes each time. The masks of `kumar_*` lie half a pixel up
and left of their images, so these images are moved by as much.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from cytoseed.core.scale import rescale, rescale_labels
from cytoseed.learn.samples import Sample, find_samples
from places import DATA

COLUMNS = ("dataset", "stem", "field", "split", "modality", "pixel_size_um", "licence")
HALF_A_PIXEL_OFF = ("kumar_train16", "kumar_other14")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--dataset", nargs="+", help="data sets to pack; default: all")
    parser.add_argument("--split", nargs="+", default=["train", "val"])
    parser.add_argument("--pixel-size-um", type=float, help="pixel size to scale to; default: images stay as they are")
    parser.add_argument("--lossless", action="store_true", help="PNG instead of JPEG of quality 90")
    parser.add_argument("--output", type=Path, default=Path(".gpu/pack"))
    parser.add_argument("--limit-mib", type=float, default=36.0, help="largest size of the folder")
    arguments = parser.parse_args()
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists; remove it, or give another --output")
    samples = find_samples(arguments.data, arguments.split, arguments.dataset)
    size = pack(samples, arguments.output, arguments.pixel_size_um, lossless=arguments.lossless) / 2**20
    print(f"{len(samples)} images, {size:.1f} MiB in {arguments.output}")
    if size > arguments.limit_mib:
        raise SystemExit(f"larger than {arguments.limit_mib} MiB: pack fewer data sets, or larger pixels")


def pack(samples: tuple[Sample, ...], output: Path, pixel_size_um: float | None, *, lossless: bool) -> int:
    """Write images, masks and samples.csv; returns their size in bytes."""
    rows, size = [], 0
    for sample in samples:
        image, mask, own_um = prepare(sample, pixel_size_um)
        pixels = np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        encoded = imagecodecs.png_encode(pixels, level=9) if lossless else encode_jpeg(pixels)
        files = {
            f"images/{sample.name}.{'png' if lossless else 'jpg'}": encoded,
            f"masks/{sample.name}.png": imagecodecs.png_encode(mask, level=9),
        }
        for name, content in files.items():
            path = output / sample.dataset / name
            path.parent.mkdir(parents=True, exist_ok=True)
            size += path.write_bytes(content)
        um = "" if own_um is None else f"{own_um:g}"
        field = sample.field or sample.name
        rows.append((sample.dataset, sample.name, field, sample.split, sample.modality, um, sample.licence))
    with (output / "samples.csv").open("w", newline="") as table:
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *rows])
    return size


def prepare(sample: Sample, pixel_size_um: float | None) -> tuple[NDArray[np.uint8], NDArray[np.uint16], float | None]:
    """Image (C, H, W) of 8 bits and mask (H, W) at the pixel size, and their pixel size if it is known."""
    pixels, mask = sample.read()
    if mask.min() < 0 or mask.max() > np.iinfo(np.uint16).max:
        raise ValueError(f"{sample.mask_path} has ids {mask.min()} to {mask.max()}; a pack holds 0 to 65535")
    image = to_8_bits(pixels).astype(np.float32)
    if sample.dataset in HALF_A_PIXEL_OFF:
        image = ndimage.shift(image, (0, -0.5, -0.5), order=3, mode="nearest")
    own_um = sample.find_pixel_size_um()
    if own_um is not None and pixel_size_um is not None:
        height, width = (max(1, round(side * own_um / pixel_size_um)) for side in mask.shape)
        image = rescale(torch.from_numpy(image), height, width).numpy()
        mask = rescale_labels(torch.from_numpy(mask)[None], height, width)[0].numpy()
        own_um = pixel_size_um
    return image.round().clip(0, 255).astype(np.uint8), mask.astype(np.uint16), own_um


def to_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Dark and 16-bit images are stretched to 0 to 255, so that JPEG keeps their contrast; others stay."""
    if pixels.dtype == np.uint8 and pixels.max() >= 128:
        return pixels
    low, high = np.percentile(pixels, (0, 99.95))
    stretched = (pixels.astype(np.float32) - low) * (255 / max(1e-6, high - low))
    return stretched.round().clip(0, 255).astype(np.uint8)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """JPEG of quality 90 with colours at full resolution."""
    return imagecodecs.jpeg8_encode(pixels, level=90, subsampling="444")


if __name__ == "__main__":
    main()
