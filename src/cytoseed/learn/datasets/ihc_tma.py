"""IHC TMA: tissue microarrays of lung cancer, immunohistochemistry, 40x (Wang et al. 2024).

266 images; masks are arrays of channels x height x width, of which the first two mark nuclei of two kinds. A
channel that holds more than one value has an id for each nucleus; else its pieces are the nuclei. The pixel size
is the one that the paper's published loader takes.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import picture, pieces, read_npy, whole_ids
from cytoseed.learn.datasets.layout import files, find_folder, pair
from cytoseed.learn.datasets.source import Item, Source


def _find(folder: Path) -> list[Item]:
    masks = find_folder(folder, "masks")
    pairs = pair(files(masks.parent / "images", ".png"), files(masks, ".npy"), that="mask (.npy)")
    return [
        Item(stem, picture(image), partial(_read_mask, mask), modality="brightfield-ihc") for stem, image, mask in pairs
    ]


def _read_mask(path: Path, shape: tuple[int, int]) -> NDArray[np.int32]:
    channels = read_npy(path)
    if channels.ndim != 3 or channels.shape[0] < 2 or channels.shape[1:] != shape:
        raise ValueError(f"{path} has the shape {channels.shape}; it must be channels, 2 or more, x {shape}")
    mask = np.zeros(shape, np.int32)
    for values in channels[:2]:
        ids = whole_ids(values, str(path))
        if len(np.unique(ids[ids > 0])) <= 1:
            ids = pieces(ids)
        mask = np.where((ids > 0) & (mask == 0), ids + mask.max(initial=0), mask)
    return mask


SOURCE = Source(
    name="ihc_tma",
    title="immunohistochemistry, lung cancer, 40x",
    licence="CC-BY-4.0",
    url="https://zenodo.org/records/7647846",
    download="IHC_TMA_dataset.zip, unpacked",
    layout="folders images (*.png) and masks (*.npy, channels x height x width) of the same names",
    find=_find,
    images=266,
    objects=9161,
    counted_by="Table 1",
    pixel_size_um=0.25,
)
