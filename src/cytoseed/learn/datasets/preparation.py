"""From a download to samples: images and masks as PNG or TIFF, ids 1 to K, a split, and rows of samples.csv."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.segmentation import relabel_sequential

from cytoseed.learn.datasets.downloads import Source, SourceImage
from cytoseed.learn.datasets.public_sources import find_source
from cytoseed.learn.samples import SPLITS, Sample, split_by_name
from cytoseed.paths import write_bytes
from cytoseed.text_files import read_table

_TEST_SHARE = 0.1  # fraction of all fields that becomes `test`, if no split is published


@dataclass(frozen=True)
class PreparedDataset:
    """Result of a preparation."""

    folder: Path  # folder with `images` and `masks`; samples.csv is beside it
    images: Mapping[str, int]  # number of images by split
    objects: Mapping[str, int]  # number of objects by split
    written: int  # number of images for which a file was written; the others existed already
    remarks: tuple[str, ...]  # differences from the published totals, one sentence each


def prepare(
    source: Source | str, downloaded: str | Path, out: str | Path, progress: Callable[[int, int], None] | None = None
) -> PreparedDataset:
    """Write the images of an unpacked download as samples to NAME/images, NAME/masks and samples.csv in `out`.

    Files that are there already with the same content are kept; samples.csv is written last and keeps the rows of other
    data sets. `progress` receives the numbers of images done and to do.
    """
    source = find_source(source) if isinstance(source, str) else source
    root = Path(out)
    found, table = source.find_images(downloaded), root / "samples.csv"
    columns, rows = read_table(table, ("dataset", "stem")) if table.is_file() else ([], [])
    samples = assign_splits(source, found)
    folder = root / source.name
    images, objects, written = Counter[str](), Counter[str](), 0
    for done, (item, sample) in enumerate(zip(found, samples, strict=True), start=1):
        pixels = item.image()
        mask = item.mask((pixels.shape[1], pixels.shape[2]))
        mask = np.where(mask > 0, relabel_sequential(np.maximum(mask, 0))[0], mask).astype(np.int32)  # ids 1 to K
        if mask.shape != pixels.shape[1:]:
            raise ValueError(f"image {item.stem} has the shape {pixels.shape[1:]} and its mask {mask.shape}")
        written += _write_pair(folder, item.stem, pixels, mask)
        images[sample.split] += 1
        objects[sample.split] += int(mask.max(initial=0))
        if progress is not None:
            progress(done, len(found))
    _write_rows(table, columns, [row for row in rows if row["dataset"] != source.name], samples)
    totals = (("images", images.total(), source.images), ("objects", objects.total(), source.objects))
    remarks = tuple(
        f"{source.name} has {found:,} {what}; {source.counted_by} has {expected:,}"
        for what, found, expected in totals
        if expected not in (None, found)
    )
    by_split = [{split: counts[split] for split in SPLITS} for counts in (images, objects)]
    return PreparedDataset(folder, by_split[0], by_split[1], written, remarks)


def assign_splits(source: Source, images: Sequence[SourceImage]) -> tuple[Sample, ...]:
    """Samples, without paths, in the published splits, else in splits by a hash of the field (`split_by_name`).

    A share is left empty where there are not enough fields.
    """
    size_um, licence = source.pixel_size_um, source.licence
    samples = [
        Sample(each.stem, source.name, each.modality, each.split, Path(), Path(), size_um, each.field, licence)
        for each in images
    ]
    splits = {sample.name: sample.split for sample in samples}
    rest: Sequence[Sample] = [sample for sample in samples if not sample.split]
    share = source.val_share
    if len(_fields(rest)) > 1:
        rest, test = split_by_name(rest, _TEST_SHARE)
        splits |= {sample.name: "test" for sample in test}
        share /= 1 - _TEST_SHARE
    elif not rest and "val" not in splits.values():
        rest = [sample for sample in samples if sample.split == "train"]
    splits |= {sample.name: "train" for sample in rest}
    for part in split_by_name(rest, share) if len(_fields(rest)) > 1 else ():
        splits |= {sample.name: sample.split for sample in part}
    return tuple(replace(sample, split=splits[sample.name]) for sample in samples)


def _fields(samples: Sequence[Sample]) -> set[str]:
    return {sample.field or sample.name for sample in samples}


def _write_pair(folder: Path, stem: str, pixels: NDArray[Any], mask: NDArray[np.int32]) -> bool:
    """Write images/STEM.png and masks/STEM.png or, with -1 or many ids, STEM.tif; returns whether one was new."""
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[0] not in (1, 3):
        raise ValueError(f"image {stem} is {pixels.dtype} with {len(pixels)} channels; it must be 8 or 16 bit, 1 or 3")
    if mask.min(initial=0) >= 0 and mask.max(initial=0) < 2**16:
        suffix, other, data = ".png", ".tif", bytes(imagecodecs.png_encode(mask.astype(np.uint16)))
    else:
        file = io.BytesIO()
        tifffile.imwrite(file, mask, photometric="minisblack", compression="zlib")
        suffix, other, data = ".tif", ".png", file.getvalue()
    planes = pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    written = _write_if_changed(folder / "images" / f"{stem}.png", bytes(imagecodecs.png_encode(planes)))
    written |= _write_if_changed(folder / "masks" / f"{stem}{suffix}", data)
    (folder / "masks" / f"{stem}{other}").unlink(missing_ok=True)  # a mask of an earlier preparation
    return written


def _write_rows(table: Path, columns: list[str], rows: list[dict[str, str]], samples: Sequence[Sample]) -> None:
    """Write samples.csv: rows of other data sets, in the columns that it has, then those of the samples."""
    added = [
        {
            "dataset": sample.dataset,
            "stem": sample.name,
            "field": sample.field or sample.name,
            "split": sample.split,
            "modality": sample.modality,
            "pixel_size_um": "" if sample.pixel_size_um is None else f"{sample.pixel_size_um:g}",
            "licence": sample.licence,
        }
        for sample in samples
    ]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys([*columns, *added[0]])), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*rows, *added])
    _write_if_changed(table, text.getvalue().encode())


def _write_if_changed(path: Path, data: bytes) -> bool:
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return True
