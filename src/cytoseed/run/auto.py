"""Model `auto`: a bundled model for each image, chosen by its kind before any tile."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image
from cytoseed.images.image import RGB_NAMES
from cytoseed.models.weights import AUTO, Model, load_model
from cytoseed.results.measure.stains import may_be_stained, stains_of
from cytoseed.settings import SegmentOptions

STAINED_TISSUE, ANYTHING_ELSE = "nuclei-he", "nuclei"

_SIDE_PX = 512  # the coarsest level with a side of this length is judged
_WHOLE_PX = 1 << 18  # of larger levels, some blocks are
_BLOCKS, _BLOCK_PX = 8, 64  # per side
_KEPT_BYTES = 1 << 24  # smaller images are read only once


class Choice(NamedTuple):
    """Model for an image, and with what it is used."""

    model: Model
    image: Image  # may be in memory now
    options: SegmentOptions  # may name a stain now


def choose_model(model: Model | str | os.PathLike[str], image: Image, options: SegmentOptions) -> Choice:
    """Model to segment an image with.

    `auto` means `nuclei-he` for a brightfield picture in red, green and blue; `nuclei` on the haematoxylin channel
    where much of it is brown of DAB; and `nuclei` for everything else, such as single channels. Other names and folders
    are loaded.
    """
    if isinstance(model, Model):
        return Choice(model, image, options)
    if model != AUTO:
        return Choice(load_model(model), image, options)
    if options.stain is not None or options.channels or not may_be_stained(image.channel_names, image.dtype):
        return Choice(_bundled(ANYTHING_ELSE), image, options)
    if len(image.level_shapes) == 1 and int(np.prod(image.shape)) * image.dtype.itemsize <= _KEPT_BYTES:
        image = image.in_memory()
    pixels = _sample(image)
    stains = stains_of(pixels, image.channel_names)
    if not stains:
        return Choice(_bundled(ANYTHING_ELSE), image, options)
    if "dab" in stains:
        return Choice(_bundled(ANYTHING_ELSE), image, replace(options, stain="haematoxylin"))
    return Choice(_bundled(STAINED_TISSUE), image, options)


def is_merged_fluorescence(image: Image) -> bool:
    """Whether red, green and blue of 8 bits are no brightfield picture, and differ."""
    if image.channel_names != RGB_NAMES or not may_be_stained(image.channel_names, image.dtype):
        return False
    pixels = _sample(image)
    is_grey = np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])
    return not is_grey and not stains_of(pixels, image.channel_names)


def _sample(image: Image) -> NDArray[np.uint8]:
    """Pixels (3,N,M) of a whole level, or of blocks spread evenly over it."""
    level = max((i for i, shape in enumerate(image.level_shapes) if max(shape) >= _SIDE_PX), default=0)
    height, width = image.level_shapes[level]
    if height * width <= _WHOLE_PX:
        return image.read(level=level)
    corners = [np.linspace(0, max(0, side - _BLOCK_PX), _BLOCKS).astype(int).tolist() for side in (height, width)]
    tall, wide = min(_BLOCK_PX, height), min(_BLOCK_PX, width)
    with image.regions() as regions:
        blocks = [regions.read((y, x, tall, wide), level, range(3)) for y in corners[0] for x in corners[1]]
    return np.concatenate(blocks, axis=1)


@cache
def _bundled(name: str) -> Model:
    return load_model(name)
