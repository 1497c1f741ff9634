"""Images with instance masks: found on disk, read, divided, and turned into the seed map's target."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.folders import IMAGE_SUFFIXES, MASK_SUFFIXES, OUTLINE_SUFFIXES, Pair, find_pairs

__all__ = [
    "IMAGE_SUFFIXES",
    "MASK_SUFFIXES",
    "SPLITS",
    "Division",
    "Sample",
    "find_samples",
    "median_diameter",
    "read_mask",
    "seed_target",
    "split_by_name",
]


SPLITS = ("train", "val", "test")
"""What a sample can be for."""


@dataclass(frozen=True)
class Sample:
    """One image and its instance mask, not yet read."""

    name: str
    """Name of the image's file, without suffix."""
    dataset: str
    """Name of the data set."""
    modality: str
    """Kind of image, such as `fluorescence` or `brightfield`; `unknown` where nothing says."""
    split: str
    """`train`, `val` or `test`."""
    image_path: Path
    """File of the image."""
    mask_path: Path
    """File of the mask: a label image, or outlines as GeoJSON."""
    pixel_size_um: float | None = None
    """Side of a pixel in µm as the folder's table states it; None where it does not. See `find_pixel_size_um`."""
    field: str = ""
    """Field of view that the image shows a part of; images of one field share a split. Empty: its own."""
    licence: str = ""
    """Licence of the image and its mask, as an SPDX identifier where there is one; empty where nothing says."""

    def find_pixel_size_um(self) -> float | None:
        """Side of a pixel in µm: the table's, else the image file's own; None where neither states it."""
        if self.pixel_size_um is not None:
            return self.pixel_size_um
        from cytoseed.images import open_image

        return open_image(self.image_path).pixel_size_um

    def read(self) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Read both files.

        Returns
        -------
        pixels : ndarray, shape (C, H, W)
            The image in the type it is stored in.
        mask : ndarray of int32, shape (H, W)
            Ids of objects; 0 is background, -1 marks pixels that nobody annotated.

        Raises
        ------
        ValueError
            If the mask is neither a label image nor GeoJSON, or differs in size from the image.
        """
        from cytoseed.images import open_image

        pixels = open_image(self.image_path).read()
        if self.mask_path.suffix.lower() in OUTLINE_SUFFIXES:
            from cytoseed.learn.annotations import read_annotations

            return pixels, read_annotations(self.mask_path, pixels.shape[1:])
        mask = read_mask(self.mask_path)
        if pixels.shape[1:] != mask.shape:
            raise ValueError(
                f"{self.image_path} is {_size(pixels.shape[1:])} and its mask {self.mask_path} is "
                f"{_size(mask.shape)}; they must have the same size"
            )
        return pixels, mask


def read_mask(path: Path) -> NDArray[np.int32]:
    """Read a label image from a file.

    Parameters
    ----------
    path : Path
        A file with one channel of integers.

    Returns
    -------
    ndarray of int32, shape (H, W)
        Ids as the file has them; 0 is background, -1 marks pixels that nobody annotated.

    Raises
    ------
    ValueError
        If the file has several channels, or holds anything but whole numbers from -1 to 2^31 - 1.
    """
    from cytoseed.images import open_image

    pixels = open_image(path).read()
    if pixels.shape[0] != 1:
        raise ValueError(f"mask {path} has {pixels.shape[0]} channels; it must have one, with an id per object")
    mask = pixels[0]
    if not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask {path} holds {mask.dtype}; it must hold integers, one id per object")
    lowest, highest = int(mask.min(initial=0)), int(mask.max(initial=0))
    if lowest < -1 or highest > np.iinfo(np.int32).max:
        raise ValueError(f"mask {path} holds ids from {lowest} to {highest}; they must lie in -1 to 2^31 - 1")
    return np.asarray(mask, dtype=np.int32)


def find_samples(
    folder: str | Path, splits: Iterable[str] | None = None, datasets: Iterable[str] | None = None
) -> tuple[Sample, ...]:
    """Find images with masks in a folder, in one of three forms.

    With a `samples.csv`: a table with the columns `dataset` and `stem` and, where known, `field`, `split`,
    `modality`, `pixel_size_um` and `licence`; the files are `DATASET/images/STEM.*` and `DATASET/masks/STEM.*`.
    Else, with folders `images` and `masks`: files of equal stems. Else: an image `STEM.*` beside
    `STEM_masks.*` or `STEM_cp_masks.*`, as Cellpose writes them, or beside `STEM.geojson`, as QuPath does.
    Images are PNG, TIFF or JPEG, masks PNG, TIFF or GeoJSON (`read_annotations`).

    Parameters
    ----------
    folder : str or Path
        Where to look.
    splits : iterable of str, optional
        Keep these splits only. Without a table every image is in `train`.
    datasets : iterable of str, optional
        Keep these data sets only. Without a table the folder's name is the data set's.

    Returns
    -------
    tuple of Sample
        In the table's order, else by name; at least one.

    Raises
    ------
    FileNotFoundError
        If the folder or a file of the table is missing, an image has no mask, or there are no samples.
    ValueError
        If two files share a stem, an image has two masks or nothing but Cellpose's `_seg.npy` (a pickle, which
        can run code), the table lacks a column or holds an impossible pixel size, or a split or data set that
        was asked for does not occur.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"folder {str(root)!r} does not exist; give a folder of images with masks")
    samples = tuple(_sample(root, pair) for pair in find_pairs(root))
    if not samples:
        raise FileNotFoundError(
            f"folder {str(root)!r} holds no samples; it needs a samples.csv, or folders images and masks, "
            f"or images STEM.* ({', '.join(IMAGE_SUFFIXES)}) beside STEM_masks.* or STEM.geojson"
        )
    keep_splits = _wanted("splits", splits, {sample.split for sample in samples})
    keep_datasets = _wanted("datasets", datasets, {sample.dataset for sample in samples})
    kept = tuple(s for s in samples if s.split in keep_splits and s.dataset in keep_datasets)
    if not kept:
        raise ValueError(
            f"splits is {splits!r} and datasets is {datasets!r}: each occurs in {str(root)!r}, but not together"
        )
    _require_files("image", (sample.image_path for sample in kept), IMAGE_SUFFIXES)
    _require_files("mask", (sample.mask_path for sample in kept), (*MASK_SUFFIXES, *OUTLINE_SUFFIXES))
    return kept


class Division(NamedTuple):
    """Samples to learn from and samples to choose by."""

    train: tuple[Sample, ...]
    """Samples with split `train`."""
    val: tuple[Sample, ...]
    """Samples with split `val`."""


def split_by_name(samples: Sequence[Sample], val_share: float = 0.2, seed: int = 0) -> Division:
    """Divide samples into train and validation by a hash of their field, or name where no field is known.

    A file falls on the same side however many others there are; only where one side would stay empty is the
    field closest to it moved over. Samples of one field are never parted, so a single field is all `train`.

    Parameters
    ----------
    samples : sequence of Sample
        In any order; kept within each side.
    val_share : float, default 0.2
        Expected share of fields in validation, above 0 and below 1.
    seed : int, default 0
        Another seed gives another division.

    Returns
    -------
    Division
        `train` and `val`, with the samples' split set; both hold a sample where there are two fields or more.

    Raises
    ------
    ValueError
        If `val_share` is out of range.
    """
    if not 0 < val_share < 1:
        raise ValueError(f"val_share is {val_share!r}; it must be above 0 and below 1")
    ranks = {field: _rank(field, seed) for field in sorted({_field(sample) for sample in samples})}
    chosen = {field for field, rank in ranks.items() if rank < val_share}
    if len(ranks) > 1 and not chosen:
        chosen = {min(ranks, key=ranks.__getitem__)}
    elif len(chosen) == len(ranks):
        chosen -= {max(ranks, key=ranks.__getitem__, default="")}
    return Division(
        train=tuple(replace(sample, split="train") for sample in samples if _field(sample) not in chosen),
        val=tuple(replace(sample, split="val") for sample in samples if _field(sample) in chosen),
    )


def seed_target(mask: NDArray[Any]) -> NDArray[np.float32]:
    """Relative distance of every pixel to its object's boundary: the target of the seed map (section 2.3.1).

    The Euclidean distance from a pixel's centre to the nearest pixel of another value, over the largest such
    distance in the object. The image's edge is no boundary: an object cut by it rises towards the edge.

    Parameters
    ----------
    mask : ndarray of int, shape (H, W)
        Ids of objects, with gaps or in several pieces; 0 is background, -1 unknown, and both are outside.

    Returns
    -------
    ndarray of float32, shape (H, W)
        In (0, 1] on objects, with 1 in each of them; 0 elsewhere. An object that fills the image is 1.

    Raises
    ------
    TypeError
        If the mask does not hold integers.
    ValueError
        If the mask is not two-dimensional.
    """
    from scipy import ndimage

    _check_mask(mask)
    target = np.zeros(mask.shape, np.float32)
    ids, rows = np.unique(mask.ravel(), return_inverse=True)
    objects = int(np.count_nonzero(ids > 0))
    if not objects:
        return target
    compact = np.maximum(rows - (len(ids) - objects) + 1, 0).reshape(mask.shape)
    for index, box in enumerate(ndimage.find_objects(compact, max_label=objects), start=1):
        # One pixel more on each side, where there is one, holds the nearest pixel of another value.
        crop = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        own = compact[crop] == index
        distance = np.ones(own.shape) if own.all() else ndimage.distance_transform_edt(own)
        target[crop][own] = (distance / distance.max())[own]
    return target


def median_diameter(mask: NDArray[Any]) -> float:
    """Median over objects of the diameter of a disc of equal area.

    Parameters
    ----------
    mask : ndarray of int, shape (H, W)
        Ids of objects; 0 is background, -1 unknown.

    Returns
    -------
    float
        In px; nan where there is no object.

    Raises
    ------
    TypeError
        If the mask does not hold integers.
    ValueError
        If the mask is not two-dimensional.
    """
    _check_mask(mask)
    _, areas = np.unique(mask[mask > 0], return_counts=True)
    return float(np.median(np.sqrt(areas * (4 / np.pi)))) if areas.size else float("nan")


def _sample(root: Path, pair: Pair) -> Sample:
    """Make a sample of what the folder's table says, or of the names alone."""
    row = pair.row
    stem = row.get("stem") or pair.image_path.stem
    return Sample(
        name=stem,
        dataset=row["dataset"] if row else root.resolve().name,
        modality=row.get("modality") or "unknown",
        split=_split(row.get("split"), root / "samples.csv", stem),
        image_path=pair.image_path,
        mask_path=pair.mask_path,
        pixel_size_um=_positive(row.get("pixel_size_um"), root / "samples.csv", stem),
        field=row.get("field") or "",
        licence=row.get("licence") or "",
    )


def _split(text: str | None, table: Path, stem: str) -> str:
    if text and text not in SPLITS:
        raise ValueError(f"{table} gives {stem} the split {text!r}; it must be {', '.join(SPLITS)}, or left empty")
    return text or "train"


def _positive(text: str | None, table: Path, stem: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{table} gives {stem} the pixel_size_um {text!r}; it must be above 0, or left empty")
    return value


def _wanted(name: str, wanted: Iterable[str] | None, known: set[str]) -> set[str]:
    """Refuse values that do not occur; None stands for all."""
    if wanted is None:
        return known
    keep = {wanted} if isinstance(wanted, str) else set(wanted)
    unknown = sorted(keep - known)
    if unknown:
        raise ValueError(f"{name} asks for {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    return keep


def _require_files(kind: str, paths: Iterable[Path], suffixes: tuple[str, ...]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = ", ".join(path.stem for path in missing[:3])
        raise FileNotFoundError(
            f"no {kind} ({', '.join(suffixes)}) in {missing[0].parent} for: {names}{more}; add or leave out"
        )


def _check_mask(mask: NDArray[Any]) -> None:
    if not isinstance(mask, np.ndarray) or not np.issubdtype(mask.dtype, np.integer):
        kind = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"mask is {kind}; it must be an array of integers, one id per object")
    if mask.ndim != 2:
        raise ValueError(f"mask has shape {mask.shape}; it must be (H, W)")


def _field(sample: Sample) -> str:
    return sample.field or sample.name


def _rank(field: str, seed: int) -> float:
    """Place a field in [0, 1), evenly, and the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{field}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _size(shape: tuple[int, ...]) -> str:
    height, width = shape
    return f"{height} x {width} px"
