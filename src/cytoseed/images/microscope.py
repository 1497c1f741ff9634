"""Files of microscopes' own programs, by the libraries of the extra `formats`: Zeiss CZI, Nikon ND2, Leica LIF."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Self
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES, Image, make_image
from cytoseed.images.pixel_size import Statement
from cytoseed.images.regions import Box, ImageFileError, Layout, Slices, flat_planes, foreign_errors
from cytoseed.images.series import Series

_Flat = tuple[NDArray[Any], NDArray[np.int64] | None]
_SMALLEST_LEVEL_PX = 512
_CZI_TYPES = {"Gray8": "u1", "Gray16": "u2", "Gray32Float": "f4", "Bgr24": "u1", "Bgr48": "u2"}


def _library(name: str, path: Path) -> Any:
    """A library that reads a format; an error that names the extra without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImageFileError(
            f"{path}: needs the package {name.split('.', maxsplit=1)[0]}: pip install 'cytoseed[formats]'"
        ) from error


def list_czi(path: Path, _: bool) -> Sequence[Series]:
    """Scenes of a Zeiss CZI."""
    library = _library("pylibCZIrw.czi", path)
    with foreign_errors(path), library.open_czi(str(path)) as document:
        scenes = document.scenes_bounding_rectangle or {None: document.total_bounding_rectangle}
    return [
        Series(f"scene_{scene}", (box.h, box.w), partial(_open_czi, path, scene))
        for scene, box in sorted(scenes.items())
    ]


def _open_czi(path: Path, scene: int | None) -> Image:
    connect = partial(_CziReader, path, scene)
    with connect() as reader:
        document, layout = reader.document, reader.layout
        root = ElementTree.fromstring(document.raw_metadata)
    sides = [root.findtext(f".//Scaling/Items/Distance[@Id='{axis}']/Value") for axis in "YX"]
    statements: list[Statement] = []
    if all(sides):
        statements.append(("CZI metadata", (float(sides[0] or 0) * 1e6, float(sides[1] or 0) * 1e6)))
    names = [each.get("Name") for each in root.iterfind(".//Information/Image/Dimensions/Channels/Channel")]
    return make_image(path, layout, connect, RGB_NAMES if reader.is_rgb else names, statements, reader.planes)


class _CziReader(AbstractContextManager["_CziReader"]):
    """An open CZI; levels are halved by the library, from the file's own pyramid where it has one."""

    def __init__(self, path: Path, scene: int | None) -> None:
        self._path, self._scene, self._lock = path, scene, Lock()

    def __enter__(self) -> Self:
        with foreign_errors(self._path):
            self._context = _library("pylibCZIrw.czi", self._path).open_czi(str(self._path))
            self.document = self._context.__enter__()
            sizes = {axis: last - first for axis, (first, last) in self.document.total_bounding_box.items()}
            kinds = set(self.document.pixel_types.values())
            self.is_rgb = all(kind.startswith("Bgr") for kind in kinds)
            if len(kinds) != 1 or not kinds <= set(_CZI_TYPES) or (self.is_rgb and sizes.get("C", 1) > 1):
                raise ImageFileError(
                    f"{self._path}: has pixels of the types {', '.join(sorted(kinds))}: export as OME-TIFF"
                )
            boxes = self.document.scenes_bounding_rectangle
            self._box = self.document.total_bounding_rectangle if self._scene is None else boxes[self._scene]
            levels = [(self._box.h, self._box.w)]
            while min(levels[-1]) >= 2 * _SMALLEST_LEVEL_PX:
                levels.append((levels[-1][0] // 2, levels[-1][1] // 2))
            self._outer = sizes.get("T", 1), sizes.get("Z", 1), 3 if self.is_rgb else sizes.get("C", 1)
            self.planes = flat_planes("TZC", self._outer)
            self.layout = Layout((math.prod(self._outer), *levels[0]), np.dtype(_CZI_TYPES[kinds.pop()]), tuple(levels))
        return self

    def __exit__(self, *details: object) -> None:
        self._context.__exit__(*details)

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        top, left, height, width = (side << level for side in box_yxhw)
        roi = (self._box.x + left, self._box.y + top, width, height)
        result = np.empty((len(channels), *box_yxhw[2:]), self.layout.dtype)
        with self._lock:
            for place, number in enumerate(channels):
                time, depth, channel = map(int, np.unravel_index(number, self._outer))
                plane = {"C": 0 if self.is_rgb else channel, "Z": depth, "T": time}
                pixels = self.document.read(roi, plane, self._scene, 1 / (1 << level))
                values = pixels[..., 2 - channel if self.is_rgb else 0]  # blue comes first
                missing = [max(0, want - got) for want, got in zip(box_yxhw[2:], values.shape, strict=True)]
                whole = np.pad(values, [(0, missing[0]), (0, missing[1])], mode="edge") if any(missing) else values
                result[place] = whole[: box_yxhw[2], : box_yxhw[3]]
        return result


def list_nd2(path: Path, _: bool) -> Sequence[Series]:
    """Positions of a Nikon ND2."""
    with foreign_errors(path), _library("nd2", path).ND2File(path) as file:
        positions, shape = file.sizes.get("P", 1), (file.sizes["Y"], file.sizes["X"])
    return [Series(f"position_{number}", shape, partial(_open_nd2, path, number)) for number in range(positions)]


def _open_nd2(path: Path, position: int) -> Image:
    def pixels() -> tuple[_Flat, Any, list[str | None]]:
        with foreign_errors(path), _library("nd2", path).ND2File(path) as file:
            sizes = dict(file.sizes)
            axes = [axis for axis in sizes if axis not in "CYXS"]
            frame = file.read_frame(position) if axes == ["P"] else file.asarray(position if "P" in sizes else None)
            names = [getattr(each.channel, "name", None) for each in file.metadata.channels or ()]
            kept = {axis: size for axis, size in sizes.items() if axis in "TZCYXS"}
            return _flat(np.asarray(frame), kept), file.voxel_size(), names

    (found, planes), voxel, names = pixels()
    statements: list[Statement] = [("ND2 metadata", (float(voxel.y), float(voxel.x)))]
    return _in_memory(path, found, lambda: pixels()[0][0], names, statements, planes)


def list_lif(path: Path, _: bool) -> Sequence[Series]:
    """Images of a Leica LIF."""
    with foreign_errors(path), _library("liffile", path).LifFile(path) as file:
        return [
            Series(image.name, (image.sizes["Y"], image.sizes["X"]), partial(_open_lif, path, number))
            for number, image in enumerate(file.images)
            if {"Y", "X"} <= set(image.sizes)
        ]


def _open_lif(path: Path, number: int) -> Image:
    def pixels() -> tuple[_Flat, Mapping[str, Any]]:
        with foreign_errors(path), _library("liffile", path).LifFile(path) as file:
            image = file.images[number]
            sizes = dict(image.sizes)
            if not set(sizes) <= set("TZCYXS"):
                raise ImageFileError(
                    f"{path}: image {image.name!r} has the axes {sizes}; cytoseed takes T, Z, C, Y and X"
                )
            return _flat(np.asarray(image.asarray()), sizes), {
                name: np.asarray(values) for name, values in image.coords.items()
            }

    (found, planes), coords = pixels()
    steps = [float(np.diff(coords[axis][:2])[0]) * 1e6 if len(coords.get(axis, ())) > 1 else np.nan for axis in "YX"]
    statements: list[Statement] = [("LIF metadata", (steps[0], steps[1]))]
    names = [str(name) for name in coords.get("C", ())]
    return _in_memory(path, found, lambda: pixels()[0][0], names, statements, planes)


def _flat(pixels: NDArray[Any], sizes: Mapping[str, int]) -> _Flat:
    """Planes (T*Z*C, H, W) of an array whose axes have these names and sizes, and their numbers."""
    kept = list(sizes)
    pixels = pixels.reshape(list(sizes.values()))
    outer = [axis for axis in "TZCS" if axis in sizes]
    flat = pixels.transpose([kept.index(axis) for axis in (*outer, "Y", "X")]).reshape(-1, sizes["Y"], sizes["X"])
    return flat, flat_planes(outer, [sizes[axis] for axis in outer])


def _in_memory(
    path: Path,
    pixels: NDArray[Any],
    load: Callable[[], NDArray[Any]],
    names: Sequence[str | None],
    statements: Sequence[Statement],
    planes: NDArray[np.int64] | None,
) -> Image:
    """Image of a file that is read as a whole each time it is opened."""
    layout = Layout((pixels.shape[0], *pixels.shape[1:]), pixels.dtype.newbyteorder("="), (pixels.shape[1:],))
    return make_image(path, layout, partial(_whole, load), names, statements, planes)


@contextmanager
def _whole(load: Callable[[], NDArray[Any]]) -> Iterator[Any]:
    yield Slices((load(),), "cyx")
