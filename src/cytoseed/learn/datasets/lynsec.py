"""LyNSeC: lymphoma, immunohistochemistry and haematoxylin and eosin, 40x (Hussein et al. 2023).

Arrays of 512 x 512 x 5: red, green, blue, ids of nuclei, classes. `lynsec 1` is immunohistochemistry, `lynsec 3`
haematoxylin and eosin; the 35 arrays of `lynsec 2`, whose annotations do not match their images, are left out, as
in the paper: 699 remain. Which image is of which patient is not published. The pixel size is the one that the
paper's published loader takes.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import read_npy, whole_ids
from cytoseed.learn.datasets.layout import files, find_folder
from cytoseed.learn.datasets.source import Item, Source


def _find(folder: Path) -> list[Item]:
    return [
        Item(f"{part}-{stem}", partial(_read_image, path), partial(_read_mask, path), modality=modality)
        for part, modality in ((1, "brightfield-ihc"), (3, "brightfield"))
        for stem, path in files(find_folder(folder, f"lynsec {part}"), ".npy").items()
    ]


def _read(path: Path) -> NDArray[Any]:
    array = read_npy(path)
    if array.ndim != 3 or array.shape[2] != 5:
        raise ValueError(f"{path} has the shape {array.shape}; it must be height x width x 5")
    return array


def _read_image(path: Path) -> NDArray[np.uint8]:
    return np.moveaxis(_read(path)[:, :, :3], 2, 0).clip(0, 255).astype(np.uint8)


def _read_mask(path: Path, _: tuple[int, int]) -> NDArray[np.int32]:
    return whole_ids(_read(path)[:, :, 3], str(path))


SOURCE = Source(
    name="lynsec",
    title="lymphoma, immunohistochemistry and H&E, 40x",
    licence="CC-BY-4.0",
    url="https://zenodo.org/records/8065174",
    download="lynsec.zip, unpacked",
    layout="folders 'lynsec 1' and 'lynsec 3' of *.npy, each an array of height x width x 5",
    find=_find,
    images=699,
    objects=151779,
    counted_by="Table 1",
    pixel_size_um=0.25,
)
