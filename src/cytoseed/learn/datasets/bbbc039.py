"""BBBC039: nuclei of U2OS cells, Hoechst, fluorescence, 16 bit (Caicedo et al. 2019).

200 fields of 520 x 696 px with a published split. In the first channel of a mask, objects are pieces of equal
value, pixels that meet at a corner being connected, as the authors read them.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import picture, pieces
from cytoseed.learn.datasets.layout import files, find_folder, pair, require
from cytoseed.learn.datasets.source import Item, Source

_LISTS = {"training": "train", "validation": "val", "test": "test"}


def _find(folder: Path) -> list[Item]:
    images, masks = (find_folder(folder, name) for name in ("images", "masks"))
    pairs = pair(files(images, ".tif", ".tiff"), files(masks, ".png"))
    splits = _read_splits(files(find_folder(folder, "metadata"), ".txt"))
    require("no line in metadata/*.txt of", {stem for stem, *_ in pairs} - splits.keys())
    return [
        Item(stem, picture(image), partial(_read_mask, mask), split=splits[stem], modality="fluorescence")
        for stem, image, mask in pairs
    ]


def _read_splits(lists: dict[str, Path]) -> dict[str, str]:
    require("no file in metadata named", (f"{name}.txt" for name in _LISTS.keys() - lists.keys()))
    return {
        Path(line.strip()).stem: split
        for name, split in _LISTS.items()
        for line in lists[name].read_text(encoding="utf-8").splitlines()
        if line.strip()
    }


def _read_mask(path: Path, _: tuple[int, int]) -> NDArray[np.int32]:
    return pieces(picture(path)()[0], corners=True)


SOURCE = Source(
    name="bbbc039",
    title="fluorescence, U2OS cells, 20x",
    licence="CC0-1.0",
    url="https://bbbc.broadinstitute.org/BBBC039",
    download="images.zip, masks.zip and metadata.zip, unpacked into one folder",
    layout="folders images (*.tif), masks (*.png) of the same names, and metadata with training.txt, validation.txt, "
    "test.txt",
    find=_find,
    images=200,
    objects=None,
    counted_by="its publication",
)
