"""The side of a result that writers read: its facts and its objects, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.blocks import Block
from cytoseed.results.contents import Contents
from cytoseed.results.facts import fingerprint
from cytoseed.results.objects import Box

_AVERAGED = ("uint8", "uint16", "int16", "float32", "float64")  # dtypes that OpenCV averages


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class ResultView:
    """Facts and objects of a result, of an image of any size; never held whole."""

    contents: Contents
    """Where the objects come from."""
    shape: tuple[int, int, int]
    """Shape (C,H,W) of the image at full resolution, in px."""
    targets: tuple[str, ...]
    """Names of the T label planes, `nuclei` or `cells`, in order."""
    channel_names: tuple[str, ...]
    """Name of each of the C channels."""
    pixel_size_um: float | None
    """Side of a pixel in µm; None where it is unknown."""
    source: str
    """Path of the image's file, or `array`."""
    settings: Mapping[str, Any]
    """Settings that made the objects, in values that JSON can hold: the model's name and version, the options."""
    find_input: Callable[[], Mapping[str, Any]]
    """Gives `input`, on first use."""
    find_stains: Callable[[], tuple[str, ...]]
    """Gives `stains`, on first use."""
    thumbnail: Callable[[int], tuple[NDArray[Any], float]]
    """Given a largest side in px, gives the image (C,h,w), smaller or whole, and the width of its px in px of the
    image."""
    failed: tuple[str, ...] = ()
    """Parts of the image that could not be segmented, one line each."""
    version: str = field(default_factory=lambda: metadata.version("cytoseed"))
    """Version of cytoseed that found the objects."""
    was_in_memory: bool = False
    """True where the image was segmented in memory, not tile by tile."""
    path: Path | None = None
    """The stored result's file that the objects are read from; None for others."""

    @cached_property
    def input(self) -> Mapping[str, Any]:
        """Identity of the image, in values that JSON can hold: its `name`, `shape`, `dtype`, a digest."""
        return self.find_input()

    @cached_property
    def stains(self) -> tuple[str, ...]:
        """Stains whose optical density is measured, of `cytoseed.settings.STAINS`; only in brightfield images."""
        return self.find_stains()

    @cached_property
    def fingerprint(self) -> str:
        """A text that is the same for the same source name and settings; ids of objects are derived from it."""
        return fingerprint(self.source, self.settings)

    @property
    def count(self) -> int:
        """Number of objects; a cell and its nucleus count once."""
        return self.contents.count

    def blocks(self) -> Iterator[Block]:
        """All objects, some at a time, in the order of their ids."""
        return self.contents.blocks()

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Labels (T,h,w) of a region; not to be changed.

        Raises
        ------
        ValueError
            If the region does not lie inside the image.
        """
        top, left, height, width = box_yxhw
        sides = self.shape[1:]
        if min(box_yxhw) < 0 or top + height > sides[0] or left + width > sides[1]:
            raise ValueError(f"box_yxhw is {box_yxhw}; it must lie inside the image of {sides[0]} x {sides[1]} px")
        return self.contents.labels_in(box_yxhw)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Image (C,h,w) and labels (T,h,w) at a size of at most `largest_px` per side.

        Pixels of a smaller image are means over areas; labels are those at their centres.

        Raises
        ------
        FileNotFoundError
            If the image of a stored result is not found.
        ValueError
            If it is another image, or `largest_px` is not 1 or more.
        """
        sides = self.shape[1:]
        small = _fitted(sides, largest_px)
        pixels, step = self.thumbnail(largest_px)
        if pixels.shape[1:] == sides == small:
            return pixels, self.contents.labels_in((0, 0, *sides))
        if pixels.shape[1:] == sides:
            return _shrunk(pixels, *small), self.contents.labels_at(*map(_centres, sides, small))
        rows, columns = (((np.arange(side) + 0.5) * step).astype(np.int64) for side in pixels.shape[1:])
        return pixels, self.contents.labels_at(rows, columns)


def _fitted(sides_px: Sequence[int], largest_px: int) -> tuple[int, int]:
    """Height and width of an image made smaller, where it has to be, to at most `largest_px` per side."""
    if largest_px < 1:
        raise ValueError(f"largest_px is {largest_px}; it must be 1 or more")
    height, width = sides_px
    largest = max(height, width)
    if largest <= largest_px:
        return height, width
    return max(1, round(height * largest_px / largest)), max(1, round(width * largest_px / largest))


def _shrunk(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """An image (C,H,W) shrunk by means over areas; dtypes that cannot be averaged become float32."""
    import cv2

    small = np.empty((len(image), height, width), image.dtype if image.dtype.name in _AVERAGED else np.float32)
    for index, channel in enumerate(image):
        small[index] = cv2.resize(
            channel.astype(small.dtype, copy=False), (width, height), interpolation=cv2.INTER_AREA
        )
    return small


def _centres(large: int, small: int) -> NDArray[np.int64]:
    """For each of `small` pixels along an axis, the one of `large` in which its centre lies."""
    return (2 * np.arange(small) + 1) * large // (2 * small)
