"""What is decided once for a whole slide, before its first tile: the tiles, where objects may be, one normalisation."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.core.network import REACH, STRIDE
from cytoseed.images import Image, Regions
from cytoseed.results.measure.stains import may_be_stained, stains_of
from cytoseed.run.area import Area
from cytoseed.run.memory import core_for
from cytoseed.run.plan import Plan
from cytoseed.run.tiles import Box, Grid
from cytoseed.run.tissue import Overview, find_tissue, intensity_range, overview
from cytoseed.settings import ModelConfig, SegmentOptions

_MARGIN_PX = 200  # that the network sees: 100 µm at its usual scale


class Limits(NamedTuple):
    """The one normalisation of an image: values of each channel that the network sees as 0 and as 1."""

    low: NDArray[np.float32]
    """(C,)"""
    high: NDArray[np.float32]
    """(C,)"""


class Survey(NamedTuple):
    """What a slide's tiles have in common, and which of them are to be made."""

    grid: Grid
    limits: Limits
    todo: NDArray[np.int64]
    """(N,) Numbers of the tiles, rising: those in which there may be objects, and some are wanted."""
    stains: tuple[str, ...]
    """Stains whose optical density is measured in the objects."""


def tile_grid(plan: Plan, config: ModelConfig, options: SegmentOptions, image: Image) -> Grid:
    """Divide an image into tiles; their size is the user's, or what memory allows."""
    stride = STRIDE[config.network]
    reach_px = -(-REACH[config.network] // stride) * stride
    core_px = options.tile_size_px
    if core_px is None:
        read_bytes = plan.step_yx[0] * plan.step_yx[1] * (len(plan.channels) * image.dtype.itemsize + 12)
        core_px = core_for(config, options.margin_px + reach_px, read_bytes, options.tta)
    return Grid(*plan.size_yx, core_px, options.margin_px, reach_px)


def tile_settings(grid: Grid, options: SegmentOptions, area: Area) -> dict[str, Any]:
    """Give the settings that a run in tiles has beside those of its plan, in values that JSON keeps."""
    return {
        "tile_size_px": grid.core_px,
        "margin_px": grid.margin_px,
        "skip_background": options.skip_background,
        **area.description,
    }


def survey(image: Image, regions: Regions, plan: Plan, grid: Grid, area: Area, skip_background: bool) -> Survey:
    """Look at the whole of an image at low resolution.

    Parameters
    ----------
    image : Image
    regions : Regions
        The image, open.
    plan : Plan
    grid : Grid
    area : Area
        Where objects are wanted.
    skip_background : bool
        Leave out the tiles in which there is no tissue.

    Raises
    ------
    ImageFileError
        If the image cannot be read even coarsely.
    """
    picture = overview(regions, image, plan.channels)
    tissue = find_tissue(picture, _grown_px(plan, picture.step))
    low, high = intensity_range(regions, image, plan, tissue)
    everywhere = tissue if skip_background else np.ones_like(tissue)
    wanted = []
    for index in range(grid.tiles):
        box = plan.full_box(grid.tile(index).core_yxhw)
        if area.meets(_one_wider(box)) and _part(everywhere, box, picture.step).any():
            wanted.append(index)
    return Survey(grid, Limits(low, high), np.array(wanted, np.int64), _stains(image, regions, plan, picture))


def _stains(image: Image, regions: Regions, plan: Plan, seen: Overview) -> tuple[str, ...]:
    """Tell which stains are measured, by all channels of the image, whichever of them objects are looked for in."""
    if not may_be_stained(image.channel_names, image.dtype):
        return ()
    if sorted(plan.channels) != [0, 1, 2]:
        seen = overview(regions, image, range(3))
    pixels = seen.pixels[:, ~seen.unread]
    return stains_of(np.rint(pixels).astype(np.uint8), image.channel_names)


def _grown_px(plan: Plan, step: float) -> int:
    """Tell how far tissue is grown, in px of an overview: some hundred µm, by the scale that the network works at."""
    return math.ceil(_MARGIN_PX * plan.full_yx[0] / plan.size_yx[0] / step)


def _one_wider(box_yxhw: Box) -> Box:
    """Widen a box by a px: an object's point, scaled, can lie a little beyond the pixels of its tile."""
    top, left, height, width = box_yxhw
    return top - 1, left - 1, height + 2, width + 2


def _part(overview: NDArray[np.bool_], box_yxhw: Box, step: float) -> NDArray[np.bool_]:
    """Give what an overview shows of a box at full resolution."""
    top, left, height, width = box_yxhw
    rows = slice(int(top / step), math.ceil((top + height) / step))
    return overview[rows, int(left / step) : math.ceil((left + width) / step)]
