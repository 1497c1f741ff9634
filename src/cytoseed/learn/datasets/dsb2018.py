"""DSB 2018: the Data Science Bowl's stage 1, fluorescence and brightfield of many kinds (Caicedo et al. 2019, BBBC038).

670 images, each with a picture for every nucleus, which may be in several pieces. Neither splits, kinds nor pixel
sizes are published, and many images are tiles of one larger field: `dsb2018.csv` has, for the 664 images that
cytoseed's models were made with, the field (found by edges that continue each other), the split and the kind.
"""

import csv
from functools import partial
from importlib.resources import files as resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.annotations import Patch, stack
from cytoseed.learn.datasets.contents import picture, read_picture
from cytoseed.learn.datasets.layout import files, find_folders, pair, require
from cytoseed.learn.datasets.source import Item, Source

_NAMED_BY = 12  # first characters of a stem, of 64, that the table has


def _find(folder: Path) -> list[Item]:
    images = {path.parent.name: path for path in find_folders(folder, "images")}
    masks = {path.parent.name: files(path, ".png") for path in find_folders(folder, "masks")}
    pairs = pair(images, masks, "folder images", "folder masks")
    require("no images/<id>.png of", (name for name, path, _ in pairs if not (path / f"{name}.png").is_file()))
    known = _read_known()
    unknown = _Known("", "", "unknown")
    return [
        Item(name, picture(path / f"{name}.png"), partial(_read_mask, of_nuclei), *known.get(name[:_NAMED_BY], unknown))
        for name, path, of_nuclei in pairs
    ]


class _Known(NamedTuple):
    field: str
    split: str
    modality: str


def _read_known() -> dict[str, _Known]:
    table = (resources(__package__) / "dsb2018.csv").read_text(encoding="utf-8")
    return {row.pop("stem"): _Known(**row) for row in csv.DictReader(table.splitlines())}


def _read_mask(of_nuclei: dict[str, Path], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Lay the nuclei over each other: where two overlap, the smaller is on top."""
    patches = []
    for path in of_nuclei.values():
        inside = read_picture(path)[0] > 0
        if inside.shape != shape:
            raise ValueError(f"{path} has the shape {inside.shape} and its image {shape}; they must be the same")
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if rows.size:
            top, left = int(rows[0]), int(columns[0])
            patches.append(Patch(top, left, inside[top : rows[-1] + 1, left : columns[-1] + 1]))
    return stack(patches, shape)


SOURCE = Source(
    name="dsb2018",
    title="fluorescence and brightfield of many kinds",
    licence="CC0-1.0",
    url="https://bbbc.broadinstitute.org/BBBC038",
    download="stage1_train.zip, unpacked into a folder of its own",
    layout="a folder for each image, <id>, with images/<id>.png and masks/*.png, one mask for each nucleus",
    find=_find,
    images=670,
    objects=29461,
    counted_by="the masks of stage1_train.zip",
)
