"""Official downloads of data sets: their folders are found by name, their files read, anything missing is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import open_image
from cytoseed.images.outlines import rasterise
from cytoseed.learn.annotations import stack_objects
from cytoseed.learn.samples import files_by_stem
from cytoseed.settings import DatasetNote

Shape = tuple[int, int]
_Other = TypeVar("_Other")
_DEPTH = 4  # below the given folder: the deepest layout, and one more level from unpacking


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
    """One public data set."""

    name: str  # short name: in commands, folders and samples.csv
    title: str  # what it shows, in a few words
    licence: str  # licence of images and masks, an SPDX identifier
    url: str  # page that publishes it
    download: str  # what to download there and how to unpack it
    layout: str  # layout of the unpacked folder
    find: Callable[[Path], list[SourceImage]]  # finds the images; an error if the folder has another layout
    images: int  # published number of images
    objects: int | None  # published number of objects, if there is an exact one
    counted_by: str = "Table 1"  # where these numbers were published
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
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder} is not {self.name} as downloaded: {error}; {expected}") from None
        except ValueError as error:
            raise ValueError(f"{folder} is not {self.name} as downloaded: {error}; {expected}") from error
        stems = [each.stem for each in found]
        duplicates = sorted({stem for stem in stems if stems.count(stem) > 1})
        if duplicates:
            raise ValueError(f"{folder} holds two images named {duplicates[0]!r}; {expected}")
        return found


def find_folders(root: Path, pattern: str) -> list[Path]:
    """Visible folders by name (with `*`, in any case), the root among them; at least one, sorted."""
    found, level = [], [root]
    for _ in range(_DEPTH + 1):
        found += [folder for folder in level if fnmatch(folder.name.lower(), pattern.lower())]
        level = [child for folder in level for child in sorted(folder.iterdir()) if _is_visible_folder(child)]
    if not found:
        raise FileNotFoundError(f"there is no folder {pattern!r} in it")
    return sorted(found)


def find_folder(root: Path, name: str) -> Path:
    """The only folder of this name; of nested ones, as unpacking into `images` makes them, the innermost."""
    found = find_folders(root, name)
    innermost = max(found, key=lambda folder: len(folder.parts))
    beside = [folder for folder in found if folder != innermost and folder not in innermost.parents]
    if beside:
        raise ValueError(f"there are two folders {name!r}: {beside[0]} and {innermost}")
    return innermost


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name != "__MACOSX"


def files(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Files of a folder by stem; at least one."""
    found = files_by_stem(folder, suffixes)
    if not found:
        lacking = "holds no files" if folder.is_dir() else "is missing, which should hold files"
        raise FileNotFoundError(f"{folder} {lacking} {', '.join('*' + suffix for suffix in suffixes)}")
    return found


def pair(
    these: Mapping[str, Path], those: Mapping[str, _Other], this: str = "image", that: str = "mask"
) -> list[tuple[str, Path, _Other]]:
    """(name, image, mask) of equal names; an error if one has no counterpart."""
    require(f"no {that} of", these.keys() - those.keys())
    require(f"no {this} of", those.keys() - these.keys())
    return [(name, each, those[name]) for name, each in these.items()]


def require(complaint: str, missing: Iterable[str]) -> None:
    """Raise `FileNotFoundError` with up to three names if anything is missing."""
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise FileNotFoundError(f"there is {complaint} {', '.join(names[:3])}{more}")


def read_picture(path: Path) -> NDArray[Any]:
    """Image as stored, (C, H, W); three equal channels become one."""
    pixels = open_image(path).read()
    equal = pixels.shape[0] == 3 and (pixels[1:] == pixels[:1]).all()
    return pixels[:1] if equal else pixels


def connected_pieces(values: NDArray[Any], corners: bool = False) -> NDArray[np.int32]:
    """Labels 1..K of the connected pieces of equal value, (H, W); 0 is background.

    `corners`: pixels that meet only at a corner are connected.
    """
    from skimage import measure

    label: Callable[..., NDArray[Any]] = measure.label  # untyped
    return label(values.astype(np.int32), background=0, connectivity=2 if corners else 1).astype(np.int32)


def as_ids(values: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Numbers of any type as int32 ids; an error if they are no whole numbers from 0 to 2^31 - 1."""
    if values.size and not (np.isfinite(values).all() and (values == np.floor(values)).all() and values.min() >= 0):
        raise ValueError(f"{where} holds values that are no ids: they must be whole numbers, 0 or more")
    if values.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError(f"{where} holds the id {values.max()}; the largest possible is 2^31 - 1")
    return values.astype(np.int32)


def read_npy(path: Path) -> NDArray[Any]:
    """Array of a `.npy` file; never a pickle, which could run code."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as a NumPy array without pickles ({error}); download it again"
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path} is an archive of arrays; it must be a single one (.npy): download it again")
    return array


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """One array of a MATLAB file up to version 7.2."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        contents = loadmat(path, variable_names=[key])
    except NotImplementedError:
        raise ValueError(
            f"{path} is a MATLAB file of version 7.3 (HDF5), which is not read; download it again, or save it in "
            f"MATLAB with save(..., '-v7')"
        ) from None
    except (ValueError, TypeError, OSError, MatReadError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file ({error}); download it again") from error
    if key not in contents:
        raise ValueError(f"{path} holds no array {key!r}; it must, as the official files do")
    return np.asarray(contents[key])


def read_contours(path: Path, shape: Shape) -> NDArray[np.int32]:
    """Mask of the contours in an XML file of Aperio ImageScope; where they overlap, the smaller is on top.

    Ids have gaps where a contour has no pixel of its own. A contour holds the pixels whose centre is inside it.
    """
    try:
        root = ElementTree.parse(path).getroot()
        rings = [_ring(region) for region in root.iter("Region")]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as annotations of ImageScope ({error}); download it again") from error
    if root.tag != "Annotations":
        raise ValueError(f"{path} begins with <{root.tag}>; annotations of ImageScope begin with <Annotations>")
    return stack_objects([rasterise([[ring]], shape) for ring in rings], shape)


def _ring(region: ElementTree.Element) -> NDArray[np.float64]:
    corners = [(float(vertex.attrib["X"]), float(vertex.attrib["Y"])) for vertex in region.iter("Vertex")]
    ring = np.array(corners, np.float64).reshape(-1, 2)
    if not np.isfinite(ring).all():
        raise ValueError("a vertex is not finite")
    return ring
