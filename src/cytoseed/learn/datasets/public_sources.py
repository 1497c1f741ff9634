"""The public data sets that can be prepared: rows of sources.csv, and how the files of each are laid out and read.

Layouts follow the publications and public code that reads the same downloads (docs/data.md).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.outlines import Patch
from cytoseed.learn.annotations import read_mask, stack_objects
from cytoseed.learn.datasets.downloads import (
    Shape,
    Source,
    SourceImage,
    as_ids,
    connected_pieces,
    find_files,
    match_files,
    pair_files,
    read_contours,
    read_mat,
    read_npy,
    read_picture,
    require,
)
from cytoseed.settings import DatasetNote


def _read_table(name: str) -> list[dict[str, str]]:
    text = (resources.files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _image(stem: str, path: Path, read: Any, mask: Any, **known: str) -> SourceImage:
    """Image of one picture file, whose mask is `read(mask, shape)`."""
    return SourceImage(stem, partial(read_picture, path), partial(read, mask), **known)


def _paired(read: Any, *places: tuple[str, str, dict[str, str]]) -> Callable[[Path], list[SourceImage]]:
    """Finder of images whose masks have paths of their own pattern; each place with known facts."""

    def find(folder: Path) -> list[SourceImage]:
        return [
            _image(key[-1], image, read, mask, **known)
            for images, masks, known in places
            for key, image, mask in pair_files(folder, images, masks)
        ]

    return find


def find_tnbc2018(folder: Path) -> list[SourceImage]:
    """TNBC 2018 (Naylor et al. 2019; Jack et al. 2021): 68 crops of 14 slides, 1 to 11 breast cancer, 12 to 14 brain.

    Masks are black and white; pixels that meet only at a corner belong to different objects.
    """

    def read(path: Path, _: Shape) -> NDArray[np.int32]:
        return connected_pieces(read_picture(path)[0] > 0)

    pairs = pair_files(folder, "Slide_{slide}/{stem}.png", "GT_{slide}/{stem}.png")
    return [_image(stem, image, read, mask, field=image.parent.name) for (_, stem), image, mask in pairs]


def find_nuinsseg(folder: Path) -> list[SourceImage]:
    """NuInsSeg (Mahbod et al. 2024): 665 crops of one slide per organ.

    `label masks modify` has one id per nucleus, with gaps. Pixels in `vague areas` that belong to no nucleus become -1.
    """
    pairs = pair_files(folder, "{organ}/tissue images/{stem}.png", "{organ}/label masks modify/{stem}.tif")
    vague = dict(match_files(folder, "{organ}/vague areas/mask binary*/{stem}.png"))
    if vague:  # of one image, then of all
        keys = {key for key, *_ in pairs}
        require("no mask in 'vague areas' of", keys - vague.keys())
        require("no 'tissue images/*.png' of", vague.keys() - keys)
    return [
        _image(stem, image, _read_nuinsseg, (mask, vague.get((organ, stem))), field=organ)
        for (organ, stem), image, mask in pairs
    ]


def _read_nuinsseg(paths: tuple[Path, Path | None], _: Shape) -> NDArray[np.int32]:
    mask, vague = read_mask(paths[0]), paths[1]
    if vague is not None:
        mask[(read_picture(vague)[0] > 0) & (mask == 0)] = -1
    return mask


find_monuseg = _paired(  # Kumar et al. 2017, 2020: 37 images, one per patient, to train, and 14 to test
    read_contours,
    ("Tissue Images/{stem}.tif", "Annotations/{stem}.xml", {"split": "train"}),
    ("MoNuSegTestData/{stem}.tif", "MoNuSegTestData/{stem}.xml", {"split": "test"}),
)


def find_kumar(folder: Path) -> list[SourceImage]:
    """Kumar et al. 2017: 30 images of MoNuSeg's training data, in the split of HoVer-Net (Graham et al. 2019).

    HoVer-Net trains on 16 images of four organs and tests on 14 of these and three other organs. Four of the 16, one
    per organ, are `val` in kumar.csv.
    """
    splits = {row["stem"]: row["split"] for row in _read_table("kumar")}
    pairs = pair_files(folder, "Tissue Images/{stem}.tif", "Annotations/{stem}.xml")  # 7 more than Kumar's
    require("no image", {(stem,) for stem in splits} - {key for key, *_ in pairs})
    return [
        _image(stem, image, read_contours, xml, split=splits[stem]) for (stem,), image, xml in pairs if stem in splits
    ]


def _read_ihc_tma(path: Path, shape: Shape) -> NDArray[np.int32]:
    """Mask of two channels: one with several values has one id per nucleus, else its connected pieces are nuclei."""
    channels = read_npy(path)
    if channels.ndim != 3 or channels.shape[0] < 2 or channels.shape[1:] != shape:
        raise ValueError(f"{path} has the shape {channels.shape}; it must be channels, 2 or more, x {shape}")
    mask = np.zeros(shape, np.int32)
    for values in channels[:2]:
        ids = as_ids(values, path)
        if len(np.unique(ids[ids > 0])) <= 1:
            ids = connected_pieces(ids)
        mask = np.where((ids > 0) & (mask == 0), ids + mask.max(initial=0), mask)
    return mask


# Wang et al. 2024: 266 images; masks are channels x height x width, the first two of nuclei
find_ihc_tma = _paired(_read_ihc_tma, ("images/{stem}.png", "masks/{stem}.npy", {"modality": "brightfield-ihc"}))

find_consep = _paired(  # Graham et al. 2019: 41 images of 16 slides; the slide of each image is not published
    lambda path, _: as_ids(read_mat(path, "inst_map"), path),
    ("Train/Images/{stem}.png", "Train/Labels/{stem}.mat", {"split": "train"}),
    ("Test/Images/{stem}.png", "Test/Labels/{stem}.mat", {"split": "test"}),
)


def find_lynsec(folder: Path) -> list[SourceImage]:
    """LyNSeC (Hussein et al. 2023): arrays of height x width x (red, green, blue, id of the nucleus, class).

    `lynsec 1` is immunohistochemistry, `lynsec 3` H&E; the annotations of `lynsec 2` do not match its images. Patients
    are not published.
    """

    def read_image(path: Path) -> NDArray[np.uint8]:
        return np.moveaxis(_read_lynsec(path)[:, :, :3], 2, 0).clip(0, 255).astype(np.uint8)

    def read_mask(path: Path, _: Shape) -> NDArray[np.int32]:
        return as_ids(_read_lynsec(path)[:, :, 3], path)

    return [
        SourceImage(f"{part}-{stem}", partial(read_image, path), partial(read_mask, path), modality=modality)
        for part, modality in ((1, "brightfield-ihc"), (3, "brightfield"))
        for (stem,), path in find_files(folder, f"lynsec {part}/{{stem}}.npy").items()
    ]


def _read_lynsec(path: Path) -> NDArray[Any]:
    array = read_npy(path)
    if array.ndim != 3 or array.shape[2] != 5:
        raise ValueError(f"{path} has the shape {array.shape}; it must be height x width x 5")
    return array


_DSB_KEY_LENGTH = 12  # characters of a stem, of 64, in dsb2018.csv


def find_dsb2018(folder: Path) -> list[SourceImage]:
    """DSB 2018, stage 1 (Caicedo et al. 2019, BBBC038): 670 images with one mask file per nucleus.

    Splits, kinds and fields are not published; dsb2018.csv has them for the 664 images that cytoseed's models were made
    with (images of one field were found by edges that continue each other).
    """
    images = find_files(folder, "{id}/images/{id}.png")
    nuclei = defaultdict(list)
    for key, path in match_files(folder, "{id}/masks/*.png"):
        nuclei[key].append(path)
    require("no masks/*.png of", images.keys() - nuclei.keys())
    require("no images/<id>.png of", nuclei.keys() - images.keys())
    known = {row.pop("stem"): row for row in _read_table("dsb2018")}
    unknown = {"field": "", "split": "", "modality": "unknown"}
    return [
        _image(stem, path, _read_nucleus_files, nuclei[stem,], **known.get(stem[:_DSB_KEY_LENGTH], unknown))
        for (stem,), path in images.items()
    ]


def _read_nucleus_files(nuclei: list[Path], shape: Shape) -> NDArray[np.int32]:
    """Mask of one file per nucleus; where two overlap, the smaller is on top."""
    patches = []
    for path in nuclei:
        inside = read_picture(path)[0] > 0
        if inside.shape != shape:
            raise ValueError(f"{path} has the shape {inside.shape} and its image {shape}; they must be the same")
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if rows.size:
            top, left = int(rows[0]), int(columns[0])
            patches.append(Patch(top, left, inside[top : rows[-1] + 1, left : columns[-1] + 1]))
    return stack_objects(patches, shape)


def find_bbbc039(folder: Path) -> list[SourceImage]:
    """BBBC039 (Caicedo et al. 2019): 200 fields of 16 bit with a published split.

    Objects are pieces of equal value in the first channel of a mask, corners connected, as the authors read them.
    """

    def read(path: Path, _: Shape) -> NDArray[np.int32]:
        return connected_pieces(read_picture(path)[0], corners=True)

    pairs = pair_files(folder, "images/{stem}.tif", "masks/{stem}.png")
    splits: dict[tuple[str, ...], str] = {}
    for name, split in (("training", "train"), ("validation", "val"), ("test", "test")):
        for path in find_files(folder, f"metadata/{name}.txt").values():
            splits |= {(Path(line).stem,): split for line in path.read_text(encoding="utf-8").split()}
    require("no line in metadata/*.txt of", {key for key, *_ in pairs} - splits.keys())
    return [_image(key[0], image, read, mask, split=splits[key], modality="fluorescence") for key, image, mask in pairs]


_FIND = {
    "tnbc2018": find_tnbc2018,
    "nuinsseg": find_nuinsseg,
    "monuseg": find_monuseg,
    "kumar": find_kumar,
    "ihc_tma": find_ihc_tma,
    "consep": find_consep,
    "lynsec": find_lynsec,
    "dsb2018": find_dsb2018,
    "bbbc039": find_bbbc039,
}


def _source(row: dict[str, Any]) -> Source:
    numbers = {
        "images": int(row["images"]),
        "objects": int(row["objects"]) if row["objects"] else None,
        "pixel_size_um": float(row["pixel_size_um"]) if row["pixel_size_um"] else None,
        "val_share": float(Fraction(row["val_share"])),
    }
    return Source(**row | numbers, find=_FIND[row["name"]])


SOURCES: dict[str, Source] = {row["name"]: _source(row) for row in _read_table("sources")}
"""The data sets that can be prepared, by name."""

_OTHER_NOTES = (  # prepared by other means
    DatasetNote("bitdepth_nucseg", "Apache-2.0", "https://github.com/masih4/BitDepth_NucSeg @ a2636522"),
    DatasetNote(
        "kumar_train16", "CC-BY-NC-SA-4.0", "https://github.com/bruceyang2012/Miccai_challenge_MONUSEG @ 50be9414"
    ),
)


def find_source(name: str) -> Source:
    """Data set by name; `ValueError` if it is unknown."""
    if name not in SOURCES:
        raise ValueError(
            f"name is {name!r}; it must be one of: {', '.join(SOURCES)}. Your own images need no preparation: "
            f"see docs/data.md"
        )
    return SOURCES[name]


def find_note(name: str) -> DatasetNote | None:
    """Licence and source of a data set; None if it is unknown, such as a user's own."""
    return SOURCES[name].note if name in SOURCES else {note.name: note for note in _OTHER_NOTES}.get(name)
