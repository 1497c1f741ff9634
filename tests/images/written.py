"""What the tests of the readers share: files made of known pixels, and the comparison of every region with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytoseed.images import Box, Image, ImageFileError

T = TypeVar("T")

APERIO = "Aperio Image Library v11.2.1\n{w}x{h} [0,0 {w}x{h}] (64x64) JPEG/RGB Q=30|AppMag = 20|MPP = 0.4990"


def noise(*shape: int, dtype: Any = np.uint8, seed: int = 7) -> NDArray[Any]:
    """Pixels of which each differs from its neighbours; floats and signed integers below 0 too."""
    values = np.random.default_rng(seed).integers(0, 2 if dtype is bool else 200, shape)
    return (values - (100 if np.dtype(dtype).kind in "if" else 0)).astype(dtype)


def halves(pixels: NDArray[Any], count: int, step: int = 2) -> list[NDArray[Any]]:
    """A pyramid (C,H,W) by leaving pixels out; sides are rounded down, as scanners do."""
    levels = [pixels]
    for _ in range(count - 1):
        last = levels[-1]
        levels.append(last[:, : last.shape[1] // step * step : step, : last.shape[2] // step * step : step])
    return levels


def write_slide(file: Path, levels: Sequence[NDArray[Any]], aperio: bool = True, **options: Any) -> Path:
    """Write levels (3,H,W) as pages of their own, with the thumbnail that Aperio puts after the first."""
    settings: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None} | options
    text = APERIO.format(h=levels[0].shape[1], w=levels[0].shape[2]) if aperio else None
    with tifffile.TiffWriter(file) as writer:
        for number, level in enumerate(levels):
            kind = 0 if aperio or number == 0 else 1
            writer.write(np.moveaxis(level, 0, 2).copy(), description=text, subfiletype=kind, **settings)
            if aperio and number == 0:
                writer.write(noise(30, 40, 3), photometric="rgb", description=text, metadata=None, rowsperstrip=30)
    return file


def assert_regions(image: Image, levels: Sequence[NDArray[Any]], examples: int = 40) -> None:
    """Compare every level, whole and in boxes, with chosen channels and from several threads, with what was written."""
    assert image.shape == levels[0].shape
    assert image.level_shapes == tuple(level.shape[1:] for level in levels)
    assert image.dtype == levels[0].dtype
    channels = image.shape[0]

    def equal(found: NDArray[Any], expected: NDArray[Any]) -> None:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert found.flags.c_contiguous
        assert found.flags.writeable

    def crop(level: int, box: Box, chosen: Sequence[int] | None) -> NDArray[Any]:
        top, left, height, width = box
        part = levels[level][:, top : top + height, left : left + width]
        return part if chosen is None else part[list(chosen)]

    with image.regions() as regions:

        @settings(max_examples=examples)
        @given(st.data())
        def boxes(data: st.DataObject) -> None:
            level = data.draw(st.integers(0, len(levels) - 1))
            box = _box(data, *levels[level].shape[1:])
            chosen = data.draw(st.none() | st.lists(st.integers(0, channels - 1), min_size=1, max_size=4))
            found = regions.read(box, level, chosen)
            equal(found, crop(level, box, chosen))
            found[:] = 0  # the caller's own: what is read later is not changed by it

        boxes()
        many = [(level, box) for level, whole in enumerate(levels) for box in _grid(*whole.shape[1:])]
        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(lambda job: regions.read(job[1], job[0]), many))
        for (level, box), part in zip(many, parts, strict=True):
            equal(part, crop(level, box, None))
        for _ in range(2):
            for number, level in enumerate(levels):
                found = regions.read((0, 0, *level.shape[1:]), number)
                equal(found, level)
                found[:] = 0
    for number, level in enumerate(levels):
        equal(image.read(level=number), level)


def attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """What a call gives and no trouble, or nothing and what the file's error says."""
    try:
        return call(), ""
    except ImageFileError as error:
        return None, str(error)


def _box(data: st.DataObject, rows: int, columns: int) -> Box:
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    return top, left, data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))


def _grid(rows: int, columns: int, step: int = 37) -> list[Box]:
    places = itertools.product(range(0, rows, step), range(0, columns, step))
    return [(top, left, min(step, rows - top), min(step, columns - left)) for top, left in places]
