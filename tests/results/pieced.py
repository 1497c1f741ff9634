"""Results to write: changed ones, ones that give their objects in many blocks, as a slide's does, and empty ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cytoseed.results import Block, Result, ResultView
from cytoseed.results.view import Parts

_FACTS = ("targets", "channel_names", "pixel_size_um", "source", "settings")


def pixels_of(result: ResultView) -> NDArray[Any]:
    """The image (C,H,W) of a result in memory."""
    return result.thumbnail(1 << 30)[0]


def planes_of(result: ResultView) -> NDArray[np.int32]:
    """The labels (T,H,W) of a result."""
    return result.labels_in((0, 0, *result.shape[1:]))


def changed(result: Result, **others: Any) -> Result:
    """A result in memory with other labels, another image or other facts."""
    facts = {name: getattr(result, name) for name in _FACTS} | {"labels": result.labels, "image": pixels_of(result)}
    facts |= others
    return Result.from_labels(facts.pop("labels"), facts.pop("image"), **facts)


def blank(labels: NDArray[np.int32]) -> Result:
    """Labels (H,W), or (2,H,W) of two targets, of an image of which nothing is known."""
    targets = ("nuclei", "cells") if labels.ndim == 3 else ("nuclei",)
    return Result.from_labels(labels, np.zeros((1, *labels.shape[-2:]), np.uint8), targets=targets)


labellings = hnp.arrays(
    np.int32, st.tuples(st.sampled_from([1, 2]), st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)
)


def files_of(path: Path) -> dict[str, bytes]:
    """Bytes of a file, or of each file in a folder, by its place in it."""
    files = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


class Pieced(ResultView):
    """A result in blocks of a few objects each, which remembers what regions it was asked for."""

    whole: Result
    objects: int
    asked_yxhw: list[tuple[int, int, int, int]]

    def __init__(self, whole: Result, objects: int = 1, failed: tuple[str, ...] = ()) -> None:
        facts = {field.name: getattr(whole, field.name) for field in dataclasses.fields(ResultView)}
        super().__init__(**{**facts, "failed": failed, "was_in_memory": False})
        self.__dict__.update(whole=whole, objects=objects, asked_yxhw=[])

    def blocks(self) -> Iterator[Block]:
        planes, table = planes_of(self.whole), self.whole.table
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


class Nothing(ResultView):
    """A slide of any size without objects; `count` says how many there would be."""

    def __init__(self, shape: tuple[int, int, int], count: int = 0, **others: Any) -> None:
        targets = others.pop("targets", ("nuclei",))

        def thumbnail(largest_px: int) -> tuple[NDArray[Any], float]:
            step = max(1, max(shape[1:]) / largest_px)
            return np.full((shape[0], *(max(1, int(side / step)) for side in shape[1:])), 240, np.uint8), step

        def no_part(number: int) -> Any:
            raise AssertionError(number)

        super().__init__(
            contents=Parts(np.zeros((0, 4), np.int64), no_part, targets, count),
            shape=shape,
            targets=targets,
            channel_names=("red", "green", "blue"),
            pixel_size_um=0.25,
            source="empty.svs",
            settings={},
            find_input=dict,
            find_stains=tuple,
            thumbnail=thumbnail,
        )
        self.__dict__.update(others)

    def labels_in(self, box_yxhw: tuple[int, int, int, int]) -> NDArray[np.int32]:
        return np.broadcast_to(np.int32(0), (len(self.targets), *box_yxhw[2:]))  # takes no memory
