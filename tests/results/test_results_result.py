"""The result itself, in memory, of a store, and of a stored file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from pieced import Nothing, Pieced, changed, planes_of

from cytoseed.results import Result, open_result
from cytoseed.results.formats.objects_zip import write_objects
from cytoseed.results.objects import pack_block
from cytoseed.results.store import StitchedObjects, Store

IMAGE = np.zeros((2, 4, 5), np.uint8)


def test_it_says_what_it_is(nuclei: Result, cells: Result) -> None:
    assert repr(nuclei) == "<Result: 4 nuclei in tissue.ome.tif, 20 x 30 px, 0.25 µm/px>"
    one = changed(cells, labels=np.minimum(cells.labels, 1))
    assert (len(nuclei), len(cells)) == (4, 4), "a cell and its nucleus count once"
    assert repr(one) == "<Result: 1 cell in array, 16 x 18 px, unknown pixel size>"


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


def from_store(whole: Result, folder: Path) -> Result:
    """The result with its objects in two tiles of a store."""
    (block,) = whole.blocks()
    ((objects, ids),) = pack_block(block, whole.targets)
    order = np.argsort(ids, kind="stable")
    objects, ids = objects.take(order), ids[order]
    half = int(np.searchsorted(ids, ids[len(ids) // 2]))
    store, tiles = Store(folder), (slice(0, half), slice(half, len(ids)))
    store.announce({})
    for tile, part in enumerate(tiles):
        store.write(tile, objects.take(np.arange(len(ids))[part]))
    place = np.concatenate([np.arange(part.stop - part.start) for part in tiles])
    box = np.tile([0, 0, *whole.shape[1:]], (2, 1))
    first = np.array([0, half, len(ids)])
    kept = StitchedObjects(first, place, ids, box, box[:0], np.zeros(0, np.int64), objects.take([]))

    def thumbnail(_: int) -> tuple[NDArray[Any], float]:
        return whole.thumbnail(100)

    facts = {name: getattr(whole, name) for name in ("shape", "targets", "channel_names", "pixel_size_um", "source")}
    facts |= {name: getattr(whole, name) for name in ("settings", "find_input", "find_stains")}
    return Result.from_store(store, kept, **facts, thumbnail=thumbnail, keep_alive=folder)


def test_labels_table_and_objects_are_the_same_from_everywhere(whole: Result, tmp_path: Path) -> None:
    columns = ["target", "id"] if len(whole.targets) > 1 else ["id"]
    write_objects(Pieced(whole, 2), tmp_path / "a.objects.zip")
    with open_result(tmp_path / "a.objects.zip") as stored:
        for result in (stored, from_store(whole, tmp_path / "store")):
            np.testing.assert_array_equal(result.labels, whole.labels)
            np.testing.assert_array_equal(planes_of(result), planes_of(whole))
            table = result.table.sort_values(columns, ignore_index=True)
            pd.testing.assert_frame_equal(table, whole.table.sort_values(columns, ignore_index=True))
            assert len(result.objects) == len(table)
            ids = result.table["id"].to_numpy()
            painted = np.zeros_like(planes_of(whole))
            result.objects.paint(painted, (0, 0, *whole.shape[1:]), ids)
            np.testing.assert_array_equal(painted, planes_of(whole))


def test_labels_too_large_for_memory_are_refused(tmp_path: Path) -> None:
    write_objects(Nothing((3, 70_000, 60_000)), tmp_path / "a.objects.zip")
    with (
        open_result(tmp_path / "a.objects.zip") as result,
        pytest.raises(ValueError, match=r"70000 x 60000.*labels_in"),
    ):
        assert result.labels.any()
