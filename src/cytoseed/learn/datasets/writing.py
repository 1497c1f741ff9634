"""The one form that all data sets get: DATASET/images, DATASET/masks and rows of samples.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.paths import write_bytes

COLUMNS = ("dataset", "stem", "field", "split", "modality", "pixel_size_um", "licence")
"""Columns of samples.csv; others that a table has already are kept."""

_LARGEST_PNG = 65_535


def write_image(folder: Path, stem: str, pixels: NDArray[Any]) -> bool:
    """Write an image as `images/STEM.png`.

    Parameters
    ----------
    folder : Path
        The data set's.
    stem : str
        Name without suffix.
    pixels : ndarray of uint8 or uint16, shape (1 or 3, H, W)
        The image.

    Returns
    -------
    bool
        Whether anything was written: not where the same image is there already.

    Raises
    ------
    ValueError
        If the image is of another type or number of channels.
    """
    import imagecodecs

    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[0] not in (1, 3):
        raise ValueError(
            f"image {stem} is {pixels.dtype} with {pixels.shape[0]} channels; it must be 8 or 16 bit, 1 or 3"
        )
    planes = pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(np.moveaxis(pixels, 0, 2))
    return _replace(folder / "images" / f"{stem}.png", bytes(imagecodecs.png_encode(planes)))


def write_mask(folder: Path, stem: str, mask: NDArray[np.int32]) -> bool:
    """Write a mask as `masks/STEM.png`, uint16, or, with more than 65,535 ids or with -1, as `.tif`, int32.

    Parameters
    ----------
    folder : Path
        The data set's.
    stem : str
        Name without suffix.
    mask : ndarray of int32, shape (H, W)
        Ids; 0 is background, -1 marks pixels that nobody annotated.

    Returns
    -------
    bool
        Whether anything was written: not where the same mask is there already.
    """
    import imagecodecs
    import tifffile

    if mask.min(initial=0) >= 0 and mask.max(initial=0) <= _LARGEST_PNG:
        suffix, other, data = ".png", ".tif", bytes(imagecodecs.png_encode(mask.astype(np.uint16)))
    else:
        file = io.BytesIO()
        tifffile.imwrite(file, mask.astype(np.int32), photometric="minisblack", compression="zlib")
        suffix, other, data = ".tif", ".png", file.getvalue()
    written = _replace(folder / "masks" / f"{stem}{suffix}", data)
    (folder / "masks" / f"{stem}{other}").unlink(missing_ok=True)  # of an earlier preparation
    return written


def write_rows(table: Path, dataset: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Put the rows of a data set into a samples.csv, in place of those that it has; other sets' rows stay.

    Parameters
    ----------
    table : Path
        The file; made where it is not there.
    dataset : str
        Name of the data set.
    rows : iterable of mapping
        By column.

    Raises
    ------
    ValueError
        If the table has no column `dataset`.
    """
    columns, others = read_rows(table)
    kept = [row for row in others if row["dataset"] != dataset]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, *(name for name in COLUMNS if name not in columns)], lineterminator="\n")
    writer.writeheader()
    writer.writerows([*kept, *rows])
    _replace(table, text.getvalue().encode())


def read_rows(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Read a samples.csv: its columns and its rows; none where there is no file.

    Raises
    ------
    ValueError
        If the table has no column `dataset` or `stem`.
    """
    if not table.is_file():
        return [], []
    with table.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        columns = list(reader.fieldnames or ())
        if not {"dataset", "stem"} <= set(columns):
            raise ValueError(f"{table} is there already, without the columns dataset and stem; choose another folder")
        return columns, list(reader)


def _replace(path: Path, data: bytes) -> bool:
    """Write beside, then rename, unless the file holds just that."""
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data)
    return True
