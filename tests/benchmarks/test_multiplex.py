"""Scenes to train `cells` from: cells hold their nuclei, with the same ids; the same number gives the same scene."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from cytoseed.images.label_image import read_labels

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
scenes = importlib.import_module("multiplex")


@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")
def test_a_scene(tmp_path: Path) -> None:
    rows, columns = np.indices((24, 24))
    inside = np.hypot(rows - 12, columns - 12) < 9
    bank = [scenes.Nucleus(np.where(inside, 1.0, 0.0).astype(np.float32), inside)]
    first, again = (scenes.write_scene(bank, "train", 3, tmp_path / name) for name in ("a", "b"))
    pixels, masks = first.read_targets(("nuclei", "cells"))
    nuclei, cells = masks
    assert 2 <= len(pixels) <= 10
    assert len(np.unique(nuclei)) > 5
    assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
    assert (cells > 0).sum() > (nuclei > 0).sum()
    assert np.array_equal(tifffile.imread(again.image_path), pixels)
    assert again.cells_path is not None
    assert np.array_equal(read_labels(again.cells_path), cells)
