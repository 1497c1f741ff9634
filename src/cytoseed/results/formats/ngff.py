"""The labels as OME-Zarr (OME-NGFF): a group of label images, one for each target, at several resolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cytoseed.results.pyramid import Level, halved, tiles_of

if TYPE_CHECKING:
    from cytoseed.results.view import ResultView

_CHUNK_PX = 1024
_ZARR_FORMATS = {"0.5": 3, "0.4": 2}
_SEPARATED = {3: None, 2: {"name": "v2", "separator": "/"}}  # chunks in folders of their own: 3 does so by itself


class Frame(NamedTuple):
    """How label images are laid out, and where they lie in space."""

    version: str
    """Of OME-NGFF: `0.5`, in Zarr 3, or `0.4`, in Zarr 2."""
    axes: Sequence[Mapping[str, Any]]
    """The axes as the metadata have them. Those called `y` and `x` are the image's; others are of length 1."""
    levels: Sequence[Level]
    """The resolutions, the full one first."""
    transformations: Sequence[Sequence[Mapping[str, Any]]]
    """Scale, and translation where there is one, of each level."""
    whole: Mapping[str, Any] = {}
    """What else is said of the multiscale image, such as transformations of all levels."""
    label: Mapping[str, Any] = {}
    """What is said of the labels, such as their `source`."""


def write_ngff(result: ResultView, path: Path, version: str = "0.5") -> None:
    """Write a labels group: a folder that opens by itself, and that can be copied into an image as its `labels`.

    In it lies a label image for each target, called after it: uint32, 0 is background; axes y and x, in micrometer
    where the pixel size is known. Of each level the next is half as large, down to 1024 px a side; its pixels show
    the label at their centre, and a translation says that they cover the same place. Chunks are of 1024 px, and those
    without objects are not written. Colours are left to viewers, which give each label one of its own.

    Parameters
    ----------
    result : ResultView
        Read once, in regions.
    path : path
        The folder; there is nothing yet.
    version : str
        Of OME-NGFF: `0.5`, in Zarr 3 and compressed by Zstandard, or `0.4`, in Zarr 2 and by zlib, which Java reads.
    """
    import zarr

    attributes = namespaced(version, {"labels": list(result.targets)})
    zarr.create_group(str(path), zarr_format=_zarr_format(version), attributes=attributes)
    side, unit = (1.0, None) if result.pixel_size_um is None else (result.pixel_size_um, "micrometer")
    axes = [{"name": name, "type": "space"} | ({"unit": unit} if unit else {}) for name in "yx"]
    levels = halved(result.shape[1:])
    transformations = [_transformations(2**number, side) for number in range(len(levels))]
    write_label_images(result, path, Frame(version, axes, levels, transformations))


def write_label_images(result: ResultView, folder: Path, frame: Frame) -> None:
    """Write a label image for each target into a folder, called after it; to list them is left to the caller.

    Parameters
    ----------
    result : ResultView
        Read once, in regions.
    folder : path
        What is in it already stays.
    frame : Frame
        How the images are laid out.

    Raises
    ------
    FileExistsError
        If there is an image of such a name.
    """
    groups = [_described_group(folder / target, target, frame) for target in result.targets]
    arrays = [[_empty_array(group, number, frame) for group in groups] for number in range(len(frame.levels))]
    names = [axis["name"] for axis in frame.axes]
    for tile in tiles_of(result, frame.levels, _CHUNK_PX):
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
    """Put attributes where a version of OME-NGFF has them: 0.5 under `ome`, with its number."""
    return {"ome": {"version": version, **attributes}} if version == "0.5" else dict(attributes)


def _zarr_format(version: str) -> Any:
    return _ZARR_FORMATS[version]


def _transformations(factor: int, side: float) -> list[dict[str, Any]]:
    """Say that a level's pixels cover so many of full resolution, whose centres lie at whole multiples of `side`."""
    found: list[dict[str, Any]] = [{"type": "scale", "scale": [side * factor] * 2}]
    if factor > 1:
        found.append({"type": "translation", "translation": [side * (factor - 1) / 2] * 2})
    return found


def _described_group(folder: Path, target: str, frame: Frame) -> Any:
    import zarr

    levels = enumerate(frame.transformations)
    datasets = [{"path": str(number), "coordinateTransformations": list(own)} for number, own in levels]
    number = {} if frame.version == "0.5" else {"version": frame.version}  # 0.5 says it once for all
    multiscale = {**number, "name": target, "axes": list(frame.axes), "datasets": datasets, "type": "nearest"}
    attributes = {"multiscales": [{**multiscale, **frame.whole}], "image-label": {**number, **frame.label}}
    return zarr.create_group(
        str(folder), zarr_format=_zarr_format(frame.version), attributes=namespaced(frame.version, attributes)
    )


def _empty_array(group: Any, number: int, frame: Frame) -> Any:
    """Make the array of a level; nothing is written to it yet."""
    from zarr.codecs import ZstdCodec

    is_new = frame.version == "0.5"
    names = [axis["name"] for axis in frame.axes]
    lengths = dict(zip("yx", frame.levels[number].shape, strict=True))
    shape = tuple(lengths.get(name, 1) for name in names)
    return group.create_array(
        str(number),
        shape=shape,
        dtype=np.uint32,
        chunks=tuple(min(length, _CHUNK_PX) for length in shape),
        compressors=ZstdCodec(level=3, checksum=False) if is_new else {"id": "zlib", "level": 5},
        fill_value=0,
        chunk_key_encoding=_SEPARATED[_ZARR_FORMATS[frame.version]],
        dimension_names=names if is_new else None,
    )
