"""Stored results: files that end in `.objects.zip`, opened again with the image that they were found in."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageLike, as_image
from cytoseed.images.overview import reduce, thumbnail
from cytoseed.images.pixel_size import PixelSize
from cytoseed.results.formats.objects_zip import FACTS, FORMAT, SUFFIX, part_names
from cytoseed.results.objects import Objects, Part
from cytoseed.results.result import Result
from cytoseed.results.view import Parts, input_of

_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


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
    with path.open("rb") as file:
        begin = file.read(100)
    if not any(name.encode() in begin for name in (FACTS, *part_names(0))):  # the first member's
        raise ValueError(f"{path}: is not a stored result of cytoseed; those are files that end in {SUFFIX}")
    with _damage_of(path):
        archive = zipfile.ZipFile(path)
    try:
        with _damage_of(path):
            facts = json.loads(archive.read(FACTS))
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
    """Name the file in errors of reading it."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: is damaged or cut short ({error}); copy it again from where it is whole, or make it again with "
            f"cytoseed segment"
        ) from error


def _read(path: Path, archive: zipfile.ZipFile, facts: Mapping[str, Any], image: ImageLike | None) -> Result:
    """Result as its facts describe it; objects are read later."""
    channels, height, width = map(int, facts["shape"])
    described, stains = dict(facts["input"]), tuple(facts["stains"])
    counts, boxes = facts["parts"]["count"], np.array(facts["parts"]["box_yxhw"], np.int64).reshape(-1, 4)
    if not len(boxes) == len(counts) == sum(facts["blocks"]):
        raise ValueError("its description of its parts is inconsistent")
    stops = zip(accumulate(facts["blocks"]), facts["blocks"], strict=True)
    result = Result(
        contents=Parts(
            boxes,
            _part_reader(path, archive, counts),
            facts["targets"],
            int(facts["count"]),
            blocks_of_parts=[range(stop - number, stop) for stop, number in stops],
            columns=[(str(name), str(kind)) for name, kind in facts["table"]],
        ),
        shape=(channels, height, width),
        targets=tuple(facts["targets"]),
        channel_names=tuple(facts["channel_names"]),
        pixel_size_um=_pixel_size(facts["pixel_size_um"]),
        source=str(facts["source"]),
        settings=dict(facts["settings"]),
        find_input=lambda: described,
        find_stains=lambda: stains,
        thumbnail=lambda largest_px: _thumbnail(result, largest_px),
        find_image=lambda: _image_of(image, result, facts["image"]),
        failed=tuple(facts["failed"]),
        version=str(facts["version"]),
        was_in_memory=bool(facts["was_in_memory"]),
        path=path,
        close=archive.close,
    )
    return result


def _pixel_size(found: Any) -> PixelSize:
    """Pixel size as stored: a number, height and width, or none."""
    if isinstance(found, list):
        height, width = map(float, found)
        return height, width
    return None if found is None else float(found)


def _part_reader(path: Path, archive: zipfile.ZipFile, counts: list[int]) -> Callable[[int], Part]:
    """Reader of the objects of a part, and their ids."""

    def read(part: int) -> Part:
        if archive.fp is None:
            raise ValueError(f"{path}: was closed; read from a stored result inside its `with` block")
        with _damage_of(path):
            packed, numbered = (archive.read(name) for name in part_names(part))
            objects = Objects.from_bytes(packed)
            ids: NDArray[np.int64] = np.load(io.BytesIO(numbered), allow_pickle=False)
            if not len(objects) == len(ids) == counts[part]:
                raise ValueError(f"part {part} has {len(objects)} objects, {len(ids)} ids, and not {counts[part]}")
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
    beside = str(result.path.parent.absolute() / str(result.input.get("name", "")))
    places = () if was_at is None else tuple(dict.fromkeys((was_at, beside)))
    for place in places:
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
