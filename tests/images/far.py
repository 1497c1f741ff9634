"""What the tests of images far away share: the comparison of an image there with the same one here."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import numpy as np

from cytoseed.images import Box, Image, Remote

KNOWN = ("shape", "dtype", "channel_names", "pixel_size_yx_um", "pixel_size_source", "level_shapes", "damage")


def assert_same(far: Image, near: Image, boxes: int = 6) -> None:
    """Compare what is known of two images, and the pixels of boxes at every level, read by several threads."""
    assert isinstance(far.path, Remote)
    assert {name: getattr(far, name) for name in KNOWN} == {name: getattr(near, name) for name in KNOWN}
    assert far.identity() == near.identity()
    rng = np.random.default_rng(5)
    jobs: list[tuple[int, Box]] = []
    for level, (rows, columns) in enumerate(near.level_shapes):
        jobs.append((level, (0, 0, rows, columns)))
        for _ in range(boxes):
            height, width = (int(rng.integers(1, side + 1)) for side in (rows, columns))
            jobs.append(
                (level, (int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1)), height, width))
            )
    with far.regions() as there, near.regions() as here, ThreadPoolExecutor(4) as pool:
        for (level, box), found in zip(jobs, pool.map(lambda job: there.read(job[1], job[0]), jobs), strict=True):
            np.testing.assert_array_equal(found, here.read(box, level), err_msg=f"level {level}, box {box}")


def gone(url: str) -> None:
    """Delete what is at a URL."""
    fs, path = fsspec.url_to_fs(url)
    fs.rm(path, recursive=True)


def counted(monkeypatch: Any) -> list[list[int]]:
    """Numbers of bytes of all parts of files that are asked for from now on; together what is asked for at once."""
    asked: list[list[int]] = []
    original: Callable[..., list[bytes]] = Remote.pieces

    def pieces(self: Remote, extents: Any) -> list[bytes]:
        asked.append([count for _, count in extents])
        return original(self, extents)

    monkeypatch.setattr(Remote, "pieces", pieces)
    return asked
