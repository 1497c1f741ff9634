"""Reader of OME-Zarr (OME-NGFF) 0.4 and 0.5, local or at a URL, by zarr.

A missing chunk stands for the array's fill value, as OME-Zarr leaves background out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count, takewhile, zip_longest
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from xml.etree import ElementTree

from cytoseed.images.identity import read_text
from cytoseed.images.image import Image, make_image
from cytoseed.images.pixel_size import Statement, length_um
from cytoseed.images.regions import STACKS, ImageFileError, Slices, cut_short, flat_planes, foreign_errors
from cytoseed.images.series import Series, single
from cytoseed.images.zarr_store import open_array
from cytoseed.paths import display, is_remote, is_url

_MOST_LEVELS = 64
_COLLECTIONS = ("plate", "well", "bioformats2raw.layout")


def is_image_folder(path: Path) -> bool:
    """Whether a folder's metadata describe an image; raises `OSError` for a remote store that does not answer."""
    try:
        with foreign_errors(path):
            return _find(path) is not None or any(name in _attributes(path) for name in _COLLECTIONS)
    except ValueError:
        return False
    except OSError:
        if is_remote(path):
            raise
        return False


def list_zarr(path: Path) -> list[Series]:
    """Images of an OME-Zarr: the only one, those of bioformats2raw, or the fields of a plate or of a well."""
    with foreign_errors(path):
        attributes = _attributes(path)
        if "plate" in attributes:
            wells = [_inner(path, well["path"]) for well in attributes["plate"]["wells"]]
            with ThreadPoolExecutor(16) as pool:
                fields = list(pool.map(lambda well: _fields(path / well), wells))
            names = [(well, field) for well, own in zip(wells, fields, strict=True) for field in own]
            found: list[tuple[str, Path, tuple[int, int] | None]]
            found = [(f"{well.replace('/', '')}_{field}", path / well / field, None) for well, field in names]
        elif "well" in attributes:
            found = [(field, path / field, None) for field in _fields(path)]
        elif "bioformats2raw.layout" in attributes:
            found = [(name, path / place, _size(path / place)) for place, name in _bioformats_images(path)]
        else:
            return [single(_open_zarr(path))]
        if not found:
            raise ImageFileError(f"{display(path)}: describes a collection of images, but has none: export it again")
        return [Series(name, size, partial(_open_in, path, folder)) for name, folder, size in found]


def _fields(well: Path) -> list[str]:
    """Folders of the fields of a well."""
    return [_inner(well, image["path"]) for image in (_attributes(well).get("well") or {}).get("images") or ()]


def _inner(folder: Path, name: Any) -> str:
    """Name of a folder in another, as its metadata give it; one that leads out of it is refused."""
    text = str(name).replace("\\", "/")
    if is_url(text) or PureWindowsPath(text).anchor or ".." in PurePosixPath(text).parts:
        raise ImageFileError(f"{display(folder)}: names {str(name)!r} as a part of it, which is not in this folder")
    return text


def _bioformats_images(path: Path) -> list[tuple[str, str]]:
    """Folder and name of each image that bioformats2raw wrote."""
    text = read_text(path / "OME" / "METADATA.ome.xml")
    images = [] if text is None else ElementTree.fromstring(text.encode()).findall("{*}Image")
    names = [str(image.get("Name") or "") for image in images]
    listed = _attributes(path / "OME").get("series") or range(len(names))
    places = [_inner(path, place) for place in listed]
    if not places:  # both are optional
        places = list(takewhile(lambda place: "multiscales" in _attributes(path / place), map(str, count())))
    return list(zip_longest(places, names[: len(places)], fillvalue=""))


def _size(folder: Path) -> tuple[int, int] | None:
    """Height and width of an image; None if it is missing or damaged, which is reported when it is opened."""
    try:
        found = _find(folder)
        level = None if found is None else _open_level(found, found.multiscale["datasets"][0])
        if found is None or level is None:
            return None
        height, width = (int(level.shape[found.names.index(axis)]) for axis in "yx")
        return height, width
    except (ValueError, LookupError, TypeError):
        return None


def _open_in(path: Path, folder: Path) -> Image:
    """Open one image of a collection."""
    return replace(_open_zarr(folder), path=path, data_path=folder)


def _open_zarr(path: Path) -> Image:
    """Open an OME-Zarr, with its lower resolutions; refuse all but 2-D images of real numbers."""
    with foreign_errors(path):
        found = _find(path)
        if found is None:
            raise ImageFileError(
                f"{display(path)}: is a Zarr folder that does not describe an image (`multiscales`); give the folder "
                f"of an OME-Zarr image or plate; convert a plain array to OME-Zarr or open it in Python"
            )
        levels = _open_levels(path, found)
        layout = Slices(levels, found.names).layout
        outer = [(name, int(size)) for name, size in zip(found.names, levels[0].shape, strict=True) if name not in "yx"]
        planes = flat_planes(*zip(*outer, strict=True)) if outer else None
        channels = (found.attributes.get("omero") or {}).get("channels") or ()  # from the viewer's settings
        names = [channel.get("label") for channel in channels]
        return make_image(path, layout, partial(_connect, path), names, [_pixel_size(found)], planes)


def _connect(path: Path) -> AbstractContextManager[Slices]:
    """Open the levels again for reads."""
    found = _find(path)
    if found is None:
        raise ImageFileError(f"{display(path)}: no longer describes an image; the folder changed: open it again")
    return nullcontext(Slices(_open_levels(path, found), found.names))


class _Found(NamedTuple):
    """Description of an image."""

    folder: Path
    attributes: Mapping[str, Any]
    multiscale: Mapping[str, Any]
    names: Sequence[str]  # names of the axes, in order; the channel axis is `c`
    units: Sequence[str]  # units of the axes, or empty


def _find(path: Path) -> _Found | None:
    """Description of the image in a folder."""
    attributes = _attributes(path)
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        return None
    axes = multiscales[0].get("axes") or "tczyx"  # version 0.3 has plain names, earlier ones have none
    axes = [{"name": axis} if isinstance(axis, str) else axis for axis in axes]
    names = ["c" if axis.get("type") == "channel" else str(axis["name"]).lower() for axis in axes]
    return _Found(path, attributes, multiscales[0], names, [str(axis.get("unit") or "") for axis in axes])


def _attributes(path: Path) -> Mapping[str, Any]:
    """Attributes of a group: 0.5 has them under `ome` in zarr.json, 0.4 in .zattrs."""
    refused = None
    for mark in ("zarr.json", ".zattrs"):
        try:
            text = read_text(path / mark)
        except PermissionError as error:  # a bucket that may not be listed reports missing objects as forbidden
            refused = error
            continue
        if text is not None:
            attributes = json.loads(text)
            if mark == "zarr.json":
                attributes = _mapping(path, attributes).get("attributes", {})
                attributes = _mapping(path, attributes).get("ome", attributes)
            return _mapping(path, attributes)
    if refused is not None:
        raise refused
    return {}


def _mapping(path: Path, found: Any) -> Mapping[str, Any]:
    if not isinstance(found, dict):
        raise ImageFileError(f"{display(path)}: its attributes are not a mapping; they are damaged: export it again")
    return found


def _open_level(found: _Found, dataset: Mapping[str, Any]) -> Any | None:
    """Array of a level; None if it is missing."""
    return open_array(found.folder / _inner(found.folder, dataset["path"]))


def _open_levels(path: Path, found: _Found) -> tuple[Any, ...]:
    """Open the array of each level; refuse anything but a 2-D image with channels."""
    levels = []
    if len(found.multiscale["datasets"]) > _MOST_LEVELS:
        count = len(found.multiscale["datasets"])
        raise ImageFileError(
            f"{display(path)}: names {count} levels; at most {_MOST_LEVELS} are taken: export it again"
        )
    for number, dataset in enumerate(found.multiscale["datasets"]):
        level = _open_level(found, dataset)
        if level is None:
            raise cut_short(path, f"level {number} ({dataset['path']}) is missing")
        levels.append(level)
    names, first, source = found.names, levels[0], display(path)
    sizes = ", ".join(f"{name} {size}" for name, size in zip(names, first.shape, strict=False))
    if any(len(level.shape) != len(names) for level in levels) or not {"y", "x"} <= set(names):
        raise ImageFileError(f"{source}: names the axes {', '.join(names)} and has arrays of {len(first.shape)} axes")
    for name, size in zip(names, first.shape, strict=True):
        if size > 1 and name not in ("c", "y", "x", *STACKS):
            raise ImageFileError(
                f"{source}: holds {size} images along an axis of unknown meaning ({name}) ({sizes}); give one of them"
            )
    if first.dtype.kind not in "buif":
        raise ImageFileError(f"{source}: holds values of type {first.dtype}; save it with integers or 32-bit floats")
    kinds = {
        (level.dtype, *(size for name, size in zip(names, level.shape, strict=True) if name not in "yx"))
        for level in levels
    }
    if len(kinds) > 1:
        raise ImageFileError(
            f"{source}: its levels differ in channels, planes or type; the file is damaged: export it again"
        )
    return tuple(levels)


def _pixel_size(found: _Found) -> Statement:
    """Product of the scales of the image and of its full resolution; without a unit they are not a pixel size."""
    owners = (found.multiscale, found.multiscale["datasets"][0])
    steps = [step for owner in owners for step in owner.get("coordinateTransformations") or ()]
    scales = [step["scale"] for step in steps if step.get("type") == "scale"]
    axes = [found.names.index(name) for name in "yx"]
    height, width = (length_um(math.prod(float(s[axis]) for s in scales), found.units[axis]) for axis in axes)
    return "OME-Zarr metadata", (height, width)
