"""Reader of OME-Zarr (OME-NGFF) 0.4 and 0.5, local or at a URL, by zarr.

A missing chunk stands for the array's fill value, as OME-Zarr leaves background out; a chunk that is cut short is an
error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.file_errors import ImageFileError, cut_short, foreign_errors
from cytoseed.images.image import Image, numbered_names
from cytoseed.images.pixel_size import PixelSize, first_credible, in_um
from cytoseed.images.regions import Box, Layout, Regions, channel_runs
from cytoseed.images.zarr_store import is_zarr_folder, open_array, read_text
from cytoseed.paths import display, is_remote

_BEFORE_AXES = ("t", "c", "z", "y", "x")  # of versions that do not name them
_STACKS = {"z": "planes in z", "t": "points in time"}


def is_image_folder(path: Path) -> bool:
    """Whether a folder is an image by its metadata: an OME-Zarr, or what bioformats2raw makes.

    Raises
    ------
    OSError
        A remote store does not answer.
    """
    try:
        return _find(path) is not None
    except ValueError:
        return False
    except OSError:
        if is_remote(path):
            raise
        return False


def open_zarr(path: Path) -> Image:
    """Open the first image of an OME-Zarr, with its lower resolutions.

    Raises
    ------
    ImageFileError
        The metadata describe no image, a level is missing, the image is a stack in z, in time or along an axis of
        unknown meaning, or its values are no real numbers.
    """
    with foreign_errors(path):
        found = _find(path)
        if found is None:
            raise ImageFileError(
                f"{display(path)}: is a Zarr folder that does not describe an image (`multiscales`); give the folder "
                f"of one OME-Zarr image: of a plate that of one field, of a plain array make one, or open it in Python"
            )
        axes = _axes(found.multiscale)
        layout = _layout(_open_levels(path, found, axes), axes)
        size = _pixel_size(found.multiscale, axes)
        return Image(
            path=path,
            shape=layout.shape,
            dtype=layout.dtype,
            channel_names=_names(found.attributes, layout.shape[0]),
            pixel_size_yx_um=size.yx_um,
            pixel_size_source=size.source,
            level_shapes=layout.level_shapes,
            connect=partial(_connect, path, layout),
        )


class _Found(NamedTuple):
    folder: Path
    attributes: Mapping[str, Any]
    multiscale: Mapping[str, Any]


class _Axis(NamedTuple):
    name: str
    unit: str


def _connect(path: Path, layout: Layout) -> AbstractContextManager[Regions]:
    """Open the levels again; refuse them if they changed."""
    found = _find(path)
    if found is None:
        if is_remote(path) and not is_zarr_folder(path):
            raise FileNotFoundError(f"{display(path)}: no longer exists; check the address and its store")
        raise ImageFileError(f"{display(path)}: no longer describes an image; it was changed meanwhile: open it again")
    axes = _axes(found.multiscale)
    levels = _open_levels(path, found, axes)
    layout.require_same(path, _layout(levels, axes))
    return nullcontext(_Levels(levels, "".join(axis.name for axis in axes), layout.dtype))


class _Levels(NamedTuple):
    """Regions of open arrays; zarr opens a chunk's file when it reads it."""

    arrays: tuple[Any, ...]
    axes: str  # one letter per axis
    dtype: np.dtype[Any]

    def read(self, box_yxhw: Box, level: int = 0, channels: Sequence[int] | None = None) -> NDArray[Any]:
        top, left, height, width = box_yxhw
        place: dict[str, int | slice] = dict.fromkeys(self.axes, 0)
        place |= {"y": slice(top, top + height), "x": slice(left, left + width)}
        kept = "".join(axis for axis in self.axes if axis in "cyx")
        parts = []
        for run in channel_runs(channels or (0,)):
            place |= {"c": run} if "c" in kept else {}
            part = np.asarray(self.arrays[level][tuple(place[axis] for axis in self.axes)])
            parts.append(part.transpose([kept.index(axis) for axis in "cyx" if axis in kept]))
        if "c" not in kept:
            return np.array(np.broadcast_to(parts[0], (len(channels or (0,)), height, width)), self.dtype)
        return np.concatenate(parts, dtype=self.dtype)


def _find(path: Path) -> _Found | None:
    """Description of an image in the folder, or in the first image of bioformats2raw."""
    attributes = _attributes(path)
    if "bioformats2raw.layout" in attributes:
        path = path / "0"
        attributes = _attributes(path)
    multiscales = attributes.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        return None
    return _Found(path, attributes, multiscales[0])


def _attributes(path: Path) -> Mapping[str, Any]:
    """Attributes of a group: 0.5 has them under `ome` in zarr.json, 0.4 in .zattrs."""
    refused = None
    for mark in ("zarr.json", ".zattrs"):
        try:
            text = read_text(path / mark)
        except PermissionError as error:  # a bucket that may not be listed says so of what does not exist
            refused = error
            continue
        if text is not None:
            attributes = json.loads(text)
            if mark == "zarr.json":
                attributes = attributes.get("attributes", {})
                attributes = attributes.get("ome", attributes)
            if not isinstance(attributes, dict):
                raise ValueError(f"{display(path)}: its attributes are no mapping")
            return attributes
    if refused is not None:
        raise refused
    return {}


def _axes(multiscale: Mapping[str, Any]) -> tuple[_Axis, ...]:
    """Axes in order, each with a letter; channels are `c`."""
    axes = []
    for axis in multiscale.get("axes") or _BEFORE_AXES:
        known = {"name": axis} if isinstance(axis, str) else axis
        name = "c" if known.get("type") == "channel" else str(known["name"]).lower()
        axes.append(_Axis(name, str(known.get("unit") or "")))
    return tuple(axes)


def _open_levels(path: Path, found: _Found, axes: tuple[_Axis, ...]) -> tuple[Any, ...]:
    """Open the array of each level; refuse what is no 2-D image with channels."""
    levels = []
    for number, dataset in enumerate(found.multiscale["datasets"]):
        level = open_array(found.folder / str(dataset["path"]))
        if level is None:
            raise cut_short(path, f"level {number} ({dataset['path']}) is not there")
        levels.append(level)
    names = [axis.name for axis in axes]
    first, source = levels[0], display(path)
    sizes = ", ".join(f"{name} {size}" for name, size in zip(names, first.shape, strict=False))
    if any(len(level.shape) != len(names) for level in levels) or not {"y", "x"} <= set(names):
        raise ImageFileError(f"{source}: names the axes {', '.join(names)} and has arrays of {len(first.shape)} axes")
    for name, size in zip(names, first.shape, strict=True):
        if size > 1 and name not in ("c", "y", "x"):
            what = _STACKS.get(name, f"images along an axis of unknown meaning ({name})")
            raise ImageFileError(
                f"{source}: holds {size} {what} ({sizes}); cytoseed takes 2-D images: give one plane, or a projection "
                f"such as stack.max(axis={names.index(name)})"
            )
    if first.dtype.kind not in "buif":
        raise ImageFileError(
            f"{source}: holds values of type {first.dtype}; cytoseed takes booleans, integers and real numbers"
        )
    if any(_count(level, names) != _count(first, names) or level.dtype != first.dtype for level in levels):
        raise ImageFileError(f"{source}: its levels differ in channels or type; the file is damaged: export it again")
    return tuple(levels)


def _count(level: Any, names: Sequence[str]) -> int:
    """Number of channels."""
    return int(level.shape[names.index("c")]) if "c" in names else 1


def _layout(levels: Sequence[Any], axes: tuple[_Axis, ...]) -> Layout:
    names = [axis.name for axis in axes]
    shapes = tuple((int(a.shape[names.index("y")]), int(a.shape[names.index("x")])) for a in levels)
    return Layout((_count(levels[0], names), *shapes[0]), levels[0].dtype.newbyteorder("="), shapes)


def _pixel_size(multiscale: Mapping[str, Any], axes: tuple[_Axis, ...]) -> PixelSize:
    """Product of the scales of the image and of its full resolution; without a unit they are no pixel size."""
    sides = []
    for name in ("y", "x"):
        index = next(index for index, axis in enumerate(axes) if axis.name == name)
        length = _scale(multiscale, index) * _scale(multiscale["datasets"][0], index)
        sides.append(in_um(length, axes[index].unit))
    height, width = sides
    stated = None if height is None or width is None else (height, width)
    return first_credible([("OME-Zarr metadata", stated)])


def _scale(owner: Mapping[str, Any], index: int) -> float:
    """Scale along an axis; 1 where none is stated."""
    for transformation in owner.get("coordinateTransformations") or ():
        if transformation.get("type") == "scale":
            return float(transformation["scale"][index])
    return 1.0


def _names(attributes: Mapping[str, Any], channels: int) -> tuple[str, ...]:
    """Channel names of the viewer's settings (`omero`); numbers for channels without one."""
    names = numbered_names(channels)
    given = (attributes.get("omero") or {}).get("channels") or ()
    if len(given) != channels:
        return names
    return tuple(str(own.get("label") or "").strip() or name for own, name in zip(given, names, strict=True))
