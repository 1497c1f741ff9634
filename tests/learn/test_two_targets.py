"""Nuclei and cells trained together, from images of any number of channels."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from tiny_training import CONFIG, logged

from cytoseed.learn.augment import CropSampler
from cytoseed.learn.samples import Sample, TrainValSplit, find_samples
from cytoseed.learn.train import train
from cytoseed.models.weights import load_model
from cytoseed.run.api import segment
from cytoseed.settings import ModelConfig

MODEL = ModelConfig("pairs", channels="any", targets=("nuclei", "cells"), network="slim", min_size_px=4)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Four images of discs in larger discs: with 3, 2, 1 and 3 channels; the third without a mask of cells."""
    folder = tmp_path_factory.mktemp("pairs")
    rows, columns = np.indices((64, 64))
    for name in ("images", "masks", "cells"):
        (folder / name).mkdir()
    for number, channels in enumerate((3, 2, 1, 3)):
        nuclei, cells = np.zeros((2, 64, 64), np.uint16)
        for index, (y, x) in enumerate([(16, 16), (16, 44), (44, 20), (46, 48)], start=1):
            away = np.hypot(rows - y, columns - x)
            nuclei[away < 5], cells[away < 10] = index, index
        planes = [cells > 0, nuclei > 0, 0 * nuclei][:channels] if channels > 1 else [nuclei > 0]
        noise = np.random.default_rng(number).integers(0, 20, (channels, 64, 64))
        image = (200 * np.stack(planes) + noise).astype(np.uint16)
        tifffile.imwrite(folder / "images" / f"{number}.tif", image, metadata={"axes": "CYX"}, imagej=True)
        tifffile.imwrite(folder / "masks" / f"{number}.tif", nuclei)
        if channels > 1:
            tifffile.imwrite(folder / "cells" / f"{number}.tif", cells)
    return find_samples(folder)


def test_samples_have_both_masks_and_a_missing_one_is_not_annotated(pairs: tuple[Sample, ...]) -> None:
    assert [None if one.cells_path is None else one.cells_path.parent.name for one in pairs] == [
        "cells",
        "cells",
        None,
        "cells",
    ]
    _, masks = pairs[0].read_targets(("nuclei", "cells"))
    assert ((masks[0] > 0) <= (masks[1] > 0)).all()
    _, masks = pairs[2].read_targets(("nuclei", "cells"))
    assert masks[0].max() == 4
    assert (masks[1] == -1).all()


def test_cells_with_nuclei_from_qupath_are_both_masks(pairs: tuple[Sample, ...], tmp_path: Path) -> None:
    def square(side: int) -> dict:
        corners = [[20, 30], [20 + side, 30], [20 + side, 30 + side], [20, 30 + side], [20, 30]]
        return {"type": "Polygon", "coordinates": [corners]}

    cell = {
        "type": "Feature",
        "geometry": square(10),
        "nucleusGeometry": square(4),
        "properties": {"objectType": "cell"},
    }
    (tmp_path / "cells.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [cell]}))
    sample = Sample("x", "x", "x", "train", pairs[0].image_path, tmp_path / "cells.geojson")
    _, masks = sample.read_targets(("nuclei", "cells"))
    assert [(int((mask > 0).sum()), int(mask.max())) for mask in masks] == [(16, 1), (100, 1)]


def test_either_mask_may_be_missing_and_cells_alone_are_those_of_cells(pairs: tuple[Sample, ...]) -> None:
    both = pairs[0].read_targets(("nuclei", "cells"))[1]
    assert np.array_equal(pairs[0].read_targets(("cells",))[1], both[1:])
    assert np.array_equal(pairs[0].read_targets(("nuclei",))[1], both[:1])
    assert pairs[2].read_targets(("cells",))[1].max() == 4  # without a folder of cells, `masks` is of cells
    no_nuclei = dataclasses.replace(pairs[0], mask_path=pairs[0].mask_path.with_name("none.tif"))
    _, masks = no_nuclei.read_targets(("nuclei", "cells"))
    assert (masks[0] == -1).all()
    assert np.array_equal(masks[1], both[1])
    with pytest.raises(FileNotFoundError, match=r"none\.tif"):
        no_nuclei.read_targets(("nuclei",))


def test_a_mask_of_cells_of_another_size_is_refused(pairs: tuple[Sample, ...], tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "small.tif", np.ones((60, 64), np.uint16))
    sample = Sample("x", "x", "x", "train", pairs[0].image_path, pairs[0].mask_path, cells_path=tmp_path / "small.tif")
    with pytest.raises(ValueError, match=r"is 64 x 64 px and its mask .*small.tif is 60 x 64 px"):
        sample.read_targets(("nuclei", "cells"))


def test_crops_have_any_number_of_channels_and_cells_only_where_they_can_be_seen(pairs: tuple[Sample, ...]) -> None:
    sampler = CropSampler(pairs, MODEL, CONFIG, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    counts = set()
    for _ in range(20):
        batch = sampler.draw(generator)
        counts.add(batch.image.shape[1])
        assert batch.labels.shape[1] == batch.distance.shape[1] == 2
        assert batch.image.shape[1] > 1 or (batch.labels[:, 1] == -1).all()
        both = (batch.labels[:, 0] > 0) & (batch.labels[:, 1] >= 0)
        assert torch.equal(batch.labels[:, 0][both], batch.labels[:, 1][both])  # ids of nuclei are those of their cells
    sampler.close()
    assert counts >= {1, 2, 3}


@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")
def test_both_targets_are_trained_and_scored(pairs: tuple[Sample, ...], tmp_path: Path) -> None:
    train(TrainValSplit(pairs[:3], pairs[2:]), MODEL, CONFIG, tmp_path / "out", "cpu")
    figures = next(line for line in logged(tmp_path / "out") if "f1_mean" in line)
    kind = f"{pairs[0].dataset} unknown"
    assert {f"{kind} nuclei", f"{kind} cells"} <= set(figures)
    mean = (figures[f"{kind} nuclei"]["f1_mean"] + figures[f"{kind} cells"]["f1_mean"]) / 2
    assert figures["f1_mean"] == pytest.approx(mean, abs=1e-4)
    model = load_model(tmp_path / "out" / "last")
    assert model.config.channels == "any"
    assert segment(pairs[0].image_path, model).labels.shape == (2, 64, 64)
