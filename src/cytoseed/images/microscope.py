"""Files of microscopes' own programs, by the libraries of the extra `formats`: Zeiss CZI, Nikon ND2, Leica LIF."""

from __future__ import annotations

import importlib
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
from cytoseed.images.regions import STACKS, Box, ImageFileError, Layout, Slices, foreign_errors
from cytoseed.images.series import Series

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


def _require_plane(path: Path, sizes: Mapping[str, int]) -> None:
    """Refuse an image with several z planes or time points."""
    for axis, size in sizes.items():
        if size > 1 and axis.lower() in STACKS:
            text = ", ".join(f"{name} {count}" for name, count in sizes.items())
            raise ImageFileError(
                f"{path}: holds {size} {STACKS[axis.lower()]} ({text}); cytoseed takes 2-D images: export one plane, "
                f"or a projection"
            )


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
    return make_image(path, layout, connect, RGB_NAMES if reader.is_rgb else names, statements)


class _CziReader(AbstractContextManager["_CziReader"]):
    """An open CZI; levels are halved by the library, from the file's own pyramid where it has one."""

    def __init__(self, path: Path, scene: int | None) -> None:
        self._path, self._scene, self._lock = path, scene, Lock()

    def __enter__(self) -> Self:
        with foreign_errors(self._path):
            self._context = _library("pylibCZIrw.czi", self._path).open_czi(str(self._path))
            self.document = self._context.__enter__()
            sizes = {axis: last - first for axis, (first, last) in self.document.total_bounding_box.items()}
            _require_plane(self._path, {axis: size for axis, size in sizes.items() if axis in "ZT"})
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
            channels = 3 if self.is_rgb else sizes.get("C", 1)
            self.layout = Layout((channels, *levels[0]), np.dtype(_CZI_TYPES[kinds.pop()]), tuple(levels))
        return self

    def __exit__(self, *details: object) -> None:
        self._context.__exit__(*details)

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        top, left, height, width = (side << level for side in box_yxhw)
        roi = (self._box.x + left, self._box.y + top, width, height)
        result = np.empty((len(channels), *box_yxhw[2:]), self.layout.dtype)
        with self._lock:
            for place, channel in enumerate(channels):
                plane = {"C": 0 if self.is_rgb else channel}
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
    def pixels() -> tuple[NDArray[Any], Any, list[str | None]]:
        with foreign_errors(path), _library("nd2", path).ND2File(path) as file:
            sizes = dict(file.sizes)
            _require_plane(path, {axis: size for axis, size in sizes.items() if axis in "ZT"})
            axes = [axis for axis in sizes if axis not in "CYXS"]
            frame = file.read_frame(position) if axes == ["P"] else file.asarray(position if "P" in sizes else None)
            names = [getattr(each.channel, "name", None) for each in file.metadata.channels or ()]
            kept = [axis for axis in sizes if axis in "CYXS"]
            planes = np.asarray(frame).reshape([sizes[axis] for axis in kept])
            last = "S" if "S" in kept else "C"
            order = [kept.index(axis) for axis in (last, "Y", "X") if axis in kept]
            return np.atleast_3d(planes.transpose(order)).reshape(-1, sizes["Y"], sizes["X"]), file.voxel_size(), names

    found, voxel, names = pixels()
    statements: list[Statement] = [("ND2 metadata", (float(voxel.y), float(voxel.x)))]
    return _in_memory(path, found, lambda: pixels()[0], names, statements)


def list_lif(path: Path, _: bool) -> Sequence[Series]:
    """Images of a Leica LIF."""
    with foreign_errors(path), _library("liffile", path).LifFile(path) as file:
        return [
            Series(image.name, (image.sizes["Y"], image.sizes["X"]), partial(_open_lif, path, number))
            for number, image in enumerate(file.images)
            if {"Y", "X"} <= set(image.sizes)
        ]


def _open_lif(path: Path, number: int) -> Image:
    def pixels() -> tuple[NDArray[Any], Mapping[str, Any]]:
        with foreign_errors(path), _library("liffile", path).LifFile(path) as file:
            image = file.images[number]
            sizes = dict(image.sizes)
            _require_plane(path, {axis: size for axis, size in sizes.items() if axis in "ZT"})
            last = "S" if "S" in sizes else "C"
            order = [list(sizes).index(axis) for axis in (last, "Y", "X") if axis in sizes]
            if len(order) != len(sizes):
                raise ImageFileError(f"{path}: image {image.name!r} has the axes {sizes}; cytoseed takes C, Y and X")
            planes = np.asarray(image.asarray()).transpose(order).reshape(-1, sizes["Y"], sizes["X"])
            return planes, {name: np.asarray(values) for name, values in image.coords.items()}

    found, coords = pixels()
    steps = [float(np.diff(coords[axis][:2])[0]) * 1e6 if len(coords.get(axis, ())) > 1 else np.nan for axis in "YX"]
    statements: list[Statement] = [("LIF metadata", (steps[0], steps[1]))]
    return _in_memory(path, found, lambda: pixels()[0], [str(name) for name in coords.get("C", ())], statements)


def _in_memory(
    path: Path,
    pixels: NDArray[Any],
    load: Callable[[], NDArray[Any]],
    names: Sequence[str | None],
    statements: Sequence[Statement],
) -> Image:
    """Image of a file that is read as a whole each time it is opened."""
    layout = Layout((pixels.shape[0], *pixels.shape[1:]), pixels.dtype.newbyteorder("="), (pixels.shape[1:],))
    return make_image(path, layout, partial(_whole, load), names, statements)


@contextmanager
def _whole(load: Callable[[], NDArray[Any]]) -> Iterator[Any]:
    yield Slices((load(),), "cyx")
