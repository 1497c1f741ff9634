"""Small results to write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cytoseed.results import WRITERS, Result, Writer


@pytest.fixture
def nuclei() -> Result:
    """Four nuclei on 20 x 30 px: touching, of one pixel, with a hole, in two pieces; RGB; 0.25 µm/px."""
    labels = np.zeros((20, 30), np.int32)
    labels[2:6, 3:8] = 1
    labels[2:6, 8:10] = 2
    labels[0, 29] = 3
    labels[10:15, 10:15] = 4
    labels[12, 12] = 0
    labels[17:19, 1:3] = 4
    image = np.random.default_rng(1).integers(0, 255, (3, 20, 30)).astype(np.uint8)
    return Result.from_labels(
        labels=labels,
        image=image,
        channel_names=("red", "green", "blue"),
        pixel_size_um=0.25,
        source="folder/tissue.ome.tif",
        settings={"model": "nuclei 0.1.0", "seed_threshold": 0.5, "channels": ("0", "1", "2")},
    )


@pytest.fixture
def cells() -> Result:
    """Three cells, of which two have a nucleus, and a nucleus without a cell; two channels; size not known."""
    labels = np.zeros((2, 16, 18), np.int32)
    labels[1, 1:9, 1:9] = 1
    labels[0, 3:6, 3:6] = 1
    labels[1, 1:9, 9:17] = 2
    labels[0, 4:8, 11:14] = 2
    labels[1, 12:14, 2:8] = 4
    labels[0, 12:15, 12:15] = 5
    image = np.random.default_rng(2).random((2, 16, 18)).astype(np.float32)
    return Result.from_labels(labels, image, targets=("nuclei", "cells"), channel_names=("DAPI", "CD3"))


@pytest.fixture(params=["nuclei", "cells"])
def whole(request: pytest.FixtureRequest) -> Result:
    """Each of the two."""
    found: Result = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A format `tree` that is a folder, with files that depend on the result."""

    def write(result: Result, path: Path) -> None:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "count").write_bytes(str(result.count).encode())
        (path / str(result.settings["seed_threshold"])).write_bytes(b"a file that not every such result has")

    monkeypatch.setitem(WRITERS, "tree", Writer("tree", ".tree", write, "a folder"))
