"""Measurements of the objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.runs import find_runs
from cytoseed.results.shape import measure_shapes

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.results.result import Result
    from cytoseed.results.segmentation import Segmentation


def measure(result: Segmentation) -> pd.DataFrame:
    """Measure every object.

    Parameters
    ----------
    result : Segmentation
        Labels, image and pixel size.

    Returns
    -------
    DataFrame, one row an object, by target and id
        The columns of `measure_objects`; where there are two targets, `target` stands behind `id`.
    """
    import pandas as pd

    planes = [
        measure_objects(labels, result.image, result.channel_names, result.pixel_size_um) for labels in result.planes
    ]
    if len(planes) == 1:
        return planes[0]
    for table, target in zip(planes, result.targets, strict=True):
        table.insert(1, "target", target)
    return pd.concat(planes, ignore_index=True)


def measure_objects(
    labels: NDArray[np.int32],
    channels: Iterable[NDArray[Any]],
    names: Sequence[str],
    pixel_size_um: float | None,
    top: int = 0,
    left: int = 0,
) -> pd.DataFrame:
    """Measure the objects of an image, or of a part of it that holds them whole.

    Coordinates are those of the GeoJSON and of QuPath: the first pixel covers 0 to 1 in x and in y, so that
    the centre of pixel (row, column) is at x = column + 0.5, y = row + 0.5. An object has the same numbers, bit for
    bit, in whatever part it is measured. Beside the labels and one channel, about 20 bytes for each pixel of an
    object and 4 for each of the part are needed.

    Parameters
    ----------
    labels : ndarray, shape (H,W), int32
        Ids of objects, with gaps or without; 0 is background.
    channels : iterable of ndarray, shape (H,W)
        Booleans, integers or real numbers. Taken one after the other, none is kept.
    names : sequence of str
        Name of each channel.
    pixel_size_um : float or None
        Side of a pixel in µm; None where it is not known.
    top, left : int
        Place of the part in the image, px.

    Returns
    -------
    DataFrame, one row an object, by id
        `id`; `centroid_x_px`, `centroid_y_px`; `area_px`; `perimeter_px`, the length of the line through the
        centres of the border's pixels (0 for a single pixel); `eccentricity` of the ellipse of equal moments,
        0 (circle) to 1 (line); `solidity`, the share of its convex hull that the object fills; `mean_<channel>`
        for each channel, followed by the channel's number where several share a name. Where the pixel size is
        known also `centroid_x_um`, `centroid_y_um`, `area_um2`, `perimeter_um`. Every number is finite, but for
        means of channels that are not.

    Raises
    ------
    ValueError
        If a channel has another shape than the labels, or there are not as many channels as names.
    """
    import pandas as pd

    runs = find_runs(labels)
    shapes = measure_shapes(labels, runs, top, left)
    (y, x), area, perimeter = shapes.centroid_yx_px, shapes.area_px, shapes.perimeter_px
    columns: dict[str, NDArray[Any]] = {"id": runs.ids.astype(np.int64), "centroid_x_px": x, "centroid_y_px": y}
    if (side := pixel_size_um) is not None:
        columns |= {"centroid_x_um": x * side, "centroid_y_um": y * side, "area_px": area, "area_um2": area * side**2}
        columns |= {"perimeter_px": perimeter, "perimeter_um": perimeter * side}
    else:
        columns |= {"area_px": area, "perimeter_px": perimeter}
    columns |= {"eccentricity": shapes.eccentricity, "solidity": shapes.solidity}
    inside, place = labels > 0, runs.place_of_pixels()
    sums = map(partial(_sums, inside, place, len(area)), channels)  # a loop's variable would keep the last channel
    columns |= {name: of_channel / area for name, of_channel in zip(_column_names(names), sums, strict=True)}
    return pd.DataFrame(columns)


def _sums(
    inside: NDArray[np.bool_], place: NDArray[np.int64], number: int, channel: NDArray[Any]
) -> NDArray[np.float64]:
    """Add up the values of each object, pixel by pixel in the order of the image."""
    if channel.shape != inside.shape:
        raise ValueError(f"a channel has shape {channel.shape}; it must be that of the labels, {inside.shape}")
    sums: NDArray[Any] = np.bincount(place, weights=channel[inside], minlength=number)
    return sums


def empty_table(result: Result) -> pd.DataFrame:
    """Make a table with the columns that objects of this result would have."""
    nothing = np.zeros((0, 0), np.int32)
    names = result.channel_names
    table = measure_objects(nothing, [nothing] * len(names), names, result.pixel_size_um)
    if len(result.targets) > 1:
        table.insert(1, "target", "")
    return table


def _column_names(channels: Sequence[str]) -> list[str]:
    """Name the columns of mean values; channels that share a name are told apart by their number."""
    return [
        f"mean_{name}" if channels.count(name) == 1 else f"mean_{name} ({index})" for index, name in enumerate(channels)
    ]
