"""Images of one file: their names, which are smaller pictures of another, and the choice of one or several."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cytoseed.images.image import Image
from cytoseed.images.regions import ImageFileError

ALL = "all"
"""The choice of every image of a file, also of smaller pictures."""

_PICTURES = re.compile(r"(?<![a-z])(macro|label|barcode|thumb(nail)?|overview|preview|map)(?![a-z])", re.IGNORECASE)
_SAME_ASPECT = 0.02
_LARGEST_SIDE = 0.55  # of the largest image's, for a smaller picture
_LARGEST_SHARE = 1 / 16  # of its area, for one of another aspect
_LONGEST_NAME, _LISTED = 60, 10


@dataclass(frozen=True)
class Series:
    """One of the images in a file, or in a folder of several OME-Zarr."""

    name: str
    """Name that no other image of the file has, without characters that file names may not have."""
    shape_yx: tuple[int, int] | None
    """Height and width at full resolution, in px; None for fields of a plate, of which it is known when opened."""
    load: Callable[[], Image]
    """Opens the image as its reader does; use `open`."""
    is_picture: bool = False
    """Whether it only shows another image of the file smaller, or its slide's label."""
    is_main: bool = False
    """Whether all others of the file are such pictures: results are named after the file alone."""

    @property
    def is_named_so(self) -> bool:
        """Whether its name says that it is such a picture."""
        return _PICTURES.search(self.name) is not None

    def open(self) -> Image:
        """Open the image; raises what `open_image` does."""
        return replace(self.load(), series=None if self.is_main else self.name)

    def __str__(self) -> str:
        return self.name if self.shape_yx is None else f"{self.name} ({self.shape_yx[1]} x {self.shape_yx[0]} px)"


def single(image: Image, name: str = "") -> Series:
    """Series of an image that is already open."""
    return Series(name, image.shape[1:], lambda: image)


def ranked(found: Sequence[Series]) -> tuple[Series, ...]:
    """Images of a file with unique names, and marked as main image, peers or smaller pictures."""
    names = [re.sub(r"[^\w.+-]+", "_", one.name)[:_LONGEST_NAME].strip("._") for one in found]
    if not all(names) or len({name.casefold() for name in names}) < len(names):
        names = [f"{name}_{number}".strip("_") for number, name in enumerate(names)]
    pictures = {n for n, one in enumerate(found) if one.is_named_so}
    if len(pictures) == len(found):
        pictures = set()
    largest = largest_of([one for n, one in enumerate(found) if n not in pictures])
    pictures |= {n for n, one in enumerate(found) if _is_smaller(one.shape_yx, largest.shape_yx)}
    has_main = len(found) - len(pictures) == 1
    return tuple(
        replace(one, name=name, is_picture=n in pictures, is_main=has_main and n not in pictures)
        for n, (one, name) in enumerate(zip(found, names, strict=True))
    )


def largest_of(found: Iterable[Series]) -> Series:
    """The image of the largest area, the first of several."""
    return max(found, key=lambda one: 0 if one.shape_yx is None else one.shape_yx[0] * one.shape_yx[1])


def _is_smaller(shape_yx: tuple[int, int] | None, full_yx: tuple[int, int] | None) -> bool:
    """Whether an image may show another one smaller: of the same aspect and half its sides or less, or tiny."""
    if shape_yx is None or full_yx is None or min(*shape_yx, *full_yx) < 1:
        return False
    by_y, by_x = (small / full for small, full in zip(shape_yx, full_yx, strict=True))
    tolerance = max(_SAME_ASPECT, 1.5 / min(shape_yx)) * max(by_y, by_x)  # sides are rounded
    return by_y * by_x <= _LARGEST_SHARE or (abs(by_y - by_x) <= tolerance and max(by_y, by_x) <= _LARGEST_SIDE)


def choose_series(source: str, found: Sequence[Series], wanted: str | int | None = None) -> tuple[Series, ...]:
    """Images of a file: by default all but smaller pictures; `all`; or one by its name, or its number from 0.

    Raises a ValueError that lists the images for one that the file does not have.
    """
    if wanted is None:
        return tuple(one for one in found if not one.is_picture)
    if wanted == ALL:
        return tuple(found)
    for number, one in enumerate(found):
        if wanted == (number if isinstance(wanted, int) else one.name):
            return (one,)
    if isinstance(wanted, str) and wanted.isdecimal() and int(wanted) < len(found):
        return (found[int(wanted)],)
    raise ImageFileError(f"{source}: has no image {wanted!r}; give a name or a number from 0 of: {listed(found)}")


def listed(found: Sequence[Series | str], most: int = _LISTED) -> str:
    """Numbers, names and sizes of the first images, or names alone."""
    texts = [one if isinstance(one, str) else f"{number} {one}" for number, one in enumerate(found[:most])]
    return ", ".join([*texts, *([f"and {len(found) - most} more"] if len(found) > most else [])])
