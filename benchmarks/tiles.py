"""Tiles against one pass: number of objects that are equal in every pixel, for several tile sizes.

python benchmarks/tiles.py IMAGE [--model nuclei] [--sizes 256 512 1024] [--crop Y X HEIGHT WIDTH]
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.models.weights import load_model
from cytoseed.run import plan
from cytoseed.run.api import segment


def equal_objects(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Number of objects of two label images (H,W) that are equal in every pixel."""
    both = (one > 0) & (other > 0)
    pairs, common = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
    sizes, others = np.bincount(one.ravel()), np.bincount(other.ravel())
    return int(np.count_nonzero((common == sizes[pairs[0]]) & (common == others[pairs[1]])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--crop", type=int, nargs=4, metavar=("Y", "X", "HEIGHT", "WIDTH"))
    arguments = parser.parse_args()
    image = open_image(arguments.image)
    pixels, size = image.read(tuple(arguments.crop) if arguments.crop else None), image.pixel_size_um
    model = load_model(arguments.model)
    plan._LARGEST_SINGLE_TILE_PX = plan._LARGEST_SINGLE_TILE_BYTES = 1 << 40  # one pass at any size
    whole = segment(pixels, model, pixel_size_um=size).labels
    for side in arguments.sizes:
        tiles = segment(pixels, model, pixel_size_um=size, tile_size_px=side, skip_background=False).labels
        differ = int(np.count_nonzero((whole > 0) != (tiles > 0)))
        print(
            f"tiles of {side} px: {tiles.max()} objects, {whole.max()} in one pass, "
            f"{equal_objects(whole, tiles)} equal; {differ} px differ"
        )


if __name__ == "__main__":
    main()
