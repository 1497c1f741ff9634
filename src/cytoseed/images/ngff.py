"""Reader of OME-Zarr (OME-NGFF) 0.4 and 0.5, by zarr: a folder of chunks with the levels of one image.

A chunk that is not there stands for the array's fill value: that is how OME-Zarr leaves background out. So a lost chunk
cannot be told from an empty one. A chunk that is cut short is an error. The decoder of Blosc does not notice it, and
reads on beyond the end: the file's size is compared here with what the chunk says of itself.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.codecs import ARRAY_FILES, require_known_codecs
from cytoseed.images.errors import ImageFileError, cut_short, foreign_errors
from cytoseed.images.image import Image, numbered_names
from cytoseed.images.regions import Box, Layout, Regions, channel_runs
from cytoseed.images.remote import Place, Remote
from cytoseed.images.scale import PixelSize, first_credible, in_um

_MARKS = ("zarr.json", ".zattrs", ".zgroup", ".zarray")  # a folder with one of these is Zarr's
_BEFORE_AXES = ("t", "c", "z", "y", "x")  # of versions that do not name them
_BLOSC_HEADER = struct.Struct("<12xI")  # its last field is the chunk's length
_STACKS = {"z": "planes in z", "t": "points in time"}


def is_image_folder(path: Place) -> bool:
    """Tell whether a folder is an image: an OME-Zarr, or what bioformats2raw makes, told by what it says of itself.

    Raises
    ------
    OSError
        If a store far away does not answer.
    """
    try:
        return _find(path) is not None
    except ValueError:
        return False
    except OSError:
        if isinstance(path, Remote):
            raise
        return False


def is_zarr_folder(path: Place) -> bool:
    """Tell whether a folder is Zarr's at all."""
    return any(_is_there(path / mark) for mark in _MARKS)


def open_ngff(path: Place) -> Image:
    """Open the first image of an OME-Zarr, with its lower resolutions.

    Raises
    ------
    ImageFileError
        If the folder says nothing of an image or its full resolution is not there, if it holds a stack in z, in time
        or along an axis of unknown meaning, or values that are no real numbers.
    """
    with foreign_errors(path):
        found = _find(path)
        if found is None:
            raise ImageFileError(
                f"{path}: is a Zarr folder that does not describe an image (`multiscales`); give the folder of one "
                f"OME-Zarr image: of a plate that of one field, of a plain array make one, or open it in Python"
            )
        axes = _axes(found.multiscale)
        _, levels, damage = _open_levels(path, found, axes)
        layout = _layout(levels, axes)
        size = _pixel_size(found.multiscale, axes)
        return Image(
            path=path,
            shape=layout.shape,
            dtype=layout.dtype,
            channel_names=_names(found.attributes, layout.shape[0]),
            pixel_size_yx_um=size.yx_um,
            pixel_size_source=size.source,
            level_shapes=layout.level_shapes,
            damage=damage,
            connect=partial(_connect, path, layout),
        )


class _Found(NamedTuple):
    """Where the image is described, and how."""

    folder: Place
    attributes: Mapping[str, Any]
    multiscale: Mapping[str, Any]


class _Axis(NamedTuple):
    name: str
    unit: str


def _connect(path: Place, layout: Layout) -> AbstractContextManager[Regions]:
    """Open the levels again; refuse them if they are no longer what they were."""
    found = _find(path)
    if found is None:
        if isinstance(path, Remote) and not is_zarr_folder(path):
            raise FileNotFoundError(f"{path}: is no longer there; check the address, and that its store is")
        raise ImageFileError(f"{path}: no longer describes an image; it was changed meanwhile: open it again")
    axes = _axes(found.multiscale)
    folders, levels, _ = _open_levels(path, found, axes)
    layout.require_same(path, _layout(levels, axes))
    return nullcontext(_Levels(folders, levels, "".join(axis.name for axis in axes), layout.dtype))


class _Levels(NamedTuple):
    """The regions of open arrays; zarr opens a chunk's file when it reads it."""

    folders: tuple[Place, ...]
    arrays: tuple[Any, ...]
    axes: str  # one letter an axis
    dtype: np.dtype[Any]

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        place: dict[str, int | slice] = dict.fromkeys(self.axes, 0)
        place |= {"y": slice(top, top + height), "x": slice(left, left + width)}
        kept = "".join(axis for axis in self.axes if axis in "cyx")
        parts = []
        for run in channel_runs(channels or (0,)):
            place |= {"c": run} if "c" in kept else {}
            part = self._part(self.folders[level], self.arrays[level], [place[axis] for axis in self.axes])
            parts.append(part.transpose([kept.index(axis) for axis in "cyx" if axis in kept]))
        if "c" not in kept:
            return np.array(np.broadcast_to(parts[0], (len(channels or (0,)), height, width)), self.dtype)
        return np.concatenate(parts, dtype=self.dtype)

    def _part(self, folder: Place, array: Any, place: Sequence[int | slice]) -> NDArray[Any]:
        if not isinstance(folder, Remote):
            _require_whole_chunks(folder, array, place)
            return np.asarray(array[tuple(place)])
        from cytoseed.images.chunks import require_there

        part = np.asarray(array[tuple(place)])
        require_there(array)
        return part


def _require_whole_chunks(folder: Path, array: Any, place: Sequence[int | slice]) -> None:
    """Refuse cut files of chunks that zarr would take for something: empty ones, and Blosc's that are too short."""
    blosc = not array.shards and "blosc" in "".join(type(codec).__name__.lower() for codec in array.compressors[-1:])
    ranges = []
    for axis, side in zip(place, array.shards or array.chunks, strict=True):
        first, last = (axis.start, axis.stop - 1) if isinstance(axis, slice) else (axis, axis)
        ranges.append(range(first // side, last // side + 1))
    for numbers in itertools.product(*ranges):
        file = folder / array.metadata.encode_chunk_key(numbers)
        if not file.is_file():
            continue
        size = file.stat().st_size
        if size == 0 or (blosc and size < _blosc_bytes(file)):
            raise cut_short(file, f"the chunk has only {size} bytes")


def _blosc_bytes(file: Path) -> int:
    """Read how long a chunk by Blosc should be."""
    with file.open("rb") as chunk:
        return _stated_bytes(chunk.read(_BLOSC_HEADER.size))


def _stated_bytes(header: bytes) -> int:
    """Tell from the beginning of a chunk by Blosc how long it should be."""
    return int(_BLOSC_HEADER.unpack(header)[0]) if len(header) == _BLOSC_HEADER.size else _BLOSC_HEADER.size


def _find(path: Place) -> _Found | None:
    """Look for the description of an image, in the folder or in the first image of bioformats2raw."""
    attributes = _attributes(path)
    if "bioformats2raw.layout" in attributes:
        path = path / "0"
        attributes = _attributes(path)
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        return None
    return _Found(path, attributes, multiscales[0])


def _attributes(path: Place) -> Mapping[str, Any]:
    """Read what a group says of itself; 0.5 says it under `ome` in zarr.json, 0.4 in .zattrs."""
    refused = None
    for mark in ("zarr.json", ".zattrs"):
        try:
            text = _text(path / mark)
        except PermissionError as error:  # a bucket that is not to be listed says so of what is not there
            refused = error
            continue
        if text is not None:
            return _said(path, json.loads(text), mark)
    if refused is not None:
        raise refused
    return {}


def _said(path: Place, document: Any, mark: str) -> Mapping[str, Any]:
    """Find the attributes in the document that has them."""
    attributes = document
    if mark == "zarr.json":
        attributes = document.get("attributes", {})
        attributes = attributes.get("ome", attributes)
    if not isinstance(attributes, dict):
        raise ValueError(f"{path}: its attributes are no mapping")
    return attributes


def _text(path: Place) -> str | None:
    """Read a file that need not be there; far away one request tells both."""
    if isinstance(path, Remote):
        try:
            return path.read_text()
        except FileNotFoundError:
            return None
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _is_there(path: Place) -> bool:
    """Tell whether there is a file; of a bucket that is not to be listed, whether there is one that may be read."""
    try:
        return path.is_file()
    except PermissionError:
        if isinstance(path, Remote):
            return False
        raise


def _axes(multiscale: Mapping[str, Any]) -> tuple[_Axis, ...]:
    """Name the axes in order, each with a letter of its own; channels are `c`."""
    axes = []
    for axis in multiscale.get("axes") or _BEFORE_AXES:
        known = {"name": axis} if isinstance(axis, str) else axis
        name = "c" if known.get("type") == "channel" else str(known["name"]).lower()
        axes.append(_Axis(name, str(known.get("unit") or "")))
    return tuple(axes)


def _open_levels(path: Place, found: _Found, axes: tuple[_Axis, ...]) -> tuple[tuple[Place, ...], tuple[Any, ...], str]:
    """Open the array of each level; give its folder, itself, and in words which of the lower ones are not there."""
    folders, levels, lost = [], [], []
    for number, dataset in enumerate(found.multiscale["datasets"]):
        folder = found.folder / str(dataset["path"])
        level = _open_array(folder)
        if level is not None:
            folders.append(folder)
            levels.append(level)
        else:
            lost.append(f"level {number} ({dataset['path']}) is not there")
        if not levels:
            raise cut_short(path, lost[0])
    _require_flat(path, levels, axes)
    return tuple(folders), tuple(levels), "; ".join(lost)


def _open_array(folder: Place) -> Any | None:
    """Open the array of one level; None where it is not there."""
    if isinstance(folder, Remote):
        from cytoseed.images.chunks import open_far_array

        return open_far_array(folder, _stated_bytes)
    import zarr

    if not is_zarr_folder(folder):
        return None
    for file in (folder / name for name in ARRAY_FILES):
        text = _text(file)
        if text is not None:
            require_known_codecs(file, text)
    return zarr.open_array(str(folder), mode="r")


def _require_flat(path: Place, levels: Sequence[Any], axes: tuple[_Axis, ...]) -> None:
    """Refuse what is no 2-D image with channels."""
    names = [axis.name for axis in axes]
    first = levels[0]
    sizes = ", ".join(f"{name} {size}" for name, size in zip(names, first.shape, strict=False))
    if any(len(level.shape) != len(names) for level in levels) or not {"y", "x"} <= set(names):
        raise ImageFileError(f"{path}: names the axes {', '.join(names)} and has arrays of {len(first.shape)} axes")
    for name, size in zip(names, first.shape, strict=True):
        if size > 1 and name not in ("c", "y", "x"):
            what = _STACKS.get(name, f"images along an axis of unknown meaning ({name})")
            raise ImageFileError(
                f"{path}: holds {size} {what} ({sizes}); cytoseed takes 2-D images: give one plane, or a projection "
                f"such as stack.max(axis={names.index(name)})"
            )
    if first.dtype.kind not in "buif":
        raise ImageFileError(
            f"{path}: holds values of type {first.dtype}; cytoseed takes booleans, integers and real numbers"
        )
    if any(_count(level, names) != _count(first, names) or level.dtype != first.dtype for level in levels):
        raise ImageFileError(f"{path}: its levels differ in channels or type; the file is damaged: export it again")


def _count(level: Any, names: Sequence[str]) -> int:
    """Tell the number of channels."""
    return int(level.shape[names.index("c")]) if "c" in names else 1


def _layout(levels: Sequence[Any], axes: tuple[_Axis, ...]) -> Layout:
    names = [axis.name for axis in axes]
    shapes = tuple((int(a.shape[names.index("y")]), int(a.shape[names.index("x")])) for a in levels)
    return Layout((_count(levels[0], names), *shapes[0]), levels[0].dtype.newbyteorder("="), shapes)


def _pixel_size(multiscale: Mapping[str, Any], axes: tuple[_Axis, ...]) -> PixelSize:
    """Multiply the scales of the image and of its full resolution; without a unit they are no pixel size."""
    sides = []
    for name in ("y", "x"):
        index = next(index for index, axis in enumerate(axes) if axis.name == name)
        length = _scale(multiscale, index) * _scale(multiscale["datasets"][0], index)
        sides.append(in_um(length, axes[index].unit))
    height, width = sides
    stated = None if height is None or width is None else (height, width)
    return first_credible([("OME-Zarr metadata", stated)])


def _scale(owner: Mapping[str, Any], index: int) -> float:
    """Give the scale along an axis; 1 where none is stated."""
    for transformation in owner.get("coordinateTransformations") or ():
        if transformation.get("type") == "scale":
            return float(transformation["scale"][index])
    return 1.0


def _names(attributes: Mapping[str, Any], channels: int) -> tuple[str, ...]:
    """Channel names as the viewer's settings (`omero`) have them; numbers for those that have none."""
    names = numbered_names(channels)
    given = (attributes.get("omero") or {}).get("channels") or ()
    if len(given) != channels:
        return names
    return tuple(str(own.get("label") or "").strip() or name for own, name in zip(given, names, strict=True))
