"""A result as layers of napari, in its form `(data, attributes, type)`; napari itself is not needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import RGB_NAMES
from cytoseed.images.pixel_size import PixelSize, sides_um
from cytoseed.results.pyramid import Level, halved
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    import pandas as pd

LayerData: TypeAlias = tuple[Any, dict[str, Any], str]
"""Data of a layer, its attributes, and its type: `image`, `labels` or `shapes`."""

_WHOLE_PX = 1 << 26  # larger label images are read level by level, as they are shown
_CHUNK_PX = 1024
_IMAGE_PX = 4096  # per side; larger images are shown smaller
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
    """Image of at most 4096 px per side, as a layer for each channel or one in colours; none if it is not found."""
    try:
        pixels, step = result.thumbnail(_IMAGE_PX)
    except (FileNotFoundError, ValueError):
        return []
    sides = np.array(sides_um(result.pixel_size_um or 1.0))
    place = in_um(result.pixel_size_um) | {"scale": sides * step, "translate": sides * (step - 1) / 2}
    return channel_layers(pixels, result.channel_names, Path(result.source).name, place)


def channel_layers(pixels: NDArray[Any], names: Sequence[str], title: str, place: Mapping[str, Any]) -> list[LayerData]:
    """Image layers of pixels (C,H,W): one of red, green and blue, else one per channel."""
    if tuple(names) == RGB_NAMES:
        return [(np.moveaxis(pixels, 0, 2), {"name": title, "rgb": True, **place}, "image")]
    colours = ("gray",) if len(names) == 1 else _COLOURS
    return [
        (plane, {"name": name, "colormap": colour, "blending": "additive", **place}, "image")
        for plane, name, colour in zip(pixels, names, cycle(colours), strict=False)
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


def _labels_of(result: ResultView, plane: int) -> Any:
    """Labels of a target: an array, or levels of a large one, of which regions are read when they are shown."""
    _, height, width = result.shape
    if height * width <= _WHOLE_PX:
        return result.labels_in((0, 0, height, width))[plane].copy()
    from dask.array import from_array  # comes with napari

    levels = (_Labels(result, plane, level) for level in halved((height, width)))
    return [from_array(level, _CHUNK_PX, name=False) for level in levels]


class _Labels:
    """Labels (h,w) of one resolution, of which a region is read at a time."""

    dtype, ndim = np.dtype(np.int32), 2

    def __init__(self, result: ResultView, plane: int, level: Level) -> None:
        self._result, self._plane, self._level = result, plane, level
        self.shape = level.shape

    def __getitem__(self, region: tuple[slice, slice]) -> NDArray[np.int32]:
        rows, columns = (places[part] for places, part in zip(self._level, region, strict=True))
        labels: NDArray[np.int32] = self._result.contents.labels_at(rows, columns)[self._plane]
        return labels
