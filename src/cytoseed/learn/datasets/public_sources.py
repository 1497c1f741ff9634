"""The public data sets that can be prepared: rows of sources.csv, and how the files of each are laid out and read.

Layouts follow the publications and public code that reads the same downloads (docs/data.md).
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.images.label_image import label_pieces, open_labels, patch_of, read_labels, stack_objects
from cytoseed.images.outlines import Patch, draw
from cytoseed.learn.datasets.downloads import Source, SourceImage, find_files, match_files, pair_files, require
from cytoseed.settings import DatasetNote

_Shape = tuple[int, int]
_DSB_KEY_LENGTH = 12  # characters of a stem, of 64, in dsb2018.csv


def _read_table(name: str) -> list[dict[str, str]]:
    text = (resources.files(__package__) / f"{name}.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _image(stem: str, path: Path, read: Any, mask: Any, **known: str) -> SourceImage:
    """Image of one picture file, whose mask is `read(mask, shape)`."""
    return SourceImage(stem, partial(_read_picture, path), partial(read, mask), **known)


def _paired(folder: Path, images: str, masks: str, read: Any, **known: str) -> list[SourceImage]:
    """Images and masks of two patterns, with equal names."""
    return [_image(key[-1], path, read, mask, **known) for key, path, mask in pair_files(folder, images, masks)]


def tnbc2018(folder: Path) -> list[SourceImage]:
    """TNBC 2018 (Naylor et al. 2019; Jack et al. 2021): 68 crops of 14 slides, 1 to 11 breast cancer, 12 to 14 brain.

    Masks are black and white; pixels that meet only at a corner belong to different objects.
    """

    def read(path: Path, _: _Shape) -> NDArray[np.int32]:
        return label_pieces(open_labels(path).read()[0] > 0)

    pairs = pair_files(folder, "Slide_{slide}/{stem}.png", "GT_{slide}/{stem}.png")
    return [_image(stem, image, read, mask, field=image.parent.name) for (_, stem), image, mask in pairs]


def nuinsseg(folder: Path) -> list[SourceImage]:
    """NuInsSeg (Mahbod et al. 2024): 665 crops of one slide per organ.

    `label masks modify` has one id per nucleus, with gaps. Pixels in `vague areas` that belong to no nucleus become -1.
    """
    pairs = pair_files(folder, "{organ}/tissue images/{stem}.png", "{organ}/label masks modify/{stem}.tif")
    vague = dict(match_files(folder, "{organ}/vague areas/mask binary*/{stem}.png"))
    if vague:  # if one image has them, all must
        keys = {key for key, *_ in pairs}
        require("no mask in 'vague areas' of", keys - vague.keys())
        require("no 'tissue images/*.png' of", vague.keys() - keys)

    def read(key: tuple[str, ...], path: Path, _: _Shape) -> NDArray[np.int32]:
        mask = read_labels(path)
        if vague:
            mask[(open_labels(vague[key]).read()[0] > 0) & (mask == 0)] = -1
        return mask

    return [_image(key[1], image, partial(read, key), mask, field=key[0]) for key, image, mask in pairs]


def monuseg(folder: Path) -> list[SourceImage]:
    """MoNuSeg (Kumar et al. 2017, 2020): 37 images, one per patient, to train on, and 14 to test on."""
    training = ("Tissue Images/{stem}.tif", "Annotations/{stem}.xml")
    test = ("MoNuSegTestData/{stem}.tif", "MoNuSegTestData/{stem}.xml")
    images = _paired(folder, *training, _read_contours, split="train")
    return images + _paired(folder, *test, _read_contours, split="test")


def kumar(folder: Path) -> list[SourceImage]:
    """Kumar et al. 2017: 30 images of MoNuSeg's training data, in the split of HoVer-Net (Graham et al. 2019).

    HoVer-Net trains on 16 images, of which four are `val` in kumar.csv, and tests on 14.
    """
    splits = {row["stem"]: row["split"] for row in _read_table("kumar")}
    pairs = pair_files(folder, "Tissue Images/{stem}.tif", "Annotations/{stem}.xml")  # 7 more than Kumar's
    require("no image", {(stem,) for stem in splits} - {key for key, *_ in pairs})
    return [
        _image(stem, image, _read_contours, xml, split=splits[stem]) for (stem,), image, xml in pairs if stem in splits
    ]


def ihc_tma(folder: Path) -> list[SourceImage]:
    """IHC TMA (Wang et al. 2024): 266 images; masks are channels x height x width, the first two of nuclei.

    A channel with several values has one id per nucleus, else its connected pieces are nuclei.
    """

    def read(path: Path, shape: _Shape) -> NDArray[np.int32]:
        channels = _read_npy(path)
        if channels.ndim != 3 or channels.shape[0] < 2 or channels.shape[1:] != shape:
            raise ValueError(f"{path} has the shape {channels.shape}; it must be channels, 2 or more, x {shape}")
        mask = np.zeros(shape, np.int32)
        for values in channels[:2]:
            ids = _as_ids(values, path)
            if len(np.unique(ids[ids > 0])) <= 1:
                ids = label_pieces(ids)
            mask = np.where((ids > 0) & (mask == 0), ids + mask.max(initial=0), mask)
        return mask

    return _paired(folder, "images/{stem}.png", "masks/{stem}.npy", read, modality="brightfield-ihc")


def consep(folder: Path) -> list[SourceImage]:
    """CoNSeP (Graham et al. 2019): 41 images of 16 slides; the slide of each image is not published."""

    def read(path: Path, _: _Shape) -> NDArray[np.int32]:
        from scipy.io import loadmat

        with _reading(path, "a MATLAB file with an array 'inst_map'"):  # up to version 7.2
            values = loadmat(path, variable_names=["inst_map"])["inst_map"]
        return _as_ids(values, path)

    images = _paired(folder, "Train/Images/{stem}.png", "Train/Labels/{stem}.mat", read, split="train")
    return images + _paired(folder, "Test/Images/{stem}.png", "Test/Labels/{stem}.mat", read, split="test")


def lynsec(folder: Path) -> list[SourceImage]:
    """LyNSeC (Hussein et al. 2023): arrays of height x width x (red, green, blue, id of the nucleus, class).

    `lynsec 1` is immunohistochemistry, `lynsec 3` H&E; the annotations of `lynsec 2` do not match its images.
    """

    def read(path: Path) -> NDArray[Any]:
        array = _read_npy(path)
        if array.ndim != 3 or array.shape[2] != 5:
            raise ValueError(f"{path} has the shape {array.shape}; it must be height x width x 5")
        return array

    def read_image(path: Path) -> NDArray[np.uint8]:
        return np.moveaxis(read(path)[:, :, :3], 2, 0).clip(0, 255).astype(np.uint8)

    def read_ids(path: Path, _: _Shape) -> NDArray[np.int32]:
        return _as_ids(read(path)[:, :, 3], path)

    return [
        SourceImage(f"{part}-{stem}", partial(read_image, path), partial(read_ids, path), modality=modality)
        for part, modality in ((1, "brightfield-ihc"), (3, "brightfield"))
        for (stem,), path in find_files(folder, f"lynsec {part}/{{stem}}.npy").items()
    ]


def dsb2018(folder: Path) -> list[SourceImage]:
    """DSB 2018, stage 1 (Caicedo et al. 2019, BBBC038): 670 images with one mask file per nucleus, the smaller on top.

    Splits, kinds and fields are not published; dsb2018.csv has them for the 664 images that cytoseed's models were made
    with (images of one field were found by edges that continue each other).
    """
    images = find_files(folder, "{id}/images/{id}.png")
    nuclei = defaultdict(list)
    for key, path in match_files(folder, "{id}/masks/*.png"):
        nuclei[key].append(path)
    require("no masks/*.png of", images.keys() - nuclei.keys())
    require("no images/<id>.png of", nuclei.keys() - images.keys())

    def read(paths: list[Path], shape: _Shape) -> NDArray[np.int32]:
        return stack_objects([_read_nucleus(path, shape) for path in paths], shape)

    known = {row.pop("stem"): row for row in _read_table("dsb2018")}
    unknown = {"modality": "unknown"}
    return [
        _image(stem, path, read, nuclei[stem,], **known.get(stem[:_DSB_KEY_LENGTH], unknown))
        for (stem,), path in images.items()
    ]


def bbbc039(folder: Path) -> list[SourceImage]:
    """BBBC039 (Caicedo et al. 2019): 200 fields of 16 bit with a published split.

    Objects are 8-connected pieces of equal value in the first channel of a mask, as the authors read them.
    """

    def read(path: Path, _: _Shape) -> NDArray[np.int32]:
        return label_pieces(open_labels(path).read()[0], corners=True)

    pairs = pair_files(folder, "images/{stem}.tif", "masks/{stem}.png")
    splits: dict[tuple[str, ...], str] = {}
    for name, split in (("training", "train"), ("validation", "val"), ("test", "test")):
        for path in find_files(folder, f"metadata/{name}.txt").values():
            splits |= {(Path(line).stem,): split for line in path.read_text(encoding="utf-8").split()}
    require("no line in metadata/*.txt of", {key for key, *_ in pairs} - splits.keys())
    return [_image(key[0], image, read, mask, split=splits[key], modality="fluorescence") for key, image, mask in pairs]


def _read_picture(path: Path) -> NDArray[Any]:
    """Image as stored, (C, H, W); three equal channels become one."""
    pixels = open_image(path).read()
    equal = pixels.shape[0] == 3 and (pixels[1:] == pixels[:1]).all()
    return pixels[:1] if equal else pixels


def _read_nucleus(path: Path, shape: _Shape) -> Patch:
    """Pixels of one nucleus, above 0 in a mask of its own."""
    inside = open_labels(path).read()[0] > 0
    if inside.shape != shape:
        raise ValueError(f"{path} has the shape {inside.shape} and its image {shape}; they must be the same")
    return patch_of(inside)


def _as_ids(values: NDArray[Any], where: Path) -> NDArray[np.int32]:
    """Numbers of any type as int32 ids; an error unless they are whole numbers from 0 to 2^31 - 1."""
    with np.errstate(invalid="ignore"):
        ids = values.astype(np.int32)
    if (ids != values).any() or ids.min(initial=0) < 0:
        raise ValueError(f"{where} holds values that are not ids: they must be whole numbers from 0 to 2^31 - 1")
    return ids


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Errors of a damaged file become a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # each reader raises its own
        raise ValueError(f"{path} cannot be read as {kind} ({error}); download it again") from error


def _read_npy(path: Path) -> NDArray[Any]:
    """Array of a `.npy` file; never a pickle, which could run code."""
    with _reading(path, "a NumPy array without pickles"), path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_contours(path: Path, shape: _Shape) -> NDArray[np.int32]:
    """Mask of the contours in an XML file of Aperio ImageScope; where they overlap, the smaller is on top.

    Ids have gaps where a contour has no pixel of its own. A contour contains the pixels whose centres are inside.
    """
    with _reading(path, "annotations of ImageScope"):
        root = ElementTree.parse(path).getroot()
        if root.tag != "Annotations":
            raise ValueError(f"it begins with <{root.tag}>, not with <Annotations>")
        rings = []
        for region in root.iter("Region"):
            corners = [(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")]
            rings.append(np.array(corners, np.float64).reshape(-1, 2))
        if not all(np.isfinite(ring).all() for ring in rings):
            raise ValueError("a vertex is not finite")
    return stack_objects(draw(([[ring]] for ring in rings), shape, path), shape)


_FINDERS = {
    each.__name__: each for each in (tnbc2018, nuinsseg, monuseg, kumar, ihc_tma, consep, lynsec, dsb2018, bbbc039)
}


def _source(row: dict[str, Any]) -> Source:
    numbers = {
        "images": int(row["images"]),
        "objects": int(row["objects"]) if row["objects"] else None,
        "pixel_size_um": float(row["pixel_size_um"]) if row["pixel_size_um"] else None,
        "val_share": float(Fraction(row["val_share"])),
    }
    return Source(**row | numbers, find=_FINDERS[row["name"]])


SOURCES: dict[str, Source] = {row["name"]: _source(row) for row in _read_table("sources")}
"""The data sets that can be prepared, by name."""

_OTHER_SOURCES = {  # prepared by other means: licence and source
    "bitdepth_nucseg": ("Apache-2.0", "https://github.com/masih4/BitDepth_NucSeg @ a2636522"),
    "kumar_train16": ("CC-BY-NC-SA-4.0", "https://github.com/bruceyang2012/Miccai_challenge_MONUSEG @ 50be9414"),
}


def find_source(name: str) -> Source:
    """Data set by name; `ValueError` if it is unknown."""
    if name not in SOURCES:
        known = ", ".join(SOURCES)
        raise ValueError(f"name is {name!r}; it must be one of: {known}. For your own images see docs/data.md")
    return SOURCES[name]


def find_note(name: str) -> DatasetNote | None:
    """Licence and source of a data set; None if it is unknown, such as a user's own."""
    facts = (SOURCES[name].licence, SOURCES[name].url) if name in SOURCES else _OTHER_SOURCES.get(name)
    return DatasetNote(name, *facts) if facts else None
