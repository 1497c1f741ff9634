"""The labels as OME-Zarr (OME-NGFF): a group of label images, one per target, at several resolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cytoseed.images.pixel_size import sides_um
from cytoseed.results.pyramid import Level, halved, tiles_of
from cytoseed.results.view import ResultView

_CHUNK_PX = 1024
ZARR_FORMATS: Mapping[str, Any] = {"0.5": 3, "0.4": 2}


class Layout(NamedTuple):
    """Layout of label images, and their place in space."""

    version: str  # version of OME-NGFF: `0.5`, in Zarr 3, or `0.4`, in Zarr 2
    axes: Sequence[Mapping[str, Any]]  # as in the metadata; those that are not called `y` or `x` are of length 1
    levels: Sequence[Level]  # the full resolution first
    transformations: Sequence[Sequence[Mapping[str, Any]]]  # scale, and translation where there is one, of each level
    whole: Mapping[str, Any] = {}  # further metadata of the multiscale image, such as transformations of all levels
    label: Mapping[str, Any] = {}  # metadata of the labels, such as their `source`


def write_ngff(result: ResultView, path: Path, version: str = "0.5") -> None:
    """Write a labels group: a folder that opens by itself, and that can be copied into an image as its `labels`.

    It holds a label image per target, called after it: uint32, 0 is background; axes y and x, in micrometer where the
    pixel size is known. Each level is half as large as the one before, down to 1024 px per side; its pixels show the
    label at their centre, with a translation to the same place. Chunks are of 1024 px; those without objects are left
    out. Version 0.5 is Zarr 3 with Zstandard; 0.4 is Zarr 2 with zlib, which Java reads.
    """
    import zarr

    attributes = namespaced(version, {"labels": list(result.targets)})
    zarr.create_group(str(path), zarr_format=ZARR_FORMATS[version], attributes=attributes)
    size, unit = (1.0, {}) if result.pixel_size_um is None else (result.pixel_size_um, {"unit": "micrometer"})
    axes = [{"name": name, "type": "space", **unit} for name in "yx"]
    levels = halved(result.shape[1:])
    placed = [placement(2**number, sides_um(size))[: 1 + (number > 0)] for number in range(len(levels))]
    write_label_images(result, path, Layout(version, axes, levels, placed))


def write_label_images(result: ResultView, folder: Path, layout: Layout) -> None:
    """Write a label image per target into a folder, called after it; the caller lists them in the folder's metadata."""
    groups = [_create_group(folder / target, target, layout) for target in result.targets]
    arrays = [[_create_array(group, number, layout) for group in groups] for number in range(len(layout.levels))]
    names = [axis["name"] for axis in layout.axes]
    for tile in tiles_of(result, layout.levels, _CHUNK_PX):
        height, width = tile.labels.shape[1:]
        top, left = tile.row * _CHUNK_PX, tile.column * _CHUNK_PX
        inside = {"y": slice(top, top + height), "x": slice(left, left + width)}
        place = tuple(inside.get(name, slice(0, 1)) for name in names)
        shape = [{"y": height, "x": width}.get(name, 1) for name in names]
        for array, labels in zip(arrays[tile.level], tile.labels, strict=True):
            if labels.any():
                turned = labels if names.index("y") < names.index("x") else labels.T
                array[place] = turned.reshape(shape).astype(np.uint32)


def namespaced(version: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the place where a version of OME-NGFF has them: 0.5 under `ome`, with its number."""
    return {"ome": {"version": version, **attributes}} if version == "0.5" else dict(attributes)


def placement(factor: int, sides_yx: tuple[float, float] = (1, 1)) -> list[dict[str, Any]]:
    """Scale and translation of a level whose pixels are `factor` px of these sides; centres are multiples of them."""
    translation = [side * (factor - 1) / 2 for side in sides_yx]
    scale = [side * factor for side in sides_yx]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]


def _create_group(folder: Path, target: str, layout: Layout) -> Any:
    import zarr

    levels = enumerate(layout.transformations)
    datasets = [{"path": str(number), "coordinateTransformations": list(own)} for number, own in levels]
    number = {} if layout.version == "0.5" else {"version": layout.version}  # 0.5 states it once for all levels
    multiscale = {**number, "name": target, "axes": list(layout.axes), "datasets": datasets, "type": "nearest"}
    attributes = {"multiscales": [{**multiscale, **layout.whole}], "image-label": {**number, **layout.label}}
    described = namespaced(layout.version, attributes)
    return zarr.create_group(str(folder), zarr_format=ZARR_FORMATS[layout.version], attributes=described)


def _create_array(group: Any, number: int, layout: Layout) -> Any:
    from zarr.codecs import ZstdCodec

    is_new = layout.version == "0.5"
    names = [axis["name"] for axis in layout.axes]
    lengths = dict(zip("yx", layout.levels[number].shape, strict=True))
    shape = tuple(lengths.get(name, 1) for name in names)
    return group.create_array(
        str(number),
        shape=shape,
        dtype=np.uint32,
        chunks=tuple(min(length, _CHUNK_PX) for length in shape),
        compressors=ZstdCodec(level=3, checksum=False) if is_new else {"id": "zlib", "level": 5},
        fill_value=0,
        chunk_key_encoding=None if is_new else {"name": "v2", "separator": "/"},  # chunks in folders
        dimension_names=names if is_new else None,
    )
