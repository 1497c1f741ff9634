"""Which mask belongs to which image: three forms of folder, told by names alone; of contents only the table is read."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
"""Suffixes of files taken for images, in lower case."""
MASK_SUFFIXES = (".png", ".tif", ".tiff")
"""Suffixes of files taken for label images, in lower case; JPEG would change the ids."""
OUTLINE_SUFFIXES = (".geojson",)
"""Suffixes of files taken for outlines of objects, in lower case."""

_TRUTH_SUFFIXES = (*MASK_SUFFIXES, *OUTLINE_SUFFIXES)
_MASK_ENDINGS = ("_masks", "_cp_masks")  # Cellpose's, of its early and its later versions
_NO_IMAGES = (*_MASK_ENDINGS, "_flows", "_outlines")


class Pair(NamedTuple):
    """An image and its mask, as a folder has them."""

    image_path: Path
    """File of the image; where it is missing, the path where it should be."""
    mask_path: Path
    """File of the mask; where it is missing, the path where it should be."""
    row: dict[str, str]
    """What the table says of the image; empty without a table."""


def find_pairs(root: Path) -> tuple[Pair, ...]:
    """Find the images of a folder and their masks, in the first form of three that fits.

    A `samples.csv`; folders `images` and `masks`; images beside their masks. See `find_samples`.

    Parameters
    ----------
    root : Path
        A folder that exists.

    Returns
    -------
    tuple of Pair
        In the table's order, else by name; empty where the folder holds nothing of the kind.

    Raises
    ------
    ValueError
        If two files claim the same place, the table lacks a column, or an image has nothing but Cellpose's
        `_seg.npy`.
    """
    if (root / "samples.csv").is_file():
        return tuple(_listed(root / "samples.csv"))
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return tuple(_in_folders(root))
    return tuple(_beside(root))


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """List the files of a folder by name without suffix.

    Parameters
    ----------
    folder : Path
        Where to look, not deeper; nothing is found where it is missing.
    suffixes : tuple of str
        Suffixes to take, in lower case, with their dot.

    Returns
    -------
    dict of str to Path
        In the order of names. Hidden files are left out.

    Raises
    ------
    ValueError
        If two files have the same name but for the suffix.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(".") or path.suffix.lower() not in suffixes:
            continue
        if path.stem in found:
            raise ValueError(f"{folder} holds {found[path.stem].name} and {path.name}; keep one of them")
        found[path.stem] = path
    return found


def _listed(table: Path) -> Iterator[Pair]:
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        missing = [column for column in ("dataset", "stem") if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{table} has no column {missing[0]!r}; it needs at least: dataset, stem")
        rows = list(reader)
    folders: dict[Path, dict[str, Path]] = {}

    def locate(kind: str, row: dict[str, str], suffixes: tuple[str, ...]) -> Path:
        folder = table.parent / row["dataset"] / kind
        if folder not in folders:
            folders[folder] = by_stem(folder, suffixes)
        return folders[folder].get(row["stem"], folder / f"{row['stem']}.png")

    for row in rows:
        yield Pair(locate("images", row, IMAGE_SUFFIXES), locate("masks", row, _TRUTH_SUFFIXES), row)


def _in_folders(root: Path) -> Iterator[Pair]:
    masks = by_stem(root / "masks", _TRUTH_SUFFIXES)
    for stem, path in by_stem(root / "images", IMAGE_SUFFIXES).items():
        if stem not in masks:
            _refuse_pickles(path, root / "masks")
        yield Pair(path, masks.get(stem, root / "masks" / f"{stem}.png"), {})


def _beside(root: Path) -> Iterator[Pair]:
    """Pair images with what lies beside them; Cellpose's other files are neither image nor mask."""
    masks, outlines = by_stem(root, MASK_SUFFIXES), by_stem(root, OUTLINE_SUFFIXES)
    for stem, path in by_stem(root, IMAGE_SUFFIXES).items():
        if stem.endswith(_NO_IMAGES):
            continue
        found = [masks[stem + ending] for ending in _MASK_ENDINGS if stem + ending in masks]
        found += [outlines[stem]] if stem in outlines else []
        if len(found) > 1:
            raise ValueError(f"{path} has the masks {found[0].name} and {found[1].name}; keep one of them")
        if not found:
            _refuse_pickles(path, root)
        yield Pair(path, found[0] if found else root / f"{stem}_masks.png", {})


def _refuse_pickles(image: Path, folder: Path) -> None:
    """Say what to do with a `_seg.npy`, where it is all that an image has."""
    for pickle in (image.with_name(f"{image.stem}_seg.npy"), folder / f"{image.stem}_seg.npy"):
        if pickle.is_file():
            raise ValueError(
                f"{pickle} is a pickle, which can run any code when it is read, so it is not; export the masks from "
                f"Cellpose: File > Save masks as PNG/TIFF in its window, --save_png or --save_tif on its command line"
            )
