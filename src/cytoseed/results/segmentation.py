"""What a segmentation is: labels, the image they were found in, and how they came about."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.paths import as_path
from cytoseed.results.record import fingerprint, input_of
from cytoseed.results.reduced import centres, fitted, reduce_image
from cytoseed.results.result import Block, Box
from cytoseed.results.stain import stains_of

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_FORMATS = ("labels", "geojson", "table", "overlay", "objects")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Objects found in one image, whole and in memory; what `cytoseed.results.Result` asks for.

    Raises
    ------
    TypeError
        If the labels are not integers.
    ValueError
        If labels, image, targets and channel names do not belong together.
    """

    labels: NDArray[np.int32] = field(repr=False)
    """Label image (H,W) where there is one target, (T,H,W) where there are two. 0 is background. A nucleus
    and its cell have the same id."""
    image: NDArray[Any] = field(repr=False)
    """The image (C,H,W) as it was given: all channels, values as stored."""
    targets: tuple[str, ...] = ("nuclei",)
    """What each label plane shows, in order."""
    channel_names: tuple[str, ...] = ()
    """Name of each of the C channels; empty: `channel 0`, `channel 1`, ..."""
    pixel_size_um: float | None = None
    """Side of a pixel in µm; None where it is not known."""
    source: str = "array"
    """Path of the image's file, or `array`."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What made the labels, in values that JSON can hold: the model's name and version, the options."""

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        if self.labels.dtype.kind not in "iu":
            raise TypeError(f"labels have values of type {self.labels.dtype}; they must be integers, such as int32")
        if self.image.ndim != 3:
            raise ValueError(f"image has shape {self.image.shape}; its axes must be (C,H,W)")
        sides = self.image.shape[1:]
        expected = sides if len(self.targets) == 1 else (len(self.targets), *sides)
        if self.labels.shape != expected:
            raise ValueError(
                f"labels have shape {self.labels.shape}; for an image of {sides} and targets {self.targets} "
                f"it must be {expected}"
            )
        if self.labels.size and self.labels.min() < 0:
            raise ValueError(f"labels go down to {self.labels.min()}; they must be 0 for background, else 1 or more")
        object.__setattr__(self, "labels", self.labels.astype(np.int32, copy=False))
        if not self.channel_names:
            object.__setattr__(self, "channel_names", tuple(f"channel {index}" for index in range(len(self.image))))
        if len(self.channel_names) != len(self.image):
            raise ValueError(f"channel_names are {self.channel_names}; the image has {len(self.image)} channels")

    @property
    def planes(self) -> NDArray[np.int32]:
        """The labels with an axis for the targets, (T,H,W), however many there are."""
        return self.labels.reshape(-1, *self.labels.shape[-2:])

    @cached_property
    def count(self) -> int:
        """How many objects there are; a cell and its nucleus count once."""
        return int(np.count_nonzero(np.bincount(self.labels.ravel())[1:]))

    def __len__(self) -> int:
        return self.count

    @cached_property
    def fingerprint(self) -> str:
        """A text that is the same for the same source's name and the same settings; ids are derived from it."""
        return fingerprint(self.source, self.settings)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C,H,W) of the image, in px."""
        channels, height, width = self.image.shape
        return channels, height, width

    @cached_property
    def input(self) -> Mapping[str, Any]:
        """What identifies the image: its `name`, `shape`, `dtype`, and the `sha256` of its pixels."""
        return input_of(self.image, self.source)

    @cached_property
    def stains(self) -> tuple[str, ...]:
        """Stains whose optical density is measured: see `cytoseed.results.stain.stains_of`."""
        return stains_of(self.image, self.channel_names)

    @property
    def failed(self) -> tuple[str, ...]:
        """The parts of the image that could not be segmented: none."""
        return ()

    def blocks(self) -> Iterator[Block]:
        """Give everything, in one block."""
        yield Block(0, 0, self.planes, self.table)

    def labels_in(self, box_yxhw: Box) -> NDArray[np.int32]:
        """Give the labels (T,h,w) of a region: a view of `labels`.

        Raises
        ------
        ValueError
            If the region does not lie inside the image.
        """
        top, left, height, width = box_yxhw
        sides = self.shape[1:]
        if min(box_yxhw) < 0 or top + height > sides[0] or left + width > sides[1]:
            raise ValueError(f"box_yxhw is {box_yxhw}; it must lie inside the image of {sides[0]} x {sides[1]} px")
        return self.planes[:, top : top + height, left : left + width]

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Give the image (C,h,w) and its labels (T,h,w) at a size of at most `largest_px` a side.

        Where the image is larger, its pixels are means over areas, and the labels those at their centres.

        Raises
        ------
        ValueError
            If `largest_px` is not 1 or more.
        """
        sides = self.shape[1:]
        small = fitted(sides, largest_px)
        if small == sides:
            return self.image, self.planes
        rows, columns = map(centres, sides, small)
        return reduce_image(self.image, *small), self.planes[:, rows[:, None], columns]

    @cached_property
    def table(self) -> pd.DataFrame:
        """Measurements, one row an object: see `cytoseed.results.table.measure`."""
        from cytoseed.results.table import measure

        return measure(self)

    def save(
        self, folder: str | os.PathLike[str], formats: Sequence[str] = DEFAULT_FORMATS, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Write the result into a folder, each file whole or not at all, and beside them what made them.

        Files are called after the source: `cells.tif` gives `cells.labels.tif`, `cells.geojson`, `cells.csv`,
        `cells.overlay.png`, `cells.objects.zip` and the record `cells.cytoseed.json`. Where the folder holds the
        result of the same pixels, settings and version, only the formats that are not there yet are written. From
        `cells.objects.zip` the other formats can be made later: see `cytoseed.results.open_result`.

        Parameters
        ----------
        folder : str or path
            Made if it is not there; also a URL such as `s3://bucket/results`.
        formats : sequence of str
            Names from `cytoseed.results.WRITERS`.
        overwrite : bool
            Write everything anew, also over files that another input, other settings or another program made.

        Returns
        -------
        tuple of path
            The files of the formats asked for, and the record, last.

        Raises
        ------
        ValueError
            If a format is not known, or one cannot hold the result: then the others were written.
        ModuleNotFoundError
            If a format needs a package that is not installed.
        FileExistsError
            If files of this name were made otherwise and `overwrite` is false; the message shows how.
        BlockingIOError
            If another run is writing results of this image into the folder.
        OSError
            If the folder cannot be written to.
        """
        from cytoseed.results.save import save

        return save(self, as_path(folder), formats, overwrite)
