"""Table of measurements, one row per object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import PixelSize, sides_um
from cytoseed.results.measure.compartments import Cytoplasm, find_cytoplasm, join_compartments
from cytoseed.results.measure.intensity import STATISTICS, measure_values, values_at
from cytoseed.results.measure.runs import find_runs
from cytoseed.results.measure.shape import Shapes, ellipse_of, measure_shapes, perimeter_of
from cytoseed.results.measure.stains import stain_density

if TYPE_CHECKING:
    import pandas as pd

_LARGE = 100_000  # objects


class Frame(NamedTuple):
    """Place of a part of an image whose objects are measured."""

    top: int  # row of the part's first pixel in the image
    left: int  # column of the part's first pixel in the image
    image_yx: tuple[int, int]  # height and width of the image, px
    core_yxhw: tuple[int, int, int, int]  # box of the tile that finds the objects; all of the image in one pass


def measure_planes(
    planes: NDArray[np.int32],
    image: Iterable[NDArray[Any]],
    targets: Sequence[str],
    names: Sequence[str],
    pixel_size_um: PixelSize,
    stains: Sequence[str] = (),
    scores: NDArray[np.float64] | None = None,
) -> pd.DataFrame:
    """Measurements of all objects of label planes (T,H,W), by target and id.

    Of two targets, nuclei and cells, `target` follows `id`, and compartments are the last columns. `image` are the
    channels (H,W), which are gone through once per plane; `scores` (T,K + 1) those of ids up to K.
    """
    import pandas as pd

    nuclei = planes[0] if len(planes) > 1 else None
    tables = [measure_objects(labels, image, names, pixel_size_um, stains, nuclei=nuclei) for labels in planes]
    if scores is not None:
        tables = [table.assign(score=own[table["id"]]) for table, own in zip(tables, scores, strict=True)]
    if len(tables) == 1:
        return tables[0]
    for table, target in zip(tables, targets, strict=True):
        table.insert(1, "target", np.full(len(table), target, object))
    return join_compartments(pd.concat(tables, ignore_index=True))


def measure_objects(
    labels: NDArray[np.int32],
    channels: Iterable[NDArray[Any]],
    names: Sequence[str],
    pixel_size_um: PixelSize,
    stains: Sequence[str] = (),
    frame: Frame | None = None,
    nuclei: NDArray[np.int32] | None = None,
) -> pd.DataFrame:
    """Measure the objects of an image, or of a part of it that holds them whole: one row per object, by id.

    `labels` (H,W) may have gaps between ids; `channels` (H,W) are read one after the other and called `names`, with
    their number appended to names that are shared. Stains, of `STAINS`, need the channels red, green and blue of 8
    bits. `frame` is the place of the part in the image. `nuclei` (H,W), which have the ids of their cells, add the
    statistics of the cytoplasm, `cytoplasm_...`: of all pixels of an object outside the nucleus of the same id; NaN
    where there are none.

    Columns are those of docs/results.md: ids, boxes, areas and touches are int64, all else float64, and finite unless
    a channel is not. Coordinates are those of the GeoJSON and of QuPath: the centre of pixel (row, column) is at
    x = column + 0.5, y = row + 0.5. An object has the same numbers, bit for bit, regardless of the part in which it is
    measured. Memory: the labels, one channel, and about 20 bytes per pixel of an object (40 with `nuclei`).
    """
    import pandas as pd

    height, width = labels.shape
    place = frame or Frame(0, 0, (height, width), (0, 0, height, width))
    runs = find_runs(labels)
    shapes = measure_shapes(labels, runs, place.top, place.left)
    columns: dict[str, NDArray[Any]] = {"id": runs.ids.astype(np.int64), **_shape_columns(shapes, pixel_size_um)}
    columns |= _touches(shapes.box_yxhw, place)
    outside = None if nuclei is None else find_cytoplasm(labels, nuclei, runs.ids)
    pixels = runs.pixels(width)
    del runs  # with many small objects as large as the table
    parts = [pixels] if outside is None else [pixels, outside.pixels]
    cytoplasm: dict[str, NDArray[Any]] = {}
    for name, (values, *others) in _values(parts, channels, names, stains, labels.shape):
        columns |= _value_columns(name, measure_values(values, shapes.area_px))
        if outside is not None:
            cytoplasm |= _cytoplasm_columns(name, others[0], outside, len(shapes.area_px))
    columns |= cytoplasm
    # a copy is one block of memory, to which columns are added quickly; of a large one the memory would double
    return pd.DataFrame(columns, copy=len(columns["id"]) < _LARGE)


def _values(
    parts: Sequence[NDArray[np.int64]],
    channels: Iterable[NDArray[Any]],
    names: Sequence[str],
    stains: Sequence[str],
    shape_yx: tuple[int, int],
) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Name of each channel, then of each stain, and its values at the pixels of each part."""
    named = _distinct([*names, *(f"od_{stain}" for stain in stains)])
    colours: list[list[NDArray[Any]]] = []

    def pick(channel: NDArray[Any]) -> list[NDArray[Any]]:
        return [values_at(pixels, shape_yx, channel) for pixels in parts]

    # mapped, as a loop's variable would keep the last channel
    for name, values in zip(named[: len(names)], map(pick, channels), strict=True):
        if stains:
            colours.append(values)
        yield name, values
    for name, stain in zip(named[len(names) :], stains, strict=True):
        yield name, [stain_density(of_part, stain, stains) for of_part in zip(*colours, strict=True)]


def _shape_columns(shapes: Shapes, size_um: PixelSize) -> dict[str, NDArray[Any]]:
    """Columns of size and shape; lengths and areas also in µm where the size of a pixel is known.

    Of pixels that are not square, the eccentricity is that in µm.
    """
    top, left, height, width = shapes.box_yxhw
    (y, x), (major, minor), area = shapes.centroid_yx_px, shapes.axes_px, shapes.area_px
    perimeter, eccentricity = shapes.perimeter_px, shapes.eccentricity
    columns = {"box_x_px": left, "box_y_px": top, "box_width_px": width, "box_height_px": height}
    tall, wide = sides_um(size_um or 1.0)
    perimeter_um, major_um, minor_um = perimeter * tall, major * tall, minor * tall
    if tall != wide:
        perimeter_um = perimeter_of(shapes.steps, tall, wide)
        (major_um, minor_um), eccentricity = ellipse_of(shapes.moments, area, tall, wide)

    def add(unit: str = "um", **lengths: tuple[NDArray[Any], NDArray[Any]]) -> None:
        columns.update({f"{name}_px": px for name, (px, _) in lengths.items()})
        if size_um is not None:
            columns.update({f"{name}_{unit}": length for name, (_, length) in lengths.items()})

    add(centroid_x=(x, x * wide), centroid_y=(y, y * tall))
    add("um2", area=(area, area * (tall * wide)))
    add(perimeter=(perimeter, perimeter_um))
    add(axis_major=(major, major_um))
    add(axis_minor=(minor, minor_um))
    return {**columns, "eccentricity": eccentricity, "solidity": shapes.solidity}


def _touches(box_yxhw: NDArray[np.int64], frame: Frame) -> dict[str, NDArray[Any]]:
    """Columns of boxes (4,K) that reach the border of the image, or a border of the tile inside the image."""
    begin, end = box_yxhw[:2], box_yxhw[:2] + box_yxhw[2:]
    image_end = np.array(frame.image_yx)[:, None]
    core_begin = np.array(frame.core_yxhw[:2])[:, None]
    core_end = core_begin + np.array(frame.core_yxhw[2:])[:, None]
    of_image = (begin <= 0) | (end >= image_end)
    of_tile = ((begin <= core_begin) & (core_begin > 0)) | ((end >= core_end) & (core_end < image_end))
    # whole numbers, as the objects of a tile are stored in numbers
    named = {"touches_image_edge": of_image, "touches_tile_edge": of_tile}
    return {name: touches.any(axis=0).astype(np.int64) for name, touches in named.items()}


def _value_columns(name: str, measured: NDArray[np.float64], part: str = "") -> dict[str, NDArray[Any]]:
    """Columns of statistics (7,K) of one channel or stain."""
    return dict(zip((f"{part}{statistic}_{name}" for statistic in STATISTICS), measured, strict=True))


def _cytoplasm_columns(name: str, values: NDArray[Any], where: Cytoplasm, count: int) -> dict[str, NDArray[Any]]:
    """Columns of the cytoplasm of `count` objects."""
    found = np.full((len(STATISTICS), count), np.nan)
    found[:, where.place] = measure_values(values, where.area_px)
    return _value_columns(name, found, "cytoplasm_")


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with the channel's number appended to those that are shared; to all, if that makes new duplicates."""
    named = [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]
    if len(set(named)) < len(named):
        named = [f"{name} ({index})" for index, name in enumerate(names)]
    return named
