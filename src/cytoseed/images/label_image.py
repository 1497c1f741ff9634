"""Label images: pictures whose values are ids of objects, in every form in which programs save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image
from cytoseed.images.outlines import Patch
from cytoseed.images.picture import open_png
from cytoseed.images.readers import open_image
from cytoseed.images.regions import ImageFileError
from cytoseed.images.tiff import open_label_tiff
from cytoseed.paths import InputWarning

_JPEG, _PNG, _TIFF = b"\xff\xd8\xff", b"\x89PNG", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST_PIECES = 3  # of a typical id; a mask with more was never labelled
_REMEDY = (
    "label the objects first (Fiji: Analyze > Analyze Particles with Show: Count Masks; scikit-image: "
    "skimage.measure.label(mask > 0))"
)
_IN_PIECES = "an id occurs in separate pieces, which count as one object; if they are several, give each its own id"
NO_OBJECTS = "holds no objects; if this image has some, outline them or leave it out"


def open_labels(path: Path) -> Image:
    """Open a label image or mask: not the colours of a palette but its indices, and a stack as one channel per plane.

    Raises what `open_image` does, and `ImageFileError` for a JPEG.
    """
    beginning = b""
    if path.is_file():
        with path.open("rb") as file:
            beginning = file.read(4)
    if beginning.startswith(_JPEG):
        raise ImageFileError(f"{path} is a JPEG, which changes pixels beside edges; save the mask as PNG or TIFF")
    if beginning == _PNG:
        return open_png(path, as_labels=True)
    return open_label_tiff(path) if beginning in _TIFF else open_image(path)


def read_labels(path: Path, *, warns: bool = True) -> NDArray[np.int32]:
    """Read a label image, (H, W): ids of objects, 0 for background, -1 for pixels that nobody annotated.

    Ids are whole numbers of any type, indices of a palette, or three equal colours; a stack of one plane per object
    is merged, the smaller one on top. Raises `ValueError` for anything else, and for a mask whose objects are not
    labelled: its only id, or the median one, has more than three separate pieces. With `warns`, emits an `InputWarning`
    where there are no objects, and where some consist of separate pieces.
    """
    image = open_labels(path)
    pixels = image.read()
    if len(pixels) == 1 or (pixels[1:] == pixels[:1]).all():
        labels = _as_ids(pixels[0], path)
        pieces = _pieces_by_id(labels)
    elif image.channel_names == RGB_NAMES:
        raise ValueError(f"mask {path} is a picture in colours, not of ids; {_REMEDY}")
    else:
        patches = [_patch_of(_as_ids(plane, path), number, path) for number, plane in enumerate(pixels)]
        labels = stack_objects(patches, (image.shape[1], image.shape[2]))
        pieces = np.array([label_pieces(patch.inside, corners=True).max(initial=0) for patch in patches])
        pieces = pieces[pieces > 0]
    if len(pieces) and np.median(pieces) > _MOST_PIECES:
        named = "1 id" if len(pieces) == 1 else f"{len(pieces)} ids"
        raise ValueError(f"mask {path} has {pieces.sum()} separate pieces of {named}; {_REMEDY}")
    if warns and (not len(pieces) or pieces.max() > 1):
        warn(InputWarning(path, _IN_PIECES if len(pieces) else NO_OBJECTS), stacklevel=2)
    return labels


def stack_objects(patches: Sequence[Patch], shape: tuple[int, int]) -> NDArray[np.int32]:
    """Mask of objects that may overlap, (H, W): 1 + the object's index; the smaller one is on top.

    An object that would cover the last visible pixels of another is left out: it is the same object, marked twice.
    If two objects are equally large, the later one is on top.
    """
    labels = np.zeros(shape, np.int32)
    visible = np.array([0, *(np.count_nonzero(patch.inside) for patch in patches)])
    for number in sorted(range(1, len(visible)), key=lambda number: (-visible[number], number)):
        top, left, inside = patches[number - 1]
        below = labels[top : top + inside.shape[0], left : left + inside.shape[1]]
        covered, lost = np.unique(below[inside], return_counts=True)
        covered, lost = covered[covered > 0], lost[covered > 0]
        if not visible[number] or (visible[covered] == lost).any():
            continue
        visible[covered] -= lost
        below[inside] = number
    return labels


def patch_of(inside: NDArray[np.bool_]) -> Patch:
    """Patch of the pixels (H, W) that are inside one object; an empty one without any."""
    from scipy import ndimage

    boxes = ndimage.find_objects(inside.astype(np.int8))
    return Patch(boxes[0][0].start, boxes[0][1].start, inside[boxes[0]]) if boxes else Patch(0, 0, inside[:0])


def label_pieces(values: NDArray[Any], corners: bool = False) -> NDArray[np.int32]:
    """Labels 1..K of the connected pieces of equal value, (H, W), 0 background; with `corners`, 8-connected."""
    from skimage import measure

    return np.asarray(measure.label(values.astype(np.int32), connectivity=2 if corners else 1), np.int32)


def _as_ids(values: NDArray[Any], path: Path) -> NDArray[np.int32]:
    if values.dtype.kind == "f" and not (np.isfinite(values) & (values == np.trunc(values))).all():
        raise ValueError(f"mask {path} holds {values.dtype} that are not whole numbers; it must have one id per object")
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if lowest < -1 or highest > np.iinfo(np.int32).max:
        raise ValueError(f"mask {path} holds ids from {lowest} to {highest}; they must be from -1 to 2^31 - 1")
    return np.asarray(values, dtype=np.int32)


def _patch_of(ids: NDArray[np.int32], plane: int, path: Path) -> Patch:
    """Object of one plane of a stack."""
    patch = patch_of(ids > 0)
    own = ids[ids != 0]
    if own.size and (own != max(own[0], 1)).any():
        raise ValueError(
            f"mask {path} is a stack whose plane {plane} holds several ids; give one plane of ids, or one per object"
        )
    return patch


def _pieces_by_id(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """Number of connected pieces of each id."""
    pieces = label_pieces(np.maximum(labels, 0), corners=True)
    id_of = np.zeros(pieces.max(initial=0) + 1, np.int32)
    id_of[pieces] = labels
    return np.unique(id_of[1:], return_counts=True)[1]
