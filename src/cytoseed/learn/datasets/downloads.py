"""Official downloads of data sets: a source, its images, and files found by path patterns."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Key = tuple[str, ...]  # values of the names in a pattern
_DEPTH = 6  # below the given folder: the deepest layout, and two more levels from unpacking


@dataclass(frozen=True)
class SourceImage:
    """One image of a download, not yet read."""

    stem: str  # name of its files, unique in the data set
    image: Callable[[], NDArray[Any]]  # reads the image, (C, H, W), as stored
    mask: Callable[[tuple[int, int]], NDArray[np.int32]]  # reads the mask, given (H, W): ids, 0 background, -1 unknown
    field: str = ""  # images of one field (a slide, a field of view) share a split. Empty: a field of its own
    split: str = ""  # published split: `train`, `val` or `test`. Empty: none
    modality: str = "brightfield"


@dataclass(frozen=True)
class Source:
    """One public data set: a row of sources.csv."""

    name: str  # short name: in commands, folders and samples.csv
    title: str  # what it shows, in a few words
    licence: str  # licence of images and masks, an SPDX identifier
    url: str  # page that publishes it
    download: str  # what to download there and how to unpack it
    layout: str  # layout of the unpacked folder
    find: Callable[[Path], list[SourceImage]]  # finds the images; an error if the folder has another layout
    images: int  # published number of images
    objects: int | None  # published number of objects, if there is an exact one
    counted_by: str  # where these numbers were published
    pixel_size_um: float | None = None  # side of a pixel in µm, if it is published
    val_share: float = 0.1  # fraction of the fields of `train` that becomes `val`, if no `val` is published

    def find_images(self, downloaded: str | Path) -> list[SourceImage]:
        """Images of the unpacked download in this folder or below, by name; errors say what was expected."""
        folder = Path(downloaded)
        expected = f"expected: {self.layout}. Download: {self.download}, from {self.url}"
        if not folder.is_dir():
            raise FileNotFoundError(f"downloaded is {str(folder)!r}: there is no such folder; {expected}")
        try:
            found = self.find(folder)
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f"{folder} is not {self.name} as downloaded: {error}; {expected}") from error
        stems = sorted(each.stem for each in found)
        for stem, following in pairwise(stems):
            if stem == following:
                raise ValueError(f"{folder} holds two images named {stem!r}; {expected}")
        return found


def match_files(folder: Path, pattern: str) -> list[tuple[Key, Path]]:
    """Visible files at or below a folder, sorted, whose path ends in a pattern such as `GT_{slide}/{stem}.png`.

    `*` and names in braces match within one part of the path; a repeated name matches the same text again. Case is
    ignored, and `.tif` also matches `.tiff`.
    """
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    for name in re.findall(r"{(\w+)}", pattern):
        braces = rf"\{{{name}\}}"
        expression = expression.replace(braces, f"(?P<{name}>[^/]+)", 1).replace(braces, f"(?P={name})")
    expression = "(?:.*/)?" + re.sub(r"\.tif$", ".tiff?", expression)
    root, found = folder.resolve(), []
    for parent, folders, names in os.walk(root, followlinks=True):
        place = Path(parent).relative_to(root.parent)
        visible = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        folders[:] = visible if len(place.parts) <= _DEPTH else []
        for name in names:
            match = re.fullmatch(expression, (place / name).as_posix(), re.IGNORECASE)
            if match and not name.startswith("."):
                found.append((match.groups(), Path(parent) / name))
    return sorted(found, key=lambda pair: pair[1])


def find_files(folder: Path, pattern: str) -> dict[Key, Path]:
    """Files by the values of the pattern's names; at least one file, and only one for the same values."""
    found: dict[Key, Path] = {}
    for key, path in match_files(folder, pattern):
        if found.setdefault(key, path) != path:
            raise ValueError(f"two files match {pattern!r}: {found[key]} and {path}")
    if not found:
        raise FileNotFoundError(f"no file matches {pattern!r}")
    return found


def pair_files(folder: Path, image: str, mask: str) -> list[tuple[Key, Path, Path]]:
    """(key, image, mask) of files with equal values of two patterns' names; each must have its counterpart."""
    images, masks = find_files(folder, image), find_files(folder, mask)
    require(f"no {mask!r} of", images.keys() - masks.keys())
    require(f"no {image!r} of", masks.keys() - images.keys())
    return [(key, path, masks[key]) for key, path in images.items()]


def require(complaint: str, missing: Iterable[Key]) -> None:
    """Raise `FileNotFoundError` with up to three names if anything is missing."""
    names = ["/".join(key) for key in sorted(missing)]
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise FileNotFoundError(f"there is {complaint} {', '.join(names[:3])}{more}")
