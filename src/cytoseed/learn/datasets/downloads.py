"""Official downloads of data sets: files are found by patterns of their paths and read; anything missing is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.images.outlines import rasterise
from cytoseed.learn.annotations import stack_objects
from cytoseed.settings import DatasetNote

Shape = tuple[int, int]
Key = tuple[str, ...]  # values of the names in a pattern
_DEPTH = 6  # below the given folder: the deepest layout, and two more levels from unpacking


@dataclass(frozen=True)
class SourceImage:
    """One image of a download, not yet read."""

    stem: str  # name of its files, unique in the data set
    image: Callable[[], NDArray[Any]]  # reads the image, (C, H, W), as stored
    mask: Callable[[Shape], NDArray[np.int32]]  # reads the mask, given (H, W): ids, 0 background, -1 not annotated
    field: str = ""  # images of one field (a slide, a field of view) share a split. Empty: the image is its own
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
    test_share: float = 0.1  # fraction of all fields that becomes `test`, if no split is published

    @property
    def note(self) -> DatasetNote:
        """Entry for a model's config.json, without a number of images."""
        return DatasetNote(self.name, self.licence, self.url)

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
        stems = [each.stem for each in found]
        duplicates = sorted({stem for stem in stems if stems.count(stem) > 1})
        if duplicates:
            raise ValueError(f"{folder} holds two images named {duplicates[0]!r}; {expected}")
        return found


def match_files(folder: Path, pattern: str) -> list[tuple[Key, Path]]:
    """Visible files at or below a folder, sorted, whose path ends like a pattern such as `GT_{slide}/{stem}.png`.

    `*` and names in braces match within one part of the path, a repeated name what it matched before. Case does not
    count, and `.tif` is also `.tiff`.
    """
    text, *rest = re.split(r"\{(\w+)\}", pattern)
    expression = f"(?:.*/)?{_escape(text)}"
    for name, after in zip(rest[::2], rest[1::2], strict=True):
        expression += (f"(?P={name})" if f"<{name}>" in expression else f"(?P<{name}>[^/]+)") + _escape(after)
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


def _escape(text: str) -> str:
    return re.sub(r"\\\.tif$", r"\\.tiff?", re.escape(text).replace(r"\*", "[^/]*"))


def find_files(folder: Path, pattern: str) -> dict[Key, Path]:
    """Files by the values of the pattern's names; at least one, and one per value."""
    found: dict[Key, Path] = {}
    for key, path in match_files(folder, pattern):
        if found.setdefault(key, path) != path:
            raise ValueError(f"there are two files {pattern!r}: {found[key]} and {path}")
    if not found:
        raise FileNotFoundError(f"there is no {pattern!r} in it")
    return found


def pair_files(folder: Path, image: str, mask: str) -> list[tuple[Key, Path, Path]]:
    """(key, image, mask) of files with equal values of two patterns' names; none may lack its counterpart."""
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


def read_picture(path: Path) -> NDArray[Any]:
    """Image as stored, (C, H, W); three equal channels become one."""
    pixels = open_image(path).read()
    equal = pixels.shape[0] == 3 and (pixels[1:] == pixels[:1]).all()
    return pixels[:1] if equal else pixels


def connected_pieces(values: NDArray[Any], corners: bool = False) -> NDArray[np.int32]:
    """Labels 1..K of the connected pieces of equal value, (H, W), 0 background; `corners` connect if they are True."""
    from skimage import measure

    label: Callable[..., NDArray[Any]] = measure.label  # untyped
    return label(values.astype(np.int32), background=0, connectivity=2 if corners else 1).astype(np.int32)


def as_ids(values: NDArray[Any], where: Path) -> NDArray[np.int32]:
    """Numbers of any type as int32 ids; an error if they are no whole numbers from 0 to 2^31 - 1."""
    with np.errstate(invalid="ignore"):
        ids = values.astype(np.int32)
    if (ids != values).any() or ids.min(initial=0) < 0:
        raise ValueError(f"{where} holds values that are no ids: they must be whole numbers from 0 to 2^31 - 1")
    return ids


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Errors of a damaged file become a `ValueError` that names it."""
    try:
        yield
    except Exception as error:  # of each reader its own
        raise ValueError(f"{path} cannot be read as {kind} ({error}); download it again") from error


def read_npy(path: Path) -> NDArray[Any]:
    """Array of a `.npy` file; never a pickle, which could run code."""
    with _reading(path, "a NumPy array without pickles"), path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """One array of a MATLAB file up to version 7.2."""
    from scipy.io import loadmat

    with _reading(path, f"a MATLAB file with an array {key!r}"):
        return np.asarray(loadmat(path, variable_names=[key])[key])


def read_contours(path: Path, shape: Shape) -> NDArray[np.int32]:
    """Mask of the contours in an XML file of Aperio ImageScope; where they overlap, the smaller is on top.

    Ids have gaps where a contour has no pixel of its own. A contour holds the pixels whose centre is inside it.
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
    return stack_objects([rasterise([[ring]], shape) for ring in rings], shape)
