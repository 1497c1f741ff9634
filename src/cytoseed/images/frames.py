"""Planes of z-stacks and time series, each an image with a name such as `t02_z05`, and projections along z."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.image import Image
from cytoseed.images.regions import STACKS, Box, ImageFileError, Layout, Reader, Stack

ALL = "all"
PROJECTIONS = ("max", "mean")
_NAME = re.compile(r"(?:(?P<series>.*)_)??(?:t(?P<time>\d+))?(?:(?:(?<=\d)_)?z(?P<z>\d+|max|mean))?", re.IGNORECASE)


class FrameName(NamedTuple):
    """Parts of a name such as `scan_t02_z05`."""

    series: str | None
    z: str | None
    time: str | None


def parse_name(name: str) -> FrameName | None:
    """Parts of the name of a plane; None for other names."""
    found = _NAME.fullmatch(name)
    if found is None or (found["z"] is None and found["time"] is None):
        return None
    return FrameName(found["series"], found["z"], found["time"])


def choose_frames(image: Image, z: str | int | None = None, time: str | int | None = None) -> list[Image]:
    """Planes of an image, time by time: `z` is a number from 0, `max`, `mean` or `all`; `time` a number or `all`.

    An axis of length 1 needs no choice. Raises `ImageFileError` if one is missing or does not exist.
    """
    shape = (1, 1) if image.stack is None else image.stack.planes.shape[:2]
    times, depths = _numbers(image, "t", time, shape[0]), _numbers(image, "z", z, shape[1])
    if image.stack is None:
        return [image]
    return [_frame(image, image.stack, at, depth) for at in times for depth in depths]


def _numbers(image: Image, axis: str, wanted: str | int | None, count: int) -> Sequence[int | str]:
    """Numbers along an axis, or the name of a projection."""
    flag = "z" if axis == "z" else "time"
    choices = "N, max, mean or all" if axis == "z" else "N or all"
    if wanted is None and count > 1:
        raise ImageFileError(
            f"{image.source}: holds {count} {STACKS[axis]}; choose with --{flag} {choices} ({flag}= in Python), "
            f"N from 0 to {count - 1}"
        )
    if wanted is None or wanted == ALL:
        return range(count)
    if axis == "z" and wanted in PROJECTIONS:
        return [str(wanted)] if count > 1 else [0]
    if str(wanted).isdecimal() and int(wanted) < count:
        return [int(wanted)]
    raise ImageFileError(
        f"{image.source}: {flag} is {wanted!r}, and it holds {count} {STACKS[axis]}; give {choices}, N from 0 to "
        f"{count - 1}"
    )


def _frame(image: Image, stack: Stack, time: int | str, z: int | str) -> Image:
    """One plane, or a projection, as an image."""
    of_time = stack.planes[int(time)]  # (Z, C)
    planes = of_time if isinstance(z, str) else of_time[[z]]
    parts = [] if image.series is None else [image.series]
    for letter, number, count in (("t", time, stack.planes.shape[0]), ("z", z, stack.planes.shape[1])):
        if count > 1:
            parts.append(f"{letter}{number}" if isinstance(number, str) else f"{letter}{number:0{len(str(count - 1))}}")
    shape = (planes.shape[1], *image.shape[1:])
    connect = partial(_connect, image.connect, planes, z if isinstance(z, str) else "")
    names = stack.channel_names
    return replace(image, shape=shape, channel_names=names, connect=connect, stack=None, series="_".join(parts) or None)


@contextmanager
def _connect(
    connect: Callable[[], AbstractContextManager[Reader]], planes: NDArray[np.int64], projection: str
) -> Iterator[Reader]:
    with connect() as reader:
        yield _FrameReader(reader, planes, projection)


class _FrameReader:
    """Regions of some planes (Z, C) of a stack, or of their projection along z."""

    def __init__(self, reader: Reader, planes: NDArray[np.int64], projection: str) -> None:
        self._reader, self._planes, self._projection = reader, planes, projection
        whole = reader.layout
        self.layout = Layout((planes.shape[1], *whole.shape[1:]), whole.dtype, whole.level_shapes)

    def read(self, box_yxhw: Box, level: int, channels: Sequence[int]) -> NDArray[Any]:
        chosen = self._planes[:, list(channels)].tolist()
        first = self._reader.read(box_yxhw, level, chosen[0])
        if len(chosen) == 1:
            return first
        total = first.astype(np.float64) if self._projection == "mean" else first
        for planes in chosen[1:]:  # one depth at a time in memory
            values = self._reader.read(box_yxhw, level, planes)
            if self._projection == "mean":
                total += values
            else:
                np.maximum(total, values, out=total)
        if self._projection != "mean":
            return total
        mean = total / len(chosen)
        return (mean if self.layout.dtype.kind == "f" else np.rint(mean)).astype(self.layout.dtype)
