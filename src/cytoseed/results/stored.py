"""Stored results: files that end in `.objects.zip`, opened again with the image that they were found in."""

from __future__ import annotations

import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from importlib import metadata
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageLike, as_image, open_image
from cytoseed.images.overview import thumbnail
from cytoseed.results.blocks import Part
from cytoseed.results.contents import Parts
from cytoseed.results.facts import input_of
from cytoseed.results.formats.objects_zip import FACTS, FORMAT, SUFFIX, part_names
from cytoseed.results.objects import Objects
from cytoseed.results.result import Result

_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def open_result(path: str | os.PathLike[str], image: ImageLike | None = None) -> Result:
    """Open a stored result, a file that ends in `.objects.zip`, to look at it or to write it in other formats.

    Its objects are read when they are needed.

    Parameters
    ----------
    path : str or path
        What `cytoseed segment`, `Result.save` or `cytoseed.segment(..., output=...)` wrote in the format `objects`.
    image : path, Image or array, optional
        The image. Only the overlay needs it; by default it is looked for where it was, then beside the result.

    Returns
    -------
    Result
        Its file stays open until the end of a `with` block, `close`, or the end of the result.

    Raises
    ------
    FileNotFoundError
        There is no such file. Later, from `overview` and the overlay: the image is not found.
    ValueError
        The file is damaged, was written by a newer cytoseed, or is something else. Later: the image is another one.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; give a stored result in it, a file that ends in {SUFFIX}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; stored results end in {SUFFIX}")
    archive = _open_zip(path)
    try:
        return _read(path, archive, image)
    except BaseException:
        archive.close()
        raise


def _open_zip(path: Path) -> zipfile.ZipFile:
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        raise ValueError(f"{path}: is no stored result of cytoseed; those are files that end in {SUFFIX}")
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from error


def _read(path: Path, archive: zipfile.ZipFile, image: ImageLike | None) -> Result:
    """Read everything but the objects."""
    if FACTS not in archive.namelist():  # of a file that is cut, a zip inside it may be taken for the whole
        with path.open("rb") as file:
            is_ours = part_names(0)[0].encode() in file.read(100)
        if is_ours:
            raise _damaged(path, ValueError("its end is missing"))
        raise ValueError(f"{path}: is a zip, but no stored result of cytoseed: {FACTS!r} is not in it")
    try:
        facts = json.loads(archive.read(FACTS))
        newer = facts["format"] > FORMAT
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    if newer:
        raise ValueError(
            f"{path}: was written by cytoseed {facts.get('version', 'newer than this one')}, in a form that this "
            f"version ({metadata.version('cytoseed')}) cannot read; upgrade it: pip install --upgrade cytoseed"
        )
    try:
        return _result_of(path, archive, facts, image)
    except _DAMAGED as error:
        raise _damaged(path, error) from error


def _result_of(path: Path, archive: zipfile.ZipFile, facts: Mapping[str, Any], image: ImageLike | None) -> Result:
    channels, height, width = map(int, facts["shape"])
    side_um, described = facts["pixel_size_um"], dict(facts["input"])
    result = Result(
        contents=_contents(path, archive, facts),
        shape=(channels, height, width),
        targets=tuple(facts["targets"]),
        channel_names=tuple(facts["channel_names"]),
        pixel_size_um=None if side_um is None else float(side_um),
        source=str(facts["source"]),
        settings=dict(facts["settings"]),
        find_input=lambda: described,
        find_stains=lambda: tuple(facts["stains"]),
        thumbnail=lambda largest_px: _thumbnail(image, result, facts["image"], largest_px),
        failed=tuple(facts["failed"]),
        version=str(facts["version"]),
        was_in_memory=bool(facts["was_in_memory"]),
        path=path,
        close=archive.close,
    )
    return result


def _contents(path: Path, archive: zipfile.ZipFile, facts: Mapping[str, Any]) -> Parts:
    stops = list(accumulate(facts["blocks"]))
    boxes = np.array(facts["parts"]["box_yxhw"], np.int64).reshape(-1, 4)
    counts = [int(count) for count in facts["parts"]["count"]]
    if not len(boxes) == len(counts) == sum(facts["blocks"]):
        raise ValueError("what it says of its parts does not fit together")

    def load(part: int) -> Part:
        return _part(path, archive, part, counts[part])

    return Parts(
        boxes,
        load,
        facts["targets"],
        int(facts["count"]),
        blocks_of_parts=[range(stop - number, stop) for stop, number in zip(stops, facts["blocks"], strict=True)],
        columns=[(str(name), str(kind)) for name, kind in facts["table"]],
    )


def _part(path: Path, archive: zipfile.ZipFile, part: int, count: int) -> Part:
    """Read the objects of a part, and their ids."""
    if archive.fp is None:
        raise ValueError(f"{path}: was closed; read from a stored result inside its `with` block")
    try:
        packed, numbered = (archive.read(name) for name in part_names(part))
        objects = Objects.from_bytes(packed)
        ids: NDArray[np.int64] = np.load(io.BytesIO(numbered), allow_pickle=False)
        if not len(objects) == len(ids) == count:
            raise ValueError(f"part {part} has {len(objects)} objects and {len(ids)} ids, and should have {count}")
    except _DAMAGED as error:
        raise _damaged(path, error) from error
    return objects, ids


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: is damaged or cut short ({error}); copy it again from where it is whole, or make it again with "
        f"cytoseed segment"
    )


# Its image


def _thumbnail(
    given: ImageLike | None, result: Result, was_at: str | None, largest_px: int
) -> tuple[NDArray[Any], float]:
    """Show the image as it was shown when the result was made."""
    image = _found(result, was_at) if given is None else as_image(given)
    if image.shape != result.shape:
        raise ValueError(
            f"{image.path or 'the image'}: has shape {image.shape}, and the objects of {result.path} were found in an "
            f"image of {result.shape}; give that one"
        )
    return (image.read(), 1.0) if result.was_in_memory else thumbnail(image, largest_px)


def _found(result: Result, was_at: str | None) -> Image:
    """Find the image again; another one of its name does not count."""
    places = tuple(_places(result, was_at))
    for place in places:
        try:
            image = open_image(place)
        except FileNotFoundError:
            continue
        if _is_same(image, result):
            return image
    where = "an array, in no file" if was_at is None else f"not at {' or '.join(places)} as it was then"
    raise FileNotFoundError(
        f"{result.path}: the overlay is drawn on the image in which the objects were found, which is {where}; "
        f"say where it is by --image (image in Python)"
    )


def _places(result: Result, was_at: str | None) -> Iterator[str]:
    """Paths where the image may be."""
    if was_at is not None and result.path is not None:
        yield was_at
        beside = str(result.path.parent.absolute() / str(result.input.get("name", "")))
        if beside != was_at:
            yield beside


def _is_same(image: Image, result: Result) -> bool:
    """True for the image in which the objects were found, whatever it is called now."""
    if image.shape != result.shape:
        return False
    own = image.identity() if "bytes" in result.input else input_of(image.read(), "")
    return _without_name(own) == _without_name(result.input)


def _without_name(described: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in described.items() if key != "name"}
