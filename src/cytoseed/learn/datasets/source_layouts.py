"""How the files of each public data set are laid out and read: one `find_NAME` per data set.

Layouts follow the publications and public code that reads the same downloads (docs/data.md).
"""

from __future__ import annotations

import csv
from dataclasses import replace
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
    SourceImage,
    as_ids,
    connected_pieces,
    files,
    find_folder,
    find_folders,
    pair,
    read_contours,
    read_mat,
    read_npy,
    read_picture,
    require,
)


def _image(stem: str, path: Path, read: Any, mask: Path, **known: str) -> SourceImage:
    """Image of one picture file, whose mask is `read(mask, shape)`."""
    return SourceImage(stem, partial(read_picture, path), partial(read, mask), **known)


def find_tnbc2018(folder: Path) -> list[SourceImage]:
    """TNBC 2018 (Naylor et al. 2019; Jack et al. 2021): 68 crops of 14 slides, 1 to 11 breast cancer, 12 to 14 brain.

    Masks are black and white; pixels that meet only at a corner belong to different objects.
    """
    slides = {path.name.lower().removeprefix("slide_"): path for path in find_folders(folder, "Slide_*")}
    masks = {path.name.lower().removeprefix("gt_"): path for path in find_folders(folder, "GT_*")}
    return [
        _image(stem, image, _read_foreground, mask, field=images.name)
        for _, images, truth in pair(slides, masks, "folder Slide_*", "folder GT_*")
        for stem, image, mask in pair(files(images, ".png"), files(truth, ".png"))
    ]


def _read_foreground(path: Path, _: Shape) -> NDArray[np.int32]:
    return connected_pieces(read_picture(path)[0] > 0)


def find_nuinsseg(folder: Path) -> list[SourceImage]:
    """NuInsSeg (Mahbod et al. 2024): 665 crops of one slide per organ.

    `label masks modify` has one id per nucleus, with gaps. Pixels in `vague areas` that belong to no nucleus become -1.
    """
    images = {path.parent.name: path for path in find_folders(folder, "tissue images")}
    masks = {path.parent.name: path for path in find_folders(folder, "label masks modify")}
    binary = find_folders(folder, "mask binary*")
    vague = {path.parent.parent.name: path for path in binary if path.parent.name.lower() == "vague areas"}
    if vague:  # of one organ, then of all
        pair(images, vague, "folder 'tissue images'", "folder 'vague areas/mask binary'")
    return [
        SourceImage(stem, partial(read_picture, image), partial(_read_nuinsseg, mask, unclear), field=organ)
        for organ, tissue, labels in pair(images, masks, "folder 'tissue images'", "folder 'label masks modify'")
        for stem, image, (mask, unclear) in pair(files(tissue, ".png"), _with_vague_areas(labels, vague.get(organ)))
    ]


def _with_vague_areas(labels: Path, vague: Path | None) -> dict[str, tuple[Path, Path | None]]:
    """Label image and mask of vague areas, if there is one, by stem."""
    masks = files(labels, ".tif", ".tiff")
    if vague is None:
        return {stem: (mask, None) for stem, mask in masks.items()}
    pairs = pair(masks, files(vague, ".png"), "label mask", "mask of vague areas")
    return {stem: (mask, unclear) for stem, mask, unclear in pairs}


def _read_nuinsseg(path: Path, vague: Path | None, _: Shape) -> NDArray[np.int32]:
    mask = read_mask(path)
    if vague is not None:
        mask[(read_picture(vague)[0] > 0) & (mask == 0)] = -1
    return mask


def find_monuseg(folder: Path) -> list[SourceImage]:
    """MoNuSeg 2018 (Kumar et al. 2017, 2020): 37 images, one per patient, to train, and 14 to test; XML."""
    test = find_folder(folder, "MoNuSegTestData")
    return [*_find_monuseg_training(folder), *_find_contoured(test, test, "test")]


def _find_monuseg_training(folder: Path) -> list[SourceImage]:
    return _find_contoured(find_folder(folder, "Tissue Images"), find_folder(folder, "Annotations"), "train")


def _find_contoured(images: Path, annotations: Path, split: str) -> list[SourceImage]:
    pairs = pair(files(images, ".tif", ".tiff"), files(annotations, ".xml"), that="annotation (.xml)")
    return [_image(stem, image, read_contours, xml, split=split) for stem, image, xml in pairs]


KUMAR_SPLITS = {
    f"TCGA-{stem}": split
    for split, stems in {
        "train": (
            *("A7-A13E-01Z-00-DX1", "AR-A1AK-01Z-00-DX1", "E2-A14V-01Z-00-DX1"),  # breast
            *("B0-5711-01Z-00-DX1", "HE-7128-01Z-00-DX1", "HE-7129-01Z-00-DX1"),  # kidney
            *("18-5592-01Z-00-DX1", "21-5784-01Z-00-DX1", "38-6178-01Z-00-DX1"),  # liver
            *("G9-6348-01Z-00-DX1", "G9-6356-01Z-00-DX1", "G9-6362-01Z-00-DX1"),  # prostate
        ),
        # breast, kidney, liver, prostate
        "val": ("AR-A1AS-01Z-00-DX1", "HE-7130-01Z-00-DX1", "50-5931-01Z-00-DX1", "G9-6363-01Z-00-DX1"),
        "test": (
            *("A7-A13F-01Z-00-DX1", "E2-A1B5-01Z-00-DX1"),  # breast
            *("B0-5698-01Z-00-DX1", "B0-5710-01Z-00-DX1"),  # kidney
            *("21-5786-01Z-00-DX1", "49-4488-01Z-00-DX1"),  # liver
            *("CH-5767-01Z-00-DX1", "G9-6336-01Z-00-DX1"),  # prostate
            *("DK-A2I6-01A-01-TS1", "G2-A2EK-01A-02-TSB"),  # bladder
            *("AY-A8YK-01A-01-TS1", "NH-A8F7-01A-01-TS1"),  # colon
            *("KB-A93J-01A-01-TS1", "RD-A8N9-01A-01-TS1"),  # stomach
        ),
    }.items()
    for stem in stems
}
"""Split of each of the 30 images."""


def find_kumar(folder: Path) -> list[SourceImage]:
    """Kumar et al. 2017: 30 images of MoNuSeg's training data, in the split of HoVer-Net (Graham et al. 2019).

    HoVer-Net trains on 16 images of four organs and tests on 14 of these and three other organs. Four of the 16, one
    per organ, are `val` here.
    """
    images = _find_monuseg_training(folder)  # 7 more than Kumar's
    require("no image", KUMAR_SPLITS.keys() - {each.stem for each in images})
    return [replace(each, split=KUMAR_SPLITS[each.stem]) for each in images if each.stem in KUMAR_SPLITS]


def find_ihc_tma(folder: Path) -> list[SourceImage]:
    """IHC TMA (Wang et al. 2024): 266 images; masks are channels x height x width, the first two of nuclei.

    A channel with several values has one id per nucleus, else its connected pieces are the nuclei.
    """
    masks = find_folder(folder, "masks")
    pairs = pair(files(masks.parent / "images", ".png"), files(masks, ".npy"), that="mask (.npy)")
    return [_image(stem, image, _read_ihc_tma, mask, modality="brightfield-ihc") for stem, image, mask in pairs]


def _read_ihc_tma(path: Path, shape: Shape) -> NDArray[np.int32]:
    channels = read_npy(path)
    if channels.ndim != 3 or channels.shape[0] < 2 or channels.shape[1:] != shape:
        raise ValueError(f"{path} has the shape {channels.shape}; it must be channels, 2 or more, x {shape}")
    mask = np.zeros(shape, np.int32)
    for values in channels[:2]:
        ids = as_ids(values, str(path))
        if len(np.unique(ids[ids > 0])) <= 1:
            ids = connected_pieces(ids)
        mask = np.where((ids > 0) & (mask == 0), ids + mask.max(initial=0), mask)
    return mask


def find_consep(folder: Path) -> list[SourceImage]:
    """CoNSeP (Graham et al. 2019): 41 images of 16 slides, 27 to train and 14 to test; masks are MATLAB files.

    Which image is of which slide is not published. The pixel size is that of the scanner (Omnyx VL120, 40x).
    """
    images = []
    for split in ("train", "test"):
        part = find_folder(folder, split)
        pairs = pair(files(part / "Images", ".png"), files(part / "Labels", ".mat"), that="label (.mat)")
        images += [_image(stem, image, _read_consep, mat, split=split) for stem, image, mat in pairs]
    return images


def _read_consep(path: Path, _: Shape) -> NDArray[np.int32]:
    return as_ids(read_mat(path, "inst_map"), str(path))


def find_lynsec(folder: Path) -> list[SourceImage]:
    """LyNSeC (Hussein et al. 2023): arrays of height x width x (red, green, blue, id of the nucleus, class).

    `lynsec 1` is immunohistochemistry, `lynsec 3` H&E; the annotations of `lynsec 2` do not match its images. Patients
    are not published.
    """
    return [
        SourceImage(
            f"{part}-{stem}", partial(_read_lynsec_image, path), partial(_read_lynsec_mask, path), modality=modality
        )
        for part, modality in ((1, "brightfield-ihc"), (3, "brightfield"))
        for stem, path in files(find_folder(folder, f"lynsec {part}"), ".npy").items()
    ]


def _read_lynsec(path: Path) -> NDArray[Any]:
    array = read_npy(path)
    if array.ndim != 3 or array.shape[2] != 5:
        raise ValueError(f"{path} has the shape {array.shape}; it must be height x width x 5")
    return array


def _read_lynsec_image(path: Path) -> NDArray[np.uint8]:
    return np.moveaxis(_read_lynsec(path)[:, :, :3], 2, 0).clip(0, 255).astype(np.uint8)


def _read_lynsec_mask(path: Path, _: Shape) -> NDArray[np.int32]:
    return as_ids(_read_lynsec(path)[:, :, 3], str(path))


_DSB_KEY_LENGTH = 12  # characters of a stem, of 64, in dsb2018.csv


def find_dsb2018(folder: Path) -> list[SourceImage]:
    """DSB 2018, stage 1 (Caicedo et al. 2019, BBBC038): 670 images with one mask file per nucleus.

    Splits, kinds and fields are not published; dsb2018.csv has them for the 664 images that cytoseed's models were made
    with (images of one field were found by edges that continue each other).
    """
    images = {path.parent.name: path for path in find_folders(folder, "images")}
    masks = {path.parent.name: files(path, ".png") for path in find_folders(folder, "masks")}
    pairs = pair(images, masks, "folder images", "folder masks")
    require("no images/<id>.png of", (name for name, path, _ in pairs if not (path / f"{name}.png").is_file()))
    table = (resources.files(__package__) / "dsb2018.csv").read_text(encoding="utf-8")
    known = {row.pop("stem"): row for row in csv.DictReader(table.splitlines())}
    unknown = {"field": "", "split": "", "modality": "unknown"}
    return [
        SourceImage(
            name,
            partial(read_picture, path / f"{name}.png"),
            partial(_read_nucleus_files, nuclei),
            **known.get(name[:_DSB_KEY_LENGTH], unknown),
        )
        for name, path, nuclei in pairs
    ]


def _read_nucleus_files(nuclei: dict[str, Path], shape: Shape) -> NDArray[np.int32]:
    """Mask of one file per nucleus; where two overlap, the smaller is on top."""
    patches = []
    for path in nuclei.values():
        inside = read_picture(path)[0] > 0
        if inside.shape != shape:
            raise ValueError(f"{path} has the shape {inside.shape} and its image {shape}; they must be the same")
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if rows.size:
            top, left = int(rows[0]), int(columns[0])
            patches.append(Patch(top, left, inside[top : rows[-1] + 1, left : columns[-1] + 1]))
    return stack_objects(patches, shape)


_BBBC039_LISTS = {"training": "train", "validation": "val", "test": "test"}


def find_bbbc039(folder: Path) -> list[SourceImage]:
    """BBBC039 (Caicedo et al. 2019): 200 fields of 16 bit with a published split.

    Objects are pieces of equal value in the first channel of a mask, corners connected, as the authors read them.
    """
    images, masks = (find_folder(folder, name) for name in ("images", "masks"))
    pairs = pair(files(images, ".tif", ".tiff"), files(masks, ".png"))
    lists = files(find_folder(folder, "metadata"), ".txt")
    require("no file in metadata named", (f"{name}.txt" for name in _BBBC039_LISTS.keys() - lists.keys()))
    splits = {
        Path(line.strip()).stem: split
        for name, split in _BBBC039_LISTS.items()
        for line in lists[name].read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    require("no line in metadata/*.txt of", {stem for stem, *_ in pairs} - splits.keys())
    return [
        _image(stem, image, _read_bbbc039, mask, split=splits[stem], modality="fluorescence")
        for stem, image, mask in pairs
    ]


def _read_bbbc039(path: Path, _: Shape) -> NDArray[np.int32]:
    return connected_pieces(read_picture(path)[0], corners=True)
