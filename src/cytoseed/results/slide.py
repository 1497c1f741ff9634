"""The result of a slide: objects read from its folder tile by tile, never held whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.parts import Part, Parts, block_of
from cytoseed.results.record import fingerprint
from cytoseed.results.result import Block
from cytoseed.results.store import Kept, Store


class KeptObjects(Parts):
    """The objects of a store that count, with their ids; a part is a tile.

    Parameters
    ----------
    store : Store
        Where the tiles' objects lie.
    kept : Kept
        Which of them count.
    """

    def __init__(self, store: Store, kept: Kept) -> None:
        super().__init__(kept.tile_box_yxhw, self._read)
        self.kept = kept
        self._store = store

    def _read(self, tile: int) -> Part:
        """Read a tile's objects as stitching left them."""
        first, last = self.kept.first[tile : tile + 2].tolist()
        objects = self._store.read(tile).take(self.kept.place[first:last])
        changed = np.flatnonzero((self.kept.changed_at >= first) & (self.kept.changed_at < last))
        if len(changed):
            objects = objects.replaced(self.kept.changed_at[changed] - first, self.kept.changed.take(changed))
        return objects, self.kept.id[first:last]


@dataclass(frozen=True, eq=False)
class SlideResult:
    """Objects found in an image of any size; a `Result`, as `Segmentation` is."""

    found: KeptObjects = field(repr=False)
    """The objects."""
    shape: tuple[int, int, int]
    """(C,H,W) of the image."""
    targets: tuple[str, ...]
    """What each label plane shows, in order."""
    channel_names: tuple[str, ...]
    """Name of each channel."""
    pixel_size_um: float | None
    """Side of a pixel in µm; None where it is not known."""
    source: str
    """Path of the image's file, or `array`."""
    input: Mapping[str, Any] = field(repr=False)
    """What identifies the image."""
    settings: Mapping[str, Any] = field(repr=False)
    """What made the objects."""
    look: Callable[[int], tuple[NDArray[Any], float]] = field(repr=False)
    """Gives the image (C,h,w) at a largest side, and how many px of full resolution one of its px is wide."""
    stains: tuple[str, ...] = ()
    """Stains whose optical density is measured."""
    failed: tuple[str, ...] = ()
    """The tiles that could not be made, a line each."""

    @property
    def count(self) -> int:
        """How many objects there are; a cell and its nucleus count once."""
        return int(self.found.kept.id.max(initial=0))

    def __len__(self) -> int:
        return self.count

    @cached_property
    def fingerprint(self) -> str:
        """A text that is the same for the same source's name and the same settings; ids are derived from it."""
        return fingerprint(self.source, self.settings)

    def blocks(self) -> Iterator[Block]:
        """Give the objects, one tile after the other."""
        for tile in self.found.filled():
            yield block_of(self.found.of(tile), self.targets)

    def labels_in(self, box_yxhw: Sequence[int]) -> NDArray[np.int32]:
        """Give the labels (T,h,w) of a region of the image."""
        return self.found.labels_in(len(self.targets), box_yxhw)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Give the image (C,h,w) and its labels (T,h,w) at a size of at most `largest_px` a side."""
        picture, step = self.look(largest_px)
        rows, columns = (((np.arange(side) + 0.5) * step).astype(np.int64) for side in picture.shape[1:])
        return picture, self.found.labels_at(len(self.targets), rows, columns)
