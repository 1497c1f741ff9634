"""Measurements of the objects, and their CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.results.segmentation import Segmentation


def measure(result: Segmentation) -> pd.DataFrame:
    """Measure every object.

    Coordinates are those of the GeoJSON and of QuPath: the first pixel covers 0 to 1 in x and in y, so that
    the centre of pixel (row, column) is at x = column + 0.5, y = row + 0.5.

    Parameters
    ----------
    result : Segmentation
        Labels, image and pixel size.

    Returns
    -------
    DataFrame, one row an object, by target and id
        `id`; `target` where there are two; `centroid_x_px`, `centroid_y_px`; `area_px`; `perimeter_px`, the
        length of the line through the centres of the border's pixels (0 for a single pixel);
        `eccentricity` of the ellipse of equal moments, 0 (circle) to 1 (line); `solidity`, the share of its
        convex hull that the object fills; `mean_<channel>` for each channel. Where the pixel size is known
        also `centroid_x_um`, `centroid_y_um`, `area_um2`, `perimeter_um`. Every number is finite.
    """
    import pandas as pd

    planes = [
        _measure_plane(labels, target, result) for labels, target in zip(result.planes, result.targets, strict=True)
    ]
    table = pd.concat(planes, ignore_index=True)
    return table.drop(columns="target") if len(planes) == 1 else table


def write_table(result: Segmentation, path: Path) -> None:
    """Write the table as CSV: comma, point, UTF-8, numbers in full."""
    result.table.to_csv(path, index=False, encoding="utf-8", lineterminator="\n")


_SHAPE = ("label", "centroid", "area", "perimeter", "eccentricity", "solidity")


def _measure_plane(labels: NDArray[np.int32], target: str, result: Segmentation) -> pd.DataFrame:
    """Measure the objects of one target."""
    import pandas as pd
    from skimage.measure import regionprops_table

    shape: dict[str, NDArray[Any]] = regionprops_table(labels, properties=_SHAPE)  # type: ignore[no-untyped-call]
    x, y = shape["centroid-1"] + 0.5, shape["centroid-0"] + 0.5
    area, perimeter = shape["area"].astype(np.int64), shape["perimeter"]
    columns: dict[str, Any] = {"id": shape["label"], "target": target, "centroid_x_px": x, "centroid_y_px": y}
    if (side := result.pixel_size_um) is not None:
        columns |= {"centroid_x_um": x * side, "centroid_y_um": y * side, "area_px": area, "area_um2": area * side**2}
        columns |= {"perimeter_px": perimeter, "perimeter_um": perimeter * side}
    else:
        columns |= {"area_px": area, "perimeter_px": perimeter}
    columns |= {"eccentricity": shape["eccentricity"], "solidity": shape["solidity"]}
    for name, channel in zip(_column_names(result.channel_names), result.image, strict=True):
        sums = np.bincount(labels.ravel(), weights=channel.ravel())
        columns[name] = sums[shape["label"]] / area
    return pd.DataFrame(columns)


def _column_names(channels: Sequence[str]) -> list[str]:
    """Name the columns of mean values; channels that share a name are told apart by their number."""
    return [
        f"mean_{name}" if channels.count(name) == 1 else f"mean_{name} ({index})" for index, name in enumerate(channels)
    ]
