"""Survey of a large image at low resolution: its normalisation, its stains, and the tiles that may hold objects."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, Regions
from cytoseed.images.overview import Overview, overview
from cytoseed.results.measure.stains import may_be_stained, stains_of
from cytoseed.run.normalisation import Limits, intensity_limits
from cytoseed.run.plan import Plan
from cytoseed.run.tiles import Box
from cytoseed.run.tissue import find_tissue

_MARGIN_PX = 200  # of the network's input around tissue: 100 µm at its usual scale


class Survey(NamedTuple):
    """Properties that all tiles of an image share, and the tiles to process."""

    limits: Limits
    todo: NDArray[np.int64]
    """(N,) Numbers of the tiles to process, rising."""
    stains: tuple[str, ...]
    """Stains whose optical density is measured in the objects."""


def survey(image: Image, regions: Regions, plan: Plan, skip_background: bool) -> Survey:
    """Survey an image that `regions` has open; `skip_background` leaves out tiles without tissue.

    Raises
    ------
    ImageFileError
        The image cannot be read.
    """
    picture = overview(regions, image, plan.channels)
    tissue = find_tissue(picture, _grown_px(plan, picture.step))
    limits = intensity_limits(regions, image, plan, tissue)
    everywhere = tissue if skip_background else np.ones_like(tissue)
    todo = []
    for index in range(plan.grid.tiles):
        box = plan.full_box(plan.grid.tile(index).core_yxhw)
        if plan.area.meets(_widened(box)) and _part(everywhere, box, picture.step).any():
            todo.append(index)
    return Survey(limits, np.array(todo, np.int64), _stains(image, regions, plan, picture))


def _stains(image: Image, regions: Regions, plan: Plan, picture: Overview) -> tuple[str, ...]:
    """Stains to measure, by all channels of the image, whichever of them are segmented."""
    if not may_be_stained(image.channel_names, image.dtype):
        return ()
    if sorted(plan.channels) != [0, 1, 2]:
        picture = overview(regions, image, range(3))
    pixels = picture.pixels[:, ~picture.unread]
    return stains_of(np.rint(pixels).astype(np.uint8), image.channel_names)


def _grown_px(plan: Plan, step: float) -> int:
    """Pixels of the overview by which tissue grows: about 100 µm."""
    return math.ceil(_MARGIN_PX * plan.full_yx[0] / plan.size_yx[0] / step)


def _widened(box_yxhw: Box) -> Box:
    """Box widened by a pixel: an object's point, rescaled, can lie a little beyond the pixels of its tile."""
    top, left, height, width = box_yxhw
    return top - 1, left - 1, height + 2, width + 2


def _part(tissue: NDArray[np.bool_], box_yxhw: Box, step: float) -> NDArray[np.bool_]:
    """Part of an overview's mask that a box at full resolution covers."""
    top, left, height, width = box_yxhw
    rows = slice(int(top / step), math.ceil((top + height) / step))
    return tissue[rows, int(left / step) : math.ceil((left + width) / step)]
