"""The result of a slide: objects read from its folder tile by tile, never held whole."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.objects import Objects
from cytoseed.results.record import fingerprint
from cytoseed.results.result import Block
from cytoseed.results.store import Kept, Store

_HELD_TILES = 128  # objects of so many tiles are kept for neighbouring regions: some hundred MB at most


class KeptObjects:
    """The objects of a store that count, with their ids.

    Parameters
    ----------
    store : Store
        Where the tiles' objects lie.
    kept : Kept
        Which of them count.
    """

    def __init__(self, store: Store, kept: Kept) -> None:
        self.kept = kept
        self._store = store
        self._load = functools.lru_cache(_HELD_TILES)(self._read)

    def tiles(self, box_yxhw: Sequence[int] | None = None) -> list[int]:
        """List the tiles that have objects, and where a box of the image is given, may have some in it."""
        wanted = np.diff(self.kept.first) > 0
        if box_yxhw is not None:
            begin, size = self.kept.tile_box_yxhw[:, :2], self.kept.tile_box_yxhw[:, 2:]
            wanted &= (begin < np.add(box_yxhw[:2], box_yxhw[2:])).all(axis=1)
            wanted &= (begin + size > np.array(box_yxhw[:2])).all(axis=1)
        found: list[int] = np.flatnonzero(wanted).tolist()
        return found

    def of(self, tile: int) -> tuple[Objects, NDArray[np.int64]]:
        """Give a tile's objects as stitching left them, and their ids."""
        return self._load(tile)

    def labels_in(self, targets: int, box_yxhw: Sequence[int]) -> NDArray[np.int32]:
        """Give the labels (targets,h,w) of a box of the image."""
        labels = np.zeros((targets, *box_yxhw[2:]), np.int32)
        for tile in self.tiles(box_yxhw):
            objects, ids = self.of(tile)
            objects.paint(labels, box_yxhw, ids)
        return labels

    def _read(self, tile: int) -> tuple[Objects, NDArray[np.int64]]:
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
        for tile in self.found.tiles():
            objects, ids = self.found.of(tile)
            box = self.found.kept.tile_box_yxhw[tile].tolist()
            labels = np.zeros((len(self.targets), *box[2:]), np.int32)
            objects.paint(labels, box, ids)
            table = objects.table()
            if len(self.targets) > 1:
                table.insert(0, "target", [self.targets[target] for target in objects.target])
            table.insert(0, "id", ids.astype(np.int32))
            yield Block(box[0], box[1], labels, table)

    def labels_in(self, box_yxhw: Sequence[int]) -> NDArray[np.int32]:
        """Give the labels (T,h,w) of a region of the image."""
        return self.found.labels_in(len(self.targets), box_yxhw)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """Give the image (C,h,w) and its labels (T,h,w) at a size of at most `largest_px` a side."""
        picture, step = self.look(largest_px)
        labels = np.zeros((len(self.targets), *picture.shape[1:]), np.int32)
        for tile in self.found.tiles():
            _paint_reduced(labels, *self.found.of(tile), step)
        return picture, labels


def _paint_reduced(labels: NDArray[np.int32], objects: Objects, ids: NDArray[np.int64], step: float) -> None:
    """Write ids where the centre of a px of a reduced image lies in an object."""
    height, width = labels.shape[1:]
    for index, (top, left, tall, wide) in enumerate(objects.box_yxhw.tolist()):
        rows = np.arange(int(top / step), min(int((top + tall) / step) + 1, height))
        columns = np.arange(int(left / step), min(int((left + wide) / step) + 1, width))
        y, x = ((rows + 0.5) * step).astype(np.int64) - top, ((columns + 0.5) * step).astype(np.int64) - left
        rows, y = rows[(y >= 0) & (y < tall)], y[(y >= 0) & (y < tall)]
        columns, x = columns[(x >= 0) & (x < wide)], x[(x >= 0) & (x < wide)]
        if len(rows) and len(columns):
            part = labels[objects.target[index], rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            part[objects.mask(index)[y][:, x] & (part == 0)] = ids[index]
