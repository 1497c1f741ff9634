"""From a download to samples: each image read, its ids made 1 to K, its split chosen, all written and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.learn.datasets.source import Item, Source
from cytoseed.learn.datasets.writing import read_rows, write_image, write_mask, write_rows
from cytoseed.learn.samples import SPLITS, Sample, split_by_name


@dataclass(frozen=True)
class Prepared:
    """What was made of a download."""

    source: Source
    """The data set."""
    folder: Path
    """Where it lies now: `images` and `masks` are in it, `samples.csv` beside it."""
    images: Mapping[str, int]
    """Images of each split."""
    objects: Mapping[str, int]
    """Objects of each split."""
    written: int
    """Images that were written, or whose mask was; the others were there already, the same."""
    remarks: tuple[str, ...]
    """How the totals differ from the published ones, a sentence each; empty where they do not."""


def prepare_source(
    source: Source, downloaded: str | Path, out: str | Path, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Turn an unpacked download into samples that `find_samples` reads.

    One image is in memory at a time. Files that are there already and the same are kept, so a preparation that
    was interrupted can be made again; `samples.csv` gets its rows last, and keeps those of other data sets.

    Parameters
    ----------
    source : Source
        The data set.
    downloaded : str or Path
        Folder that the download was unpacked to.
    out : str or Path
        Folder to write to; made where it is not there.
    progress : callable, optional
        Called with the number of images done and of all, after each.

    Returns
    -------
    Prepared
        What was written. Ids of objects are 1 to K in the order of the download's.

    Raises
    ------
    FileNotFoundError
        If the download lacks something: see `Source.items`.
    ValueError
        If a file of it is damaged or another than it should be, or `out` holds a foreign samples.csv.
    NotADirectoryError
        If `out` is a file.
    """
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"out is {str(root)!r}, a file; give a folder to write to")
    items = source.items(downloaded)
    read_rows(root / "samples.csv")
    samples = divide(source, items)
    folder = root / source.name
    images, objects, written = Counter[str](), Counter[str](), 0
    for done, (item, sample) in enumerate(zip(items, samples, strict=True), start=1):
        pixels = item.image()
        mask = _compact(item.mask((pixels.shape[1], pixels.shape[2])))
        if mask.shape != pixels.shape[1:]:
            raise ValueError(f"image {item.stem} has the shape {pixels.shape[1:]} and its mask {mask.shape}")
        written += write_image(folder, item.stem, pixels) | write_mask(folder, item.stem, mask)
        images[sample.split] += 1
        objects[sample.split] += int(mask.max(initial=0))
        if progress is not None:
            progress(done, len(items))
    write_rows(root / "samples.csv", source.name, map(_row, samples))
    remarks = _differences(source, images.total(), objects.total())
    return Prepared(source, folder, _by_split(images), _by_split(objects), written, remarks)


def divide(source: Source, items: Sequence[Item]) -> tuple[Sample, ...]:
    """Choose the splits: the published ones, else by a hash of the field, as `split_by_name` does.

    Parameters
    ----------
    source : Source
        The data set, with the shares.
    items : sequence of Item
        Its images.

    Returns
    -------
    tuple of Sample
        In the same order, without paths.
    """
    nowhere = Path()
    samples = [
        Sample(
            *(item.stem, source.name, item.modality, item.split, nowhere, nowhere),
            pixel_size_um=source.pixel_size_um,
            field=item.field,
            licence=source.licence,
        )
        for item in items
    ]
    chosen = {sample.name: sample.split for sample in samples if sample.split}
    rest = [sample for sample in samples if not sample.split]
    test_share = source.test_share
    if rest:
        division = split_by_name(rest, test_share)
        rest = list(division.train)
        chosen |= {sample.name: "test" for sample in division.val}
    elif "val" not in chosen.values():
        rest, test_share = [sample for sample in samples if sample.split == "train"], 0.0
    # The hash is the same both times: of `rest`, no field lies below the share of `test`.
    train, val = split_by_name(rest, test_share + source.val_share)
    chosen |= {sample.name: sample.split for sample in (*train, *val)}
    return tuple(replace(sample, split=chosen[sample.name]) for sample in samples)


def _compact(mask: NDArray[np.int32]) -> NDArray[np.int32]:
    """Give ids 1..K in the order of those that are there; 0 and -1 stay."""
    ids, places = np.unique(mask, return_inverse=True)
    numbers = np.where(ids > 0, np.cumsum(ids > 0), ids).astype(np.int32)
    return numbers[places].reshape(mask.shape)


def _row(sample: Sample) -> dict[str, str]:
    return {
        "dataset": sample.dataset,
        "stem": sample.name,
        "field": sample.field or sample.name,
        "split": sample.split,
        "modality": sample.modality,
        "pixel_size_um": "" if sample.pixel_size_um is None else f"{sample.pixel_size_um:g}",
        "licence": sample.licence,
    }


def _by_split(counts: Counter[str]) -> dict[str, int]:
    return {split: counts[split] for split in SPLITS}


def _differences(source: Source, images: int, objects: int) -> tuple[str, ...]:
    counts = (("images", images, source.images), ("objects", objects, source.objects))
    return tuple(
        f"{source.name} has {found:,} {what}; {source.counted_by} has {expected:,}"
        for what, found, expected in counts
        if expected is not None and found != expected
    )
