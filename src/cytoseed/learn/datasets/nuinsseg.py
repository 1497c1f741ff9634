"""NuInsSeg: 31 human and mouse organs, haematoxylin and eosin (Mahbod et al. 2024).

665 crops of 512 x 512 px at 40x, of one slide for each organ. `label masks modify` has an id for each nucleus,
with gaps, and gives pixels of two nuclei to one of them. Where `vague areas` marks ground that could not be
annotated and no nucleus is, the mask is -1. The pixel size is the one that the paper's published loader takes.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.contents import picture, read_ids
from cytoseed.learn.datasets.layout import files, find_folders, pair
from cytoseed.learn.datasets.source import Item, Source


def _find(folder: Path) -> list[Item]:
    images = {path.parent.name: path for path in find_folders(folder, "tissue images")}
    masks = {path.parent.name: path for path in find_folders(folder, "label masks modify")}
    vague = {path.parent.parent.name: path for path in find_folders(folder, "mask binary*") if _is_vague(path)}
    if vague:  # of one organ, then of all
        pair(images, vague, "folder 'tissue images'", "folder 'vague areas/mask binary'")
    return [
        Item(stem, picture(image), partial(_read_mask, mask, unclear), field=organ)
        for organ, tissue, labels in pair(images, masks, "folder 'tissue images'", "folder 'label masks modify'")
        for stem, image, (mask, unclear) in pair(files(tissue, ".png"), _truths(labels, vague.get(organ)))
    ]


def _is_vague(folder: Path) -> bool:
    return folder.parent.name.lower() == "vague areas"


def _truths(labels: Path, vague: Path | None) -> dict[str, tuple[Path, Path | None]]:
    """Give each label image the mask of vague areas; without a folder of them, none."""
    masks = files(labels, ".tif", ".tiff")
    if vague is None:
        return {stem: (mask, None) for stem, mask in masks.items()}
    pairs = pair(masks, files(vague, ".png"), "label mask", "mask of vague areas")
    return {stem: (mask, unclear) for stem, mask, unclear in pairs}


def _read_mask(path: Path, vague: Path | None, shape: tuple[int, int]) -> NDArray[np.int32]:
    mask = read_ids(path, shape)
    if vague is not None:
        mask[(picture(vague)()[0] > 0) & (mask == 0)] = -1
    return mask


SOURCE = Source(
    name="nuinsseg",
    title="H&E, 31 human and mouse organs, 40x",
    licence="CC-BY-4.0",
    url="https://zenodo.org/records/10518968",
    download="NuInsSeg.zip, unpacked",
    layout="a folder for each organ, such as 'human bladder', with folders 'tissue images' (*.png), 'label masks "
    "modify' (*.tif) and 'vague areas/mask binary' (*.png) of the same names",
    find=_find,
    images=665,
    objects=30698,
    counted_by="Table 1",
    pixel_size_um=0.25,
)
