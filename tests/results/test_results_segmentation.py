"""The result itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cytoseed.results import Result

IMAGE = np.zeros((2, 4, 5), np.uint8)


def test_counts(nuclei: Result, cells: Result) -> None:
    assert (nuclei.count, len(nuclei)) == (4, 4)
    assert (cells.count, len(cells)) == (4, 4), "a cell and its nucleus count once"
    assert Result.from_labels(np.zeros((4, 5), np.int32), IMAGE).count == 0


@pytest.mark.parametrize(
    ("others", "error", "says"),
    [
        ({"labels": np.zeros((4, 5))}, TypeError, "float64.*integers"),
        ({"labels": np.zeros((5, 4), np.int32)}, ValueError, r"\(5, 4\).*must be \(4, 5\)"),
        ({"labels": np.full((4, 5), -1, np.int32)}, ValueError, "-1"),
        ({"targets": ("nuclei", "cells")}, ValueError, r"must be \(2, 4, 5\)"),
        ({"image": np.zeros((4, 5))}, ValueError, r"\(C,H,W\)"),
        ({"channel_names": ("DAPI",)}, ValueError, "2 channels"),
    ],
)
def test_parts_that_do_not_belong_together(others: dict[str, Any], error: type[Exception], says: str) -> None:
    parts: dict[str, Any] = {"labels": np.zeros((4, 5), np.int32), "image": IMAGE}
    with pytest.raises(error, match=says):
        Result.from_labels(**(parts | others))


def test_channels_without_names_are_numbered() -> None:
    assert Result.from_labels(np.zeros((4, 5), np.int64), IMAGE).channel_names == ("channel 0", "channel 1")
