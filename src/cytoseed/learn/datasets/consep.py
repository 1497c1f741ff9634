"""CoNSeP: colorectal cancer, haematoxylin and eosin, 40x (Graham et al. 2019).

41 images of 1000 x 1000 px from 16 slides, 27 to train and 14 to test with; which image is of which slide is not
published. The pixel size is that of the scanner (Omnyx VL120, 40x), and the one that the paper's published loader
takes. Masks are MATLAB files with an array `inst_map`.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import picture, read_mat, whole_ids
from cytoseed.learn.datasets.layout import files, find_folder, pair
from cytoseed.learn.datasets.source import Item, Source


def _find(folder: Path) -> list[Item]:
    items = []
    for split in ("train", "test"):
        part = find_folder(folder, split)
        pairs = pair(files(part / "Images", ".png"), files(part / "Labels", ".mat"), that="label (.mat)")
        items += [Item(stem, picture(image), partial(_read_mask, mat), split=split) for stem, image, mat in pairs]
    return items


def _read_mask(path: Path, _: tuple[int, int]) -> NDArray[np.int32]:
    return whole_ids(read_mat(path, "inst_map"), str(path))


SOURCE = Source(
    name="consep",
    title="H&E, colorectal cancer, 40x",
    licence="Apache-2.0",
    url="https://warwick.ac.uk/fac/cross_fac/tia/data/hovernet/",
    download="consep_dataset.zip, unpacked",
    layout="folders Train and Test, each with Images (*.png) and Labels (*.mat) of the same names",
    find=_find,
    images=41,
    objects=24332,
    counted_by="Table 1",
    pixel_size_um=0.275,
    val_share=6 / 27,
)
