"""The images that speed is measured on, and what instanseg-torch is told of them."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model
from cytoseed.run.api import network_image
from cytoseed.settings import ModelConfig

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def images():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("speed_images")


def part(images, objects, is_unseen=True, value=100):
    side = images.PART_PX
    mask = np.zeros((side, side), np.int32)
    for number in range(objects):
        mask[number // 16 * 8, number % 16 * 8] = number + 1
    return images.Part(np.full((side, side), value, np.uint8), mask, objects, is_unseen)


@given(counts=st.lists(st.integers(0, 100), min_size=1, max_size=30), data=st.data())
def test_chosen_parts_are_distinct_and_no_exchange_is_better(images, counts, data):
    number = data.draw(st.integers(1, len(counts)))
    target = data.draw(st.integers(0, 1500))
    chosen = images.choose_parts(counts, number, target)
    assert len(set(chosen)) == number
    apart = abs(target - sum(counts[index] for index in chosen))
    for out in chosen:
        for into in set(range(len(counts))) - set(chosen):
            exchanged = sum(counts[index] for index in chosen) - counts[out] + counts[into]
            assert abs(target - exchanged) >= apart


def test_more_parts_than_there_are_cannot_be_chosen(images):
    with pytest.raises(ValueError, match="3 parts are wanted, there are 2"):
        images.choose_parts([1, 2], 3, 5)


def test_a_mosaic_holds_every_part_in_its_place_with_its_own_ids(images):
    parts = [part(images, objects, value=objects) for objects in (2, 0, 3, 1)]
    image, truth = images.mosaic(parts, 512)
    assert image[0, 0] == 2
    assert image[0, 256] == 0
    assert image[256, 0] == 3
    assert image[511, 511] == 1
    assert np.unique(truth).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert truth[256, 0] == 3  # the first object of the third part follows the two of the first
    assert truth[256, 256] == 6
    with pytest.raises(ValueError, match="4 parts of 256 px do not fill a square of 1024 px"):
        images.mosaic(parts, 1024)


def test_unseen_fields_are_taken_where_they_suffice(images):
    unseen = [part(images, 10, value=1) for _ in range(4)]
    seen = [part(images, 50, is_unseen=False, value=2) for _ in range(4)]
    image, truth = images.draw([*seen, *unseen], 512, 40)
    assert set(np.unique(image)) == {1}
    assert truth.max() == 40
    image, truth = images.draw([*seen, *unseen], 512, 200)
    assert set(np.unique(image)) == {2}
    assert truth.max() == 200
    image, truth = images.draw(seen, 512, 0)
    assert image.max() == truth.max() == 0


def test_intensities_are_stretched_and_ids_renumbered(images):
    pixels = np.linspace(20, 60, 10_000).reshape(100, 100)
    bright = images.stretch(pixels)
    assert bright.min() == 0
    assert bright.max() == 255
    assert abs(int(bright[50, 0]) - 128) < 3
    assert images.stretch(np.full((5, 5), 9)).max() == 0
    ids, count = images.renumbered(np.array([[7, 0], [-1, 3]]))
    assert ids.tolist() == [[2, 0], [0, 1]]
    assert count == 2


def test_tiles_are_cut_row_by_row(images):
    tiles = images.cut(np.arange(24).reshape(4, 6), 2)
    assert tiles.shape == (6, 2, 2)
    assert tiles[1].tolist() == [[2, 3], [8, 9]]
    assert tiles[3].tolist() == [[12, 13], [18, 19]]


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    config = ModelConfig("tiny", classifier_widths=(5, 5))
    return Model(config, Segmenter(config).eval())


def test_raw_fields_become_the_fields_by_the_terms_of_instanseg_torch(images, teacher):
    image = np.random.default_rng(0).integers(0, 255, (40, 56), np.uint8)
    raw = torch.from_numpy(images.raw_fields(image, teacher))
    positional = 8 * (torch.sigmoid(2 * raw[:4]) - 0.5)  # what their formula makes of twice our output
    theirs = torch.cat([positional, raw[4:8], raw[8:] / 15 + 0.5])
    with torch.inference_mode():
        ours = teacher.segmenter.fields(network_image(image, teacher.config)[None])[0, 0]
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_the_pixel_classifier_is_handed_over_layer_by_layer(images, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "TEACHER", "tiny")
    monkeypatch.setattr("cytoseed.models.weights.load_model", lambda _: teacher)
    with np.load(images.Shelf(tmp_path, tmp_path).phi()) as weights:
        layers = [(weights[f"fc{i}.weight"], weights[f"fc{i}.bias"]) for i in (1, 2, 3)]
    fields = torch.randn(1, 9, 20, 20)
    classifier = teacher.segmenter.classifiers[0]
    with torch.inference_mode():
        seed = torch.tensor([[0, 10, 10]])
        ours = classifier(fields, classifier.encode(fields), seed, 4)[0].numpy()
    values = fields[0, :8].numpy().copy()
    coordinates = np.zeros((4, 20, 20), np.float32)
    coordinates[0], coordinates[1] = np.arange(20) / 4, (np.arange(20) / 4)[:, None]  # x, then y
    values[:4] += coordinates
    values[:4] -= values[:4, 10:11, 10:11]
    hidden = values[:, 6:15, 6:15].reshape(8, -1)
    for depth, (weight, bias) in enumerate(layers):
        hidden = weight @ hidden + bias[:, None]
        hidden = np.maximum(hidden, 0) if depth < 2 else hidden
    np.testing.assert_allclose(hidden.reshape(9, 9), ours, rtol=1e-3, atol=1e-4)


def test_images_are_made_once(images, tmp_path, monkeypatch):
    parts = [part(images, 10) for _ in range(5)]
    monkeypatch.setattr(images, "find_parts", lambda _: parts)
    first = images.Shelf(tmp_path, tmp_path).mosaic("a", 512, 40, with_fields=False)
    assert (first.side, first.channels, first.objects, first.fields) == (512, 1, 40, None)
    monkeypatch.setattr(images, "find_parts", lambda _: pytest.fail("made again"))
    shelf = images.Shelf(tmp_path, tmp_path)
    assert shelf.mosaic("a", 512, 40, with_fields=False) == first
    tiles = shelf.tiles("a4", first, 256)
    assert np.load(tiles.image).shape == np.load(tiles.truth).shape == (4, 256, 256)
