"""Tiles against one pass: how many objects of an image agree in every pixel, for several tile sizes.

python benchmarks/tiles.py IMAGE [--model nuclei] [--sizes 256 512 1024] [--crop Y X HEIGHT WIDTH]
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.models.weights import load_model
from cytoseed.run import segment as door


def agreeing(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """Count the objects of two labellings (H,W) that are the same in every pixel."""
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
    wishes = parser.parse_args()
    image = open_image(wishes.image)
    pixels, size = image.read(tuple(wishes.crop) if wishes.crop else None), image.pixel_size_um
    model = load_model(wishes.model)
    door._LARGEST_WHOLE_PX = door._LARGEST_HELD_BYTES = 1 << 40  # one pass, whatever it takes
    whole = door.segment(pixels, model, pixel_size_um=size).labels
    for side in wishes.sizes:
        tiles = door.segment(pixels, model, pixel_size_um=size, tile_size_px=side, skip_background=False).labels
        differ = int(np.count_nonzero((whole > 0) != (tiles > 0)))
        print(
            f"tiles of {side} px: {tiles.max()} objects, {whole.max()} in one pass, {agreeing(whole, tiles)} the same; "
            f"{differ} px differ"
        )


if __name__ == "__main__":
    main()
