"""Images with instance masks, found in a folder, read, and divided into training and validation."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.images.label_image import read_labels
from cytoseed.learn.annotations import has_cells, read_annotations
from cytoseed.text_files import parse_number, read_table

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
MASK_SUFFIXES = (".png", ".tif", ".tiff")  # no JPEG: it would change the ids
OUTLINE_SUFFIXES = (".geojson",)

_MASK_OR_OUTLINE = (*MASK_SUFFIXES, *OUTLINE_SUFFIXES)
_MASK_ENDINGS = ("_masks", "_cp_masks")  # endings in Cellpose's early and later versions
NOT_IMAGES = (*_MASK_ENDINGS, "_flows", "_outlines")
"""Endings of the files that Cellpose writes beside an image."""


@dataclass(frozen=True)
class Sample:
    """One image and its instance mask, not yet read."""

    name: str  # name of the image's file, without suffix
    dataset: str
    modality: str  # kind of image, such as `fluorescence` or `brightfield`; `unknown` if not stated
    split: str  # `train`, `val` or `test`
    image_path: Path
    mask_path: Path  # file of the mask: a label image, or outlines as GeoJSON
    pixel_size_um: float | None = None  # side of a pixel as samples.csv states it; see `find_pixel_size_um`
    field: str = ""  # field of view that the image is a part of; images of one field share a split. Empty: its own
    licence: str = ""  # licence of image and mask, an SPDX identifier where there is one; empty if not stated
    cells_path: Path | None = None  # file of a second mask, of whole cells, from the folder `cells`

    def find_pixel_size_um(self) -> float | None:
        """Side of a pixel in µm: from samples.csv, else from the image file; None if neither states it."""
        return self.pixel_size_um if self.pixel_size_um is not None else open_image(self.image_path).pixel_size_um

    def read(self) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Pixels (C, H, W) as stored, and the mask (H, W): 0 is background, -1 not annotated."""
        pixels, masks = self.read_targets(("nuclei",))
        return pixels, masks[0]

    def read_targets(self, targets: tuple[str, ...]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Pixels (C, H, W) as stored, and a mask for each target, (T, H, W); of two, a missing one is all -1.

        For cells alone, the mask of `cells` is taken if there is one.
        """
        pixels = open_image(self.image_path).read()
        nuclei, cells, shape = self.mask_path, self.cells_path or self._outlined_cells(), pixels.shape[1:]
        if len(targets) > 1:
            own = self._read_mask(nuclei if nuclei.is_file() else None, shape)
            return pixels, np.stack([own, self._read_mask(cells, shape, "cells")])
        if targets == ("cells",) and cells is not None:
            return pixels, self._read_mask(cells, shape, "cells")[None]
        return pixels, self._read_mask(nuclei, shape)[None]

    def _outlined_cells(self) -> Path | None:
        """File of the mask, if it holds the outlines of cells with nuclei."""
        is_outlined = self.mask_path.suffix.lower() in OUTLINE_SUFFIXES and has_cells(self.mask_path)
        return self.mask_path if is_outlined else None

    def _read_mask(self, path: Path | None, shape: tuple[int, ...], target: str = "nuclei") -> NDArray[np.int32]:
        if path is None:
            return np.full(shape, -1, np.int32)
        if path.suffix.lower() in OUTLINE_SUFFIXES:
            return read_annotations(path, shape, target)
        mask = read_labels(path)
        if mask.shape != shape:
            image, own = (f"{height} x {width} px" for height, width in (shape, mask.shape))
            raise ValueError(f"{self.image_path} is {image} and its mask {path} is {own}; they must be equal")
        return mask


class TrainValSplit(NamedTuple):
    """Samples to train on and samples to choose the best weights by."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]


def find_samples(
    folder: str | Path, splits: Iterable[str] | None = None, datasets: Iterable[str] | None = None
) -> tuple[Sample, ...]:
    """Find images with masks in a folder of one of three layouts; at least one, or `FileNotFoundError`.

    1. `samples.csv` (columns in docs/data.md); the files are `DATASET/images/STEM.*` and `DATASET/masks/STEM.*`, and
       `DATASET/cells/STEM.*` where whole cells are outlined as well.
    2. Folders `images` and `masks`, and perhaps `cells`, with files of the same stems.
    3. Images `STEM.*` beside `STEM_masks.*` or `STEM_cp_masks.*` (Cellpose) or `STEM.geojson` (QuPath).

    Samples come in the order of the table, else by name, all in `train` and in a data set called like the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"folder {str(root)!r} does not exist; give a folder of images with masks")
    table = root / "samples.csv"
    samples = tuple(_of_table(table) if table.is_file() else _of_folder(root))
    if not samples:
        raise FileNotFoundError(
            f"folder {str(root)!r} holds no samples; it needs a samples.csv, or folders images and masks, "
            f"or images STEM.* ({', '.join(IMAGE_SUFFIXES)}) beside STEM_masks.* or STEM.geojson"
        )
    kept = samples
    for name, attribute, wanted in (("splits", "split", splits), ("datasets", "dataset", datasets)):
        known = {getattr(sample, attribute) for sample in samples}
        keep = known if wanted is None else {wanted} if isinstance(wanted, str) else set(wanted)
        if not keep <= known:
            raise ValueError(f"{name} asks for {min(keep - known)!r}; there are: {', '.join(sorted(known))}")
        kept = tuple(sample for sample in kept if getattr(sample, attribute) in keep)
    if not kept:
        raise ValueError(f"splits is {splits!r} and datasets is {datasets!r}: there are both, but not together")
    needed = [(one.image_path, one.mask_path) if one.cells_path is None else (one.image_path,) for one in kept]
    missing = [path for paths in needed for path in paths if not path.is_file()]
    if missing:
        names = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise FileNotFoundError(f"there is no {names}, nor with another suffix; add them, or leave these samples out")
    return kept


def split_by_name(samples: Sequence[Sample], val_share: float = 0.2) -> TrainValSplit:
    """Divide samples into training and validation: the fields of lowest hash validate, or names without a field.

    Their number is `val_share` of all, rounded up, but at least one and never all. Samples of one field stay together:
    `ValueError` if there is only one.
    """

    def rank(field: str) -> bytes:
        return hashlib.sha256(f"0:{field}".encode()).digest()

    fields = sorted({sample.field or sample.name for sample in samples}, key=rank)
    if len(fields) < 2:
        raise ValueError(
            f"all {len(samples)} images are of one field of view, {fields[0]!r}: training needs at least two, one of "
            f"which is set aside for validation"
            if fields
            else "there are no images to divide into training and validation"
        )
    count = min(max(math.ceil(val_share * len(fields)), 1), len(fields) - 1)
    val_fields = set(fields[:count])
    sides: dict[str, list[Sample]] = {"train": [], "val": []}
    for sample in samples:
        split = "val" if (sample.field or sample.name) in val_fields else "train"
        sides[split].append(replace(sample, split=split))
    return TrainValSplit(tuple(sides["train"]), tuple(sides["val"]))


def files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Visible files of a folder with one of these lower-case suffixes, by stem, sorted; empty without the folder."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise ValueError(f"{folder} holds {found[path.stem].name} and {path.name}; keep one of them")
        found[path.stem] = path
    return found


def _of_table(table: Path) -> Iterator[Sample]:
    listed = cache(files_by_stem)

    def locate(row: dict[str, str], kind: str, suffixes: tuple[str, ...]) -> Path:
        folder = table.parent / row["dataset"] / kind
        return listed(folder, suffixes).get(row["stem"], folder / f"{row['stem']}.png")

    def locate_cells(row: dict[str, str]) -> Path | None:
        return listed(table.parent / row["dataset"] / "cells", _MASK_OR_OUTLINE).get(row["stem"])

    for row in read_table(table, ("dataset", "stem"))[1]:
        split, size = row.get("split") or "train", row.get("pixel_size_um")
        size_um, where = parse_number(size or "1"), f"{table} gives {row['stem']} the"
        if not row["dataset"] or not row["stem"]:
            raise ValueError(f"{table} has a row without dataset or stem: {', '.join(filter(None, row.values()))}")
        if split not in SPLITS:
            raise ValueError(f"{where} split {split!r}; it must be {', '.join(SPLITS)}, or left empty")
        if not 0 < size_um < float("inf"):
            raise ValueError(f"{where} pixel_size_um {size!r}; it must be above 0, or left empty")
        yield Sample(
            name=row["stem"],
            dataset=row["dataset"],
            modality=row.get("modality") or "unknown",
            split=split,
            image_path=locate(row, "images", IMAGE_SUFFIXES),
            mask_path=locate(row, "masks", _MASK_OR_OUTLINE),
            cells_path=locate_cells(row),
            pixel_size_um=size_um if size else None,
            field=row.get("field") or "",
            licence=row.get("licence") or "",
        )


def _of_folder(root: Path) -> Iterator[Sample]:
    """Samples of folders `images` and `masks`, or of images beside their masks."""
    apart = (root / "images").is_dir() and (root / "masks").is_dir()
    images, folder = (root / "images", root / "masks") if apart else (root, root)
    endings = ("",) if apart else _MASK_ENDINGS
    masks, outlines = files_by_stem(folder, MASK_SUFFIXES), files_by_stem(folder, OUTLINE_SUFFIXES)
    cells = files_by_stem(root / "cells", _MASK_OR_OUTLINE) if apart else {}
    for stem, path in files_by_stem(images, IMAGE_SUFFIXES).items():
        if not apart and stem.endswith(NOT_IMAGES):
            continue
        candidates = [*(masks.get(stem + ending) for ending in endings), outlines.get(stem)]
        found = [mask for mask in candidates if mask is not None]
        if len(found) > 1:
            raise ValueError(f"{path} has the masks {found[0].name} and {found[1].name}; keep one of them")
        if not found and any((parent / f"{stem}_seg.npy").is_file() for parent in (images, folder)):
            raise ValueError(
                f"{path} has only the mask {stem}_seg.npy, which is a pickle: it could run any code when read. Export "
                f"the masks from Cellpose: File > Save masks as PNG/TIFF in its window, or --save_png or --save_tif"
            )
        mask = found[0] if found else folder / f"{stem}{endings[0]}.png"
        yield Sample(stem, root.resolve().name, "unknown", "train", path, mask, cells_path=cells.get(stem))
