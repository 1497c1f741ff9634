"""Crops of the objects that a reader should check first."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Regions
from cytoseed.results.formats.overlay import as_rgb, borders, colours_on, ranges_of
from cytoseed.results.formats.page import picture
from cytoseed.results.objects import Box
from cytoseed.results.view import ResultView

_CROPS, _CROP_PX, _SMALLEST_PX, _MARGIN = 24, 112, 48, 1.6
_CERTAINTY = ("score", "solidity")  # the first one that a table has
_OTHERS = (160, 160, 160)
_RANGES_PX = 1024


def least_certain(result: ResultView) -> tuple[str, str]:
    """Figures of the objects of lowest score, or lowest solidity without scores, and the name of that column."""
    name, values = _certainty(result)
    ids, *box = result.measured(["id", "box_y_px", "box_x_px", "box_height_px", "box_width_px"])
    first = np.argsort(values, kind="stable")[:_CROPS]
    first = first[np.isfinite(values[first])]
    ranges = ranges_of(result.thumbnail(_RANGES_PX)[0])
    figures = []
    with result.find_image().regions() as regions:
        for index in first.tolist():
            around = _around(tuple(int(each[index]) for each in box), result.shape)
            crop = _crop(result, regions, around, int(ids[index]), ranges)
            caption = html.escape(f"{int(ids[index])}: {values[index]:.3g}")
            shown = picture(crop, _CROP_PX * 2, f"Object {int(ids[index])}")
            figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return "".join(figures), name


def _certainty(result: ResultView) -> tuple[str, NDArray[np.float64]]:
    """Name and values of the first column of certainty that is known."""
    names = [name for name in _CERTAINTY if name in result.columns]
    columns = dict(zip(names, result.measured(names), strict=True))
    return next((item for item in columns.items() if np.isfinite(item[1]).any()), (names[-1], columns[names[-1]]))


def _around(box: tuple[int, ...], shape: tuple[int, int, int]) -> Box:
    """Square box around the middle of an object's box, inside the image where that is large enough."""
    top, left, height, width = box
    side = max(_SMALLEST_PX, round(_MARGIN * max(height, width)))
    sides = [min(side, full) for full in shape[1:]]
    corner = [
        min(max(0, start + extent // 2 - own // 2), full - own)
        for start, extent, own, full in zip((top, left), (height, width), sides, shape[1:], strict=True)
    ]
    return corner[0], corner[1], sides[0], sides[1]


def _crop(
    result: ResultView, regions: Regions, box: Box, number: int, ranges: list[tuple[float, float]]
) -> NDArray[np.uint8]:
    """Pixels around an object, with its outline, and those of others in grey; enlarged."""
    pixels: NDArray[Any] = regions.read(box, 0, range(result.shape[0]))
    crop = as_rgb(pixels, result.channel_names, ranges)
    half = max(1, _CROP_PX // max(crop.shape[:2]))  # lines are two pixels wide, of which one is shown
    labels = _enlarged(result.labels_in(box)[-1], half)
    edges = borders(labels)
    crop, colour = _enlarged(crop, 2 * half), colours_on(crop)[0]
    crop[_enlarged(edges, 2)] = _OTHERS
    crop[_enlarged(edges & (labels == number), 2)] = colour
    return crop


def _enlarged(pixels: NDArray[Any], factor: int) -> NDArray[Any]:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)
