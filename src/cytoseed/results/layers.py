"""A result as layers of napari, in its form `(data, attributes, type)`; napari itself is not needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES
from cytoseed.images.overview import thumbnail
from cytoseed.images.pixel_size import PixelSize, sides_um
from cytoseed.results.pyramid import Level, halved
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.images import Image

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
"""Data of a layer, its attributes, and its type: `image`, `labels` or `shapes`."""

_WHOLE_PX = 1 << 26  # larger images are read level by level, as they are shown
_CHUNK_PX = 1024
_OVERVIEW_PX = 4096  # side of the coarsest level
_ADDED = {"blending": "additive"}
_COLOURS = ("blue", "green", "magenta", "yellow", "cyan", "red")  # of channels, the nuclear stain most often first


def show(result: ResultView, viewer: Any = None) -> Any:
    """Add the labels of a result to a viewer of napari; a new one also gets the image, where it is found."""
    try:
        import napari
    except ImportError as error:
        raise ModuleNotFoundError(
            "this needs napari, which is not installed: pip install 'cytoseed[napari]'"
        ) from error

    layers = label_layers(result)
    if viewer is None:
        layers = [*image_layers(result), *layers]
        viewer = napari.Viewer()
    for layer in layers:
        viewer.add_layer(napari.layers.Layer.create(*layer))
    return viewer


def image_layers(result: ResultView) -> list[LayerData]:
    """Image as a layer for each channel, or one in colours; none if it is not found. Levels of a large one are lazy."""
    try:
        image = result.find_image()
    except (FileNotFoundError, ValueError):
        return []
    is_colour = image.channel_names == RGB_NAMES
    chosen = [(0, 1, 2)] if is_colour else [(channel,) for channel in range(image.shape[0])]
    planes = [_pixels_of(image, channels) for channels in chosen]
    names = [Path(result.source).name] if is_colour else image.channel_names
    return channel_layers(planes, names, is_colour, in_um(result.pixel_size_um))


def channel_layers(
    planes: Iterable[Any], names: Sequence[str], is_colour: bool, place: Mapping[str, Any]
) -> list[LayerData]:
    """Image layers of one plane in colours (H,W,3), or of a plane (H,W) for each channel; or of their levels."""
    colours = ("gray",) if len(names) == 1 else _COLOURS
    return [
        (plane, {"name": name, **place} | ({"rgb": True} if is_colour else {"colormap": colour, **_ADDED}), "image")
        for plane, name, colour in zip(planes, names, cycle(colours), strict=False)
    ]


def label_layers(result: ResultView) -> list[LayerData]:
    """A labels layer for each target, with its rows of the table as features."""
    import pandas as pd

    table = pd.concat(list(result.tables()), ignore_index=True)
    place = in_um(result.pixel_size_um)
    layers = []
    for plane, target in enumerate(result.targets):
        own = table if len(result.targets) == 1 else table[table["target"] == target]
        attributes = {
            "name": f"{Path(result.source).name} {target}",
            "features": features_of(own),
            "metadata": {"cytoseed": dict(result.settings)},
            **place,
        }
        layers.append((_labels_of(result, plane), attributes, "labels"))
    return layers


def features_of(table: pd.DataFrame) -> pd.DataFrame:
    """Table as features of a labels layer, which finds the row of a label by the column `index`."""
    return table.rename(columns={"id": "index"}).reset_index(drop=True)


def in_um(size: PixelSize) -> dict[str, Any]:
    """Scale of a layer, in µm; none if the pixel size is unknown."""
    return {} if size is None else {"scale": sides_um(size), "units": ("µm", "µm")}


def _pixels_of(image: Image, channels: tuple[int, ...]) -> Any:
    """Pixels of a channel (H,W), or of three (H,W,3): an array, or levels of a large image."""
    _, height, width = image.shape
    if height * width <= _WHOLE_PX:
        return _last_axis(image.read(channels=channels))
    levels = [_lazy(_Pixels(image, channels, level)) for level in range(len(image.level_shapes))]
    if max(image.level_shapes[-1]) <= _OVERVIEW_PX:
        return levels
    small, _ = thumbnail(image, _OVERVIEW_PX)
    return [*levels, _last_axis(small[list(channels)])]


def _last_axis(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels (C,H,W) as (H,W), or (H,W,C) of several channels."""
    return pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)


def _labels_of(result: ResultView, plane: int) -> Any:
    """Labels of a target: an array, or levels of a large one."""
    _, height, width = result.shape
    if height * width <= _WHOLE_PX:
        return result.labels_in((0, 0, height, width))[plane].copy()
    return [_lazy(_Labels(result, plane, level)) for level in halved((height, width))]


def _lazy(pixels: _Pixels | _Labels) -> Any:
    """An array of which regions are read when they are shown."""
    from dask.array import from_array  # comes with napari

    chunks = (_CHUNK_PX, _CHUNK_PX, *pixels.shape[2:])
    return from_array(pixels, chunks, name=False)


class _Pixels:
    """Pixels (h,w) or (h,w,3) of one level of an image, of which a region is read at a time."""

    def __init__(self, image: Image, channels: tuple[int, ...], level: int) -> None:
        self._image, self._channels, self._level = image, channels, level
        self.shape = (*image.level_shapes[level], *((len(channels),) if len(channels) > 1 else ()))
        self.dtype, self.ndim = image.dtype, len(self.shape)

    def __getitem__(self, region: tuple[slice, ...]) -> NDArray[Any]:
        (top, bottom), (left, right) = ((each.start, each.stop) for each in region[:2])
        return _last_axis(self._image.read((top, left, bottom - top, right - left), self._level, self._channels))


class _Labels:
    """Labels (h,w) of one resolution, of which a region is read at a time."""

    dtype, ndim = np.dtype(np.int32), 2

    def __init__(self, result: ResultView, plane: int, level: Level) -> None:
        self._result, self._plane, self._level = result, plane, level
        self.shape: tuple[int, ...] = level.shape

    def __getitem__(self, region: tuple[slice, slice]) -> NDArray[np.int32]:
        rows, columns = (places[part] for places, part in zip(self._level, region, strict=True))
        labels: NDArray[np.int32] = self._result.contents.labels_at(rows, columns)[self._plane]
        return labels
