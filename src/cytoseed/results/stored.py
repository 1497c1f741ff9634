"""Stored results: files that end in `.objects.zip`, opened again with the image that they were found in."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import accumulate
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageLike, as_image
from cytoseed.images.overview import reduce, thumbnail
from cytoseed.images.pixel_size import PixelSize
from cytoseed.packed import read_array, read_member
from cytoseed.paths import is_url, require_file
from cytoseed.results.formats.objects_zip import FACTS, FORMAT, SUFFIX, part_names
from cytoseed.results.objects import Block, Box, Objects, Part, around
from cytoseed.results.result import Result
from cytoseed.results.view import Parts, input_of
from cytoseed.settings import TARGETS

_FACTS_BYTES = 1 << 28  # most bytes of the description
_LARGEST_PX, _LARGEST_BLOCK_PX = 1 << 40, 1 << 30  # of the image; of the box around the objects of a block
_LARGEST_ID = np.iinfo(np.int32).max


def open_result(path: str | os.PathLike[str], image: ImageLike | None = None) -> Result:
    """Open a stored result, a file that ends in `.objects.zip`, to look at it or to write it in other formats.

    `path` is what `cytoseed segment`, `Result.save` or `cytoseed.segment(..., output=...)` wrote in the format
    `objects`. Objects are read when they are needed; the file stays open until the end of a `with` block, `close`, or
    the end of the result. Only the overlay needs `image`, a path, an Image or an array; by default it is looked for
    where it was, then beside the result.

    Raises FileNotFoundError if there is no such file, and ValueError if it is damaged, was written by a newer cytoseed,
    or is something else. Later, `overview` and the overlay raise them if the image is not found, or is another one.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a stored result in it, a file that ends in {SUFFIX}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; stored results end in {SUFFIX}")
    require_file(path)
    with path.open("rb") as file:
        begin = file.read(100)
    if not any(name.encode() in begin for name in (FACTS, *part_names(0))):  # the first member's
        raise ValueError(f"{path}: is not a stored result of cytoseed; those are files that end in {SUFFIX}")
    with _damage_of(path):
        archive = zipfile.ZipFile(path)
    try:
        with _damage_of(path):
            facts = json.loads(read_member(archive, FACTS, _FACTS_BYTES))
            is_newer = facts["format"] > FORMAT
        if is_newer:
            raise ValueError(
                f"{path}: was written by cytoseed {facts.get('version', 'newer than this one')}, in a form that this "
                f"version ({metadata.version('cytoseed')}) cannot read; upgrade it: pip install --upgrade cytoseed"
            )
        with _damage_of(path):
            return _read(path, archive, facts, image)
    except BaseException:
        archive.close()
        raise


@contextmanager
def _damage_of(path: Path) -> Iterator[None]:
    """Turn whatever a library raises on a damaged file into a ValueError that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(f"{path}: "):
            raise
        raise ValueError(
            f"{path}: is damaged or cut short ({error}); copy it again from where it is whole, or make it again with "
            f"cytoseed segment"
        ) from error


def _read(path: Path, archive: zipfile.ZipFile, facts: Mapping[str, Any], image: ImageLike | None) -> Result:
    """Result as its facts describe it; objects are read later."""
    shape, (counts, boxes, blocks) = _shape(facts["shape"]), _described_parts(facts)
    described, targets = dict(facts["input"]), _texts(facts["targets"])
    stains, names, was_at = _texts(facts["stains"]), _texts(facts["channel_names"]), facts["image"]
    is_name = "\0" not in str(facts["source"])
    if targets not in TARGETS or len(names) != shape[0] or not isinstance(was_at, str | None) or not is_name:
        raise ValueError("its description is inconsistent")
    result = Result(
        contents=_StoredParts(
            boxes,
            _part_reader(path, archive, counts, len(targets)),
            targets,
            int(facts["count"]),
            blocks_of_parts=blocks,
            columns=_columns(facts["table"]),
            path=path,
        ),
        shape=shape,
        targets=targets,
        channel_names=names,
        pixel_size_um=_pixel_size(facts["pixel_size_um"]),
        source=str(facts["source"]),
        settings=dict(facts["settings"]),
        find_input=lambda: described,
        find_stains=lambda: stains,
        thumbnail=lambda largest_px: _thumbnail(result, largest_px),
        find_image=lambda: _image_of(image, result, was_at),
        failed=_texts(facts["failed"]),
        version=str(facts["version"]),
        was_in_memory=bool(facts["was_in_memory"]),
        has_scores=any(name == "score" for name, _ in facts["table"]),
        path=path,
        close=archive.close,
    )
    return result


class _StoredParts(Parts):
    """Parts of a file, which is named in errors about them."""

    def __init__(self, *args: Any, path: Path, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._path = path

    def blocks(self) -> Iterator[Block]:
        with _damage_of(self._path):
            yield from super().blocks()

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        with _damage_of(self._path):
            return super().labels_in(box_yxhw)

    def labels_at(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.int32]:
        with _damage_of(self._path):
            return super().labels_at(rows, columns)


def _shape(found: Any) -> tuple[int, int, int]:
    """Shape (C,H,W) of the image."""
    channels, height, width = map(int, found)
    if min(channels, height, width) < 0 or height * width > _LARGEST_PX:
        raise ValueError(f"it states an image of shape {found}")
    return channels, height, width


def _described_parts(facts: Mapping[str, Any]) -> tuple[list[int], NDArray[np.int64], list[range]]:
    """Number of objects of each part, box (N,4) around them, which lies in the image, and parts of each block."""
    counts, boxes = facts["parts"]["count"], np.array(facts["parts"]["box_yxhw"], np.int64).reshape(-1, 4)
    stops = list(accumulate(map(int, facts["blocks"])))
    blocks = [range(stop - int(number), stop) for stop, number in zip(stops, facts["blocks"], strict=True)]
    inside = (boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= np.array(facts["shape"][1:])).all()
    if not len(boxes) == len(counts) == sum(map(len, blocks)) or not inside:
        raise ValueError("its description of its parts is inconsistent")
    for block in blocks:
        own = boxes[block.start : block.stop]
        if not len(own) or math.prod(around(own[own[:, 2] > 0])[2:]) > _LARGEST_BLOCK_PX:
            raise ValueError("a block of its objects has an absurd size")
    return counts, boxes, blocks


def _columns(found: Any) -> list[tuple[str, str]]:
    """Name and dtype of each column of the table: numbers, but for the target."""
    columns = [(str(name), str(kind)) for name, kind in found]
    if any(np.dtype(kind).kind not in "if" for name, kind in columns if name != "target"):
        raise ValueError("its table has columns that are not numbers")
    return columns


def _texts(found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise TypeError(f"{found!r} is not a list of texts")
    return tuple(found)


def _pixel_size(found: Any) -> PixelSize:
    """Pixel size as stored: a number, height and width, or none."""
    if isinstance(found, list):
        height, width = map(float, found)
        return height, width
    return None if found is None else float(found)


def _part_reader(path: Path, archive: zipfile.ZipFile, counts: list[int], targets: int) -> Callable[[int], Part]:
    """Reader of the objects of a part, and their ids."""

    def read(part: int) -> Part:
        if archive.fp is None:
            raise ValueError(f"{path}: was closed; read from a stored result inside its `with` block")
        with _damage_of(path):
            packed, numbered = (read_member(archive, name) for name in part_names(part))
            objects, ids = Objects.from_bytes(packed), read_array(numbered)
            if ids.shape != (counts[part],) or len(objects) != len(ids) or ids.dtype.kind not in "iu":
                raise ValueError(f"part {part} has {len(objects)} objects, ids of {ids.shape}, and not {counts[part]}")
            if (ids < 1).any() or (ids > _LARGEST_ID).any() or (objects.target >= targets).any():
                raise ValueError(f"part {part} has objects of ids or targets that there are not")
        return objects, ids

    return read


# Its image


def _thumbnail(result: Result, largest_px: int) -> tuple[NDArray[Any], float]:
    """Image as it was shown when the result was made."""
    image = result.find_image()
    return reduce(image.read(), largest_px) if result.was_in_memory else thumbnail(image, largest_px)


def _image_of(given: ImageLike | None, result: Result, was_at: str | None) -> Image:
    """Image in which the objects were found: the given one, or the one where it was or beside the result."""
    image = _find_image(result, was_at) if given is None else _open(given, result)
    if result.settings.get("nan") == "zero":
        image = image.finite()
    if image.shape != result.shape:
        raise ValueError(
            f"{image.path or 'the image'}: has shape {image.shape}, and the objects of {result.path} were found in an "
            f"image of {result.shape}; give that one"
        )
    return image


def _open(image: ImageLike, result: Result) -> Image:
    """Open the image of a file, and the part of a slide's canvas, that a result names."""
    return as_image(image, result.input.get("series"), full_canvas="offset_xy" not in result.input)


def _find_image(result: Result, was_at: str | None) -> Image:
    """Find the image again, where it was or beside the result; a different one of the same name is not accepted."""
    assert result.path is not None
    name = PurePath(str(result.input.get("name", "")).replace("\\", "/")).name
    places = () if was_at is None else tuple(dict.fromkeys((was_at, str(result.path.parent.absolute() / name))))
    for place in places:
        if is_url(place) or place.startswith((r"\\", "//")):  # nobody asked for it: the file may come from anyone
            continue
        try:
            image = _open(place, result)
        except FileNotFoundError:
            continue
        if image.shape == result.shape:
            own = image.identity() if "bytes" in result.input else input_of(image.read(), "")
            if {**own, "name": ""} == {**result.input, "name": ""}:
                return image
    where = "an array, in no file" if was_at is None else f"not at {' or '.join(places)} as it was then"
    raise FileNotFoundError(
        f"{result.path}: this needs the image in which the objects were found, which is {where}; "
        f"give its location with --image (image in Python)"
    )
