"""TNBC 2018: breast cancer and brain, haematoxylin and eosin (Naylor et al. 2019; Jack et al. 2021).

68 crops of 512 x 512 px from 14 slides, at 40x; masks are black and white, the objects are their pieces, pixels
that meet at a corner being apart. Slides 1 to 11 are the breast cancers of Zenodo 1175282, 12 to 14 the brain
sections added in 3552674. The pixel size is that of the scanner (Philips, 40x).
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import picture, pieces
from cytoseed.learn.datasets.layout import files, find_folders, pair
from cytoseed.learn.datasets.source import Item, Source


def _find(folder: Path) -> list[Item]:
    slides = {path.name.lower().removeprefix("slide_"): path for path in find_folders(folder, "Slide_*")}
    masks = {path.name.lower().removeprefix("gt_"): path for path in find_folders(folder, "GT_*")}
    return [
        Item(stem, picture(image), partial(_read_mask, mask), field=images.name)
        for _, images, truth in pair(slides, masks, "folder Slide_*", "folder GT_*")
        for stem, image, mask in pair(files(images, ".png"), files(truth, ".png"))
    ]


def _read_mask(path: Path, _: tuple[int, int]) -> NDArray[np.int32]:
    return pieces(picture(path)()[0] > 0)


SOURCE = Source(
    name="tnbc2018",
    title="H&E, breast cancer and brain, 40x",
    licence="CC-BY-4.0",
    url="https://zenodo.org/records/3552674",
    download="TNBC_and_Brain_dataset.zip, unpacked",
    layout="folders Slide_01, Slide_02, ... of *.png, and GT_01, GT_02, ... with masks of the same names",
    find=_find,
    images=68,
    objects=5181,
    counted_by="Table 1",
    pixel_size_um=0.25,
)
