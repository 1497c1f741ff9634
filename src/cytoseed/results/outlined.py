"""Results of outlines that any program made: label images and GeoJSON, measured in an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageLike, as_image
from cytoseed.images.label_image import read_labels, stack_objects
from cytoseed.images.outlines import draw, is_geojson, polygons_of, read_features
from cytoseed.images.overview import thumbnail
from cytoseed.images.pixel_size import PixelSize, as_pixel_size
from cytoseed.results.measure.stains import stains_of
from cytoseed.results.measure.table import measure_planes
from cytoseed.results.result import Result, check_labels
from cytoseed.results.view import LabelImage

_HELD_BYTES = 1 << 30  # images up to this size are read once; of larger ones a channel at a time is held
_STAINS_PX = 4096
_OUTLINED = ("detection", "cell", "tile")  # QuPath's objects beside annotations
_BOTH = ("nuclei", "cells")


class _Planes(NamedTuple):
    """Label planes (T,H,W), with what they show."""

    labels: NDArray[np.int32]
    targets: tuple[str, ...]
    name: str  # where they come from


def measure(
    image: ImageLike,
    labels: NDArray[Any] | str | os.PathLike[str],
    cells: NDArray[Any] | str | os.PathLike[str] | None = None,
    *,
    pixel_size_um: float | None = None,
    series: str | int | None = None,
    full_canvas: bool = False,
) -> Result:
    """Measure objects that another program, or a person, outlined: a `Result` with the tables that `segment` makes.

    Parameters
    ----------
    image : path, URL, Image or array
        The image in which intensities are measured, as for `segment`; all of its channels. An image beyond 1 GiB is
        read one channel at a time.
    labels : path or array
        A label image of the image's height and width, whole numbers (H,W), 0 for background; or a GeoJSON file in
        pixels of the image, as QuPath exports it. Of GeoJSON, ids are 1 + the number of the feature, annotations are
        left out where there are detections or cells, and cells with nuclei give both.
    cells : path or array, optional
        A second label image with the cells, where `labels` are their nuclei. If ids of nuclei and cells do not
        correspond, a nucleus takes the id of the cell that covers most of it, and at least half; others get new ids.
    pixel_size_um : float, optional
        Side of a pixel in µm; by default as the image's file states it.
    series, full_canvas
        As for `segment`.

    Returns
    -------
    Result
        Objects as they were given; nothing is cleaned. There is no score: it belongs to a model.

    Raises
    ------
    FileNotFoundError, TypeError
        A file that does not exist; labels that are not whole numbers.
    ValueError
        A file that cannot be read, a picture that is not a label image, or labels of another size than the image.
    """
    opened = as_image(image, series, full_canvas)
    size_yx = opened.shape[1:]
    found = _read(labels, size_yx, "nuclei")
    if cells is not None:
        found = _with_cells(found, _read(cells, size_yx, "cells"))
    check_labels(found.labels if len(found.targets) > 1 else found.labels[0], opened.shape, found.targets)
    if np.prod(opened.shape, dtype=object) * opened.dtype.itemsize <= _HELD_BYTES:
        opened = opened.in_memory()
    size_um: PixelSize = as_pixel_size(opened.pixel_size_yx_um) if pixel_size_um is None else pixel_size_um
    names, channels = opened.channel_names, _Channels(opened)
    result = Result(
        contents=LabelImage(
            found.labels,
            lambda: measure_planes(found.labels, channels, found.targets, names, size_um, result.stains),
        ),
        shape=opened.shape,
        targets=found.targets,
        channel_names=names,
        pixel_size_um=size_um,
        source=opened.source,
        settings=_settings(found, size_um),
        find_input=opened.identity,
        find_stains=lambda: stains_of(thumbnail(opened, _STAINS_PX)[0], names),
        thumbnail=partial(thumbnail, opened),
    )
    return result


class _Channels:
    """Channels (H,W) of an image, each read when it is its turn, and again in the next round."""

    def __init__(self, image: Image) -> None:
        self._image = image

    def __iter__(self) -> Iterator[NDArray[Any]]:
        with self._image.regions() as regions:
            for channel in range(self._image.shape[0]):
                yield regions.read(None, 0, [channel])[0]


def _settings(found: _Planes, pixel_size_um: PixelSize) -> Mapping[str, Any]:
    """Settings of the record: where the outlines come from, and a digest of them."""
    size = list(pixel_size_um) if isinstance(pixel_size_um, tuple) else pixel_size_um
    digest = hashlib.sha256(np.ascontiguousarray(found.labels).data).hexdigest()
    return {"outlines": found.name, "outlines_sha256": digest, "pixel_size_um": size}


def _read(labels: NDArray[Any] | str | os.PathLike[str], size_yx: tuple[int, int], target: str) -> _Planes:
    """Label planes of an array, a label image or GeoJSON; `target` is what a label image shows."""
    if not isinstance(labels, (str, os.PathLike)):
        array = np.asarray(labels)
        if array.dtype.kind not in "iu":
            raise TypeError(f"labels have values of type {array.dtype}; they must be integers, such as int32")
        if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int32).max):
            raise ValueError(f"labels go from {array.min()} to {array.max()}; they must be from 0 to 2^31 - 1")
        return _Planes(array.astype(np.int32, copy=False)[None], (target,), "array")
    path = Path(labels)
    if path.is_file() and is_geojson(path):
        return _read_geojson(path, size_yx, target)
    return _Planes(np.maximum(read_labels(path), 0)[None], (target,), path.name)


def _read_geojson(path: Path, size_yx: tuple[int, int], target: str) -> _Planes:
    """Label planes of a GeoJSON file: of cells with nuclei both, else one."""
    features = read_features(path)
    kinds = [_kind_of(each) for each in features]
    is_kept = [not set(kinds) & set(_OUTLINED) or kind in _OUTLINED for kind in kinds]
    are_cells = [kind == "cell" for kind in kinds]

    def plane(geometries: Sequence[Any]) -> NDArray[np.int32]:
        named = enumerate(geometries)
        polygons = ([] if each is None else polygons_of(each, f"{path}: feature {number}") for number, each in named)
        return stack_objects(draw(polygons, size_yx, path), size_yx)

    outer = [each["geometry"] if keep else None for each, keep in zip(features, is_kept, strict=True)]
    if not any(each.get("nucleusGeometry") for each in features):
        only = "cells" if any(are_cells) and all(are_cells) else target
        found = _Planes(plane(outer)[None], (only,), path.name)
    else:
        triples = list(zip(outer, features, are_cells, strict=True))
        nuclei = plane([each.get("nucleusGeometry") if is_cell else own for own, each, is_cell in triples])
        found = _Planes(
            np.stack([nuclei, plane([own if is_cell else None for own, _, is_cell in triples])]), _BOTH, path.name
        )
    if features and not found.labels.any():
        raise ValueError(
            f"{path}: no feature contains a pixel of the image ({size_yx[0]} x {size_yx[1]} px); export it in pixels "
            f"of this image"
        )
    return found


def _kind_of(feature: Mapping[str, Any]) -> str:
    """Type of a feature as QuPath states it; empty without one."""
    properties = feature.get("properties")
    return str(properties.get("objectType", "")) if isinstance(properties, dict) else ""


def _with_cells(nuclei: _Planes, cells: _Planes) -> _Planes:
    """Both planes, in which a nucleus has the id of its cell, and no other."""
    if len(nuclei.targets) > 1 or len(cells.targets) > 1:
        raise ValueError(
            f"cells is {cells.name!r}, and {nuclei.name!r} holds nuclei and cells already: leave cells out"
        )
    if nuclei.labels.shape != cells.labels.shape:
        raise ValueError(
            f"the nuclei have shape {nuclei.labels.shape[1:]} and the cells {cells.labels.shape[1:]}; both must be "
            f"labels of the same image"
        )
    paired = _paired(nuclei.labels[0], cells.labels[0])
    return _Planes(np.stack([paired, cells.labels[0]]), _BOTH, f"{nuclei.name}, {cells.name}")


def _paired(nuclei: NDArray[np.int32], cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """Nuclei with the ids of their cells; as they are, if that is so already."""
    own, place, area = np.unique(nuclei, return_inverse=True, return_counts=True)
    place = place.reshape(nuclei.shape)
    both = (nuclei > 0) & (cells > 0)
    pairs, common = np.unique(np.stack([place[both], cells[both]]), axis=1, return_counts=True)
    new = np.full(len(own), -1, np.int64)
    taken: set[int] = set()
    for index in np.lexsort((pairs[1], pairs[0], -common)).tolist():  # the largest overlaps first
        nucleus, cell = pairs[:, index].tolist()
        if new[nucleus] < 0 and cell not in taken and 2 * common[index] >= area[nucleus]:
            new[nucleus] = cell
            taken.add(cell)
    alone = np.flatnonzero((new < 0) & (own > 0))
    kept = alone[~np.isin(own[alone], cells)]
    new[kept] = own[kept]
    others = np.setdiff1d(alone, kept)
    new[others] = max(int(cells.max(initial=0)), int(own.max(initial=0))) + 1 + np.arange(len(others))
    new[own == 0] = 0
    if new.max(initial=0) > np.iinfo(np.int32).max:
        raise ValueError("the ids of nuclei and cells leave no room for new ones below 2^31; number them from 1")
    return new.astype(np.int32)[place]
