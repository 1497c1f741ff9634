"""What every writer takes: the result of an image of any size, given piece by piece and never held whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Box: TypeAlias = tuple[int, int, int, int]
"""Row and column of a region's first pixel in the image, then its height and width (y, x, height, width), in px."""


class Block(NamedTuple):
    """Some of a result's objects, of consecutive ids; each is whole and in exactly one block.

    A cell and the nucleus of its id are in the same block.
    """

    top: int
    """Row of the crop's first pixel in the image."""
    left: int
    """Column of the crop's first pixel in the image."""
    labels: NDArray[np.int32]
    """Labels (T,h,w) of the crop, a plane for each target: the final ids of this block's objects, and 0 elsewhere, also
    where objects of other blocks lie."""
    table: pd.DataFrame
    """Measurements, one row an object: see `cytoseed.results.table.measure`."""


class Result(Protocol):
    """Objects found in one image.

    `Segmentation` is one, whole and in memory. Ids are 1 or more, the same in `blocks`, `labels_in` and `overview`.
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C,H,W) of the image at full resolution, in px."""

    @property
    def targets(self) -> tuple[str, ...]:
        """What each of the T label planes shows, in order."""

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Name of each of the C channels."""

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel in µm; None where it is not known."""

    @property
    def stains(self) -> tuple[str, ...]:
        """Stains whose optical density is measured, of `cytoseed.settings.STAINS`; none but in brightfield."""

    @property
    def source(self) -> str:
        """Path of the image's file, or `array`."""

    @property
    def input(self) -> Mapping[str, Any]:
        """What identifies the image, in values that JSON can hold: its `name`, `shape`, `dtype`, a digest."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What made the objects, in values that JSON can hold: the model's name and version, the options."""

    @property
    def fingerprint(self) -> str:
        """A text that is the same for the same source's name and the same settings; ids are derived from it."""

    @property
    def count(self) -> int:
        """How many objects there are; a cell and its nucleus count once."""

    @property
    def failed(self) -> tuple[str, ...]:
        """The parts of the image that could not be segmented, a line each; mostly none."""

    def blocks(self) -> Iterator[Block]:
        """Give all objects, in the order of their ids."""

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Give the labels (T,h,w) of a region that lies inside the image; they are not to be changed."""

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Give the image (C,h,w) and its labels (T,h,w) at a size of at most `largest_px` a side.

        Where the image is no larger, both are as they are. The image keeps its type where that can hold means
        of its values; labels are those at the centres of the larger pixels.
        """
