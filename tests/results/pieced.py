"""Results that give their objects in many blocks, as a slide's does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results import Block, Segmentation


@dataclass
class Pieced:
    """A segmentation in blocks of a few objects each, which remembers what regions it was asked for."""

    whole: Segmentation
    objects: int = 1
    failed: tuple[str, ...] = ()
    asked_yxhw: list[tuple[int, int, int, int]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name in ("shape", "targets", "channel_names", "pixel_size_um", "source", "input", "settings"):
            return getattr(self.whole, name)
        if name in ("fingerprint", "count", "overview", "stains"):
            return getattr(self.whole, name)
        raise AttributeError(name)  # a writer asks for nothing else

    def blocks(self) -> Iterator[Block]:
        planes, table = self.whole.planes, self.whole.table
        ids = np.unique(planes[planes > 0])
        for start in range(0, len(ids), self.objects):
            chosen = ids[start : start + self.objects]
            inside = np.isin(planes, chosen)
            rows, columns = (np.flatnonzero(inside.any(axis=axes)) for axes in ((0, 2), (0, 1)))
            crop = np.s_[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            labels = np.where(inside, planes, 0)[crop]
            yield Block(int(rows[0]), int(columns[0]), labels, table[table["id"].isin(chosen)])

    def labels_in(self, box_yxhw: tuple[int, int, int, int]) -> NDArray[np.int32]:
        self.asked_yxhw.append(box_yxhw)
        return self.whole.labels_in(box_yxhw)


@dataclass
class Nothing:
    """A slide of any size without objects."""

    shape: tuple[int, int, int]
    count: int = 0
    targets: tuple[str, ...] = ("nuclei",)
    channel_names: tuple[str, ...] = ("red", "green", "blue")
    pixel_size_um: float | None = 0.25
    stains: tuple[str, ...] = ()
    source: str = "empty.svs"
    fingerprint: str = "empty"
    input: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    failed: tuple[str, ...] = ()

    def blocks(self) -> Iterator[Block]:
        return iter(())

    def labels_in(self, box_yxhw: tuple[int, int, int, int]) -> NDArray[np.int32]:
        return np.zeros((len(self.targets), *box_yxhw[2:]), np.int32)

    def overview(self, largest_px: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        height, width = (max(1, side * largest_px // max(self.shape)) for side in self.shape[1:])
        return np.full((self.shape[0], height, width), 240, np.uint8), np.zeros((1, height, width), np.int32)
