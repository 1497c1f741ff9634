"""Crops beside the images that they were cut from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoseed.core.prepare import normalise
from cytoseed.learn import augment
from cytoseed.learn.annotations import seed_target
from cytoseed.learn.augment import Batch, CropSampler
from cytoseed.learn.samples import Sample
from cytoseed.learn.settings import TrainConfig
from cytoseed.run.api import network_image
from cytoseed.settings import ModelConfig, SegmentOptions

CPU = torch.device("cpu")
SIDE = 32


class HeldSample(Sample):
    """A sample whose image and mask are in memory, not in files."""

    def __init__(self, pixels, mask, modality="fluorescence", dataset="made"):
        super().__init__("made", dataset, modality, "train", Path("made.png"), Path("made_masks.png"))
        object.__setattr__(self, "_held", (pixels, mask.astype(np.int32)))

    def read_targets(self, targets):  # noqa: ARG002 - one mask
        return self._held[0], self._held[1][None]

    def find_pixel_size_um(self):
        return self.pixel_size_um


def config(**given) -> TrainConfig:
    return TrainConfig(**{"crop_px": SIDE, "batch_size": 4, "augment": "minimal", "balance": "image", **given})


def sampler_of(*samples, channels=3, **given) -> CropSampler:
    return CropSampler(samples, ModelConfig("made", channels=channels), config(**given), CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(height=96, width=96, radius=8, count=6):
    """A mask of separate discs, ids with gaps."""
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.int32)
    places = [(r, c) for r in range(radius + 4, height - radius, 28) for c in range(radius + 4, width - radius, 28)]
    for number, (row, column) in enumerate(places[:count], start=1):
        mask[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = 3 * number
    return mask


def coordinates(height, width):
    """An image that tells where its pixels are: rows, columns, and noise."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 256, (height, width))
    return np.stack([rows, columns, noise]).astype(np.uint16)


def orientations(plane: torch.Tensor) -> list[torch.Tensor]:
    turned = [torch.rot90(plane, quarter, (-2, -1)) for quarter in range(4)]
    return turned + [plane.flip(-1) for plane in turned]


def orientation_of(rows: torch.Tensor, columns: torch.Tensor, inside: torch.Tensor) -> int | None:
    """Which of the 8 orientations puts rows and columns in order again; None if none does."""
    planes = zip(*(orientations(plane) for plane in (rows, columns, inside)), strict=True)
    for index, (row, column, own) in enumerate(planes):
        down, right = own[1:] & own[:-1], own[:, 1:] & own[:, :-1]
        ordered = [
            (row.diff(dim=0)[down] == 1).all(),
            (row.diff(dim=1)[right] == 0).all(),
            (column.diff(dim=0)[down] == 0).all(),
            (column.diff(dim=1)[right] == 1).all(),
        ]
        if all(ordered):
            return index
    return None


def places(batch: Batch, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns that the crops of `coordinates` show, (N, H, W) each."""
    return (batch.image[:, 0] * (height - 1)).round().long(), (batch.image[:, 1] * (width - 1)).round().long()


sizes = st.one_of(st.integers(1, 70), st.sampled_from([1, 31, 32, 33]))
masks = st.tuples(sizes, sizes).flatmap(
    lambda shape: arrays(np.int32, shape, elements=st.sampled_from([0, 0, 0, 3, 7, 70_000]), fill=st.just(0))
)


@settings(max_examples=40)
@given(masks, st.integers(0, 1000))
def test_a_minimal_crop_is_a_part_of_the_image_flipped_and_turned(mask, seed):
    height, width = mask.shape
    batch = sampler_of(HeldSample(coordinates(height, width), mask)).draw(generator(seed))
    inside = batch.labels[:, 0] >= 0
    rows, columns = places(batch, height, width)
    target = torch.from_numpy(seed_target(mask))
    for row, column, own, labels, distance in zip(rows, columns, inside, batch.labels, batch.distance, strict=True):
        assert own.sum() == min(SIDE, height) * min(SIDE, width)
        assert orientation_of(row, column, own) is not None
        seen = row[own], column[own]
        assert torch.equal(labels[0][own], torch.from_numpy(mask)[seen].long())
        torch.testing.assert_close(distance[0][own], target[seen], atol=1e-3, rtol=0)
        assert (distance[0][~own] == 0).all()


def test_all_flips_turns_and_places_are_drawn():
    height, width = SIDE + 3, SIDE
    sample = HeldSample(coordinates(height, width), np.zeros((height, width)))
    batch = sampler_of(sample, batch_size=300).draw(generator())
    rows, columns = places(batch, height, width)
    inside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    seen = {orientation_of(row, column, inside) for row, column in zip(rows, columns, strict=True)}
    assert seen == set(range(8))
    assert rows.amin((1, 2)).unique().tolist() == [0, 1, 2, 3]


def test_unknown_pixels_stay_unknown():
    mask = discs(SIDE, SIDE, count=1)
    mask[:, 20:] = -1
    batch = sampler_of(HeldSample(coordinates(SIDE, SIDE), mask)).draw(generator())
    rows, columns = places(batch, SIDE, SIDE)
    assert torch.equal(batch.labels[:, 0], torch.from_numpy(mask)[rows, columns].long())
    assert (batch.labels == -1).sum() == 4 * 12 * SIDE
    assert (batch.distance[batch.labels < 0] == 0).all()


def colours(kind: str) -> np.ndarray:
    """Noise of different types, (C, 32, 200), whose left is darker than its right and whose columns are uniform."""
    rng = np.random.default_rng(1)
    steps = np.linspace(0, 1, 200) + 0.3 * rng.random((3, 200))
    line = {
        "8 bit": (150 * steps[:1]).astype(np.uint8),
        "16 bit colour": (40_000 * steps).astype(np.uint16),
        "signed": (500 * steps[:1] - 300).astype(np.int16),
        "float": (steps[:1] - 0.5).astype(np.float32),
        "tiny float": 1e-20 * steps[:1],
        "two values": (steps[:1] > 0.6).astype(np.uint8),
    }[kind]
    return np.repeat(line[:, None], SIDE, axis=1)


@pytest.mark.parametrize("kind", ["8 bit", "16 bit colour", "signed", "float", "tiny float", "two values"])
def test_a_crop_has_the_brightness_that_it_has_in_the_normalised_whole_image(kind):
    pixels = colours(kind)
    mask = np.broadcast_to(np.arange(1, 201), (SIDE, 200))  # every column tells its number
    batch = sampler_of(HeldSample(pixels, mask), batch_size=16).draw(generator())
    whole = normalise(torch.from_numpy(pixels.astype(np.float32)))[:, 0].expand(3, -1)  # (3, 200)
    expected = whole[:, batch.labels[:, 0] - 1].transpose(0, 1)
    torch.testing.assert_close(batch.image, expected, atol=0.02, rtol=0)


pictures = st.tuples(sizes, sizes, st.sampled_from(["constant", "noise", "section", "sparse"]), st.booleans())


def picture(height, width, kind, colour):
    rng = np.random.default_rng(height * width)
    pixels = rng.integers(0, 256, (3 if colour else 1, height, width)).astype(np.uint8)
    if kind == "constant":
        pixels[:] = 77
    elif kind == "sparse":
        pixels[pixels < 255] = 3
    mask = np.zeros((height, width), np.int32)
    mask[height // 3 : height // 2, width // 4 : width // 2] = 5
    mask[height // 2 : height // 2 + 3] = -1
    return HeldSample(pixels, mask, "brightfield" if kind == "section" else "fluorescence")


@settings(max_examples=20)
@given(st.lists(pictures, min_size=1, max_size=3), st.integers(0, 1000), st.sampled_from(["minimal", "full"]))
def test_whatever_the_images_a_batch_is_sound(kinds, seed, kind):
    sampler = sampler_of(*(picture(*given) for given in kinds), augment=kind, synthetic_stain_share=0.5)
    image, labels, distance = sampler.draw(generator(seed))
    assert image.shape == (4, 3, SIDE, SIDE)
    assert labels.shape == distance.shape == (4, 1, SIDE, SIDE)
    assert (image.dtype, labels.dtype, distance.dtype) == (torch.float32, torch.int64, torch.float32)
    assert image.isfinite().all()
    assert image.min() >= -0.5
    assert image.max() <= 1.5
    assert set(labels.unique().tolist()) <= {-1, 0, 5}
    assert torch.equal(distance > 0, labels > 0)
    assert distance.max() <= 1


@pytest.mark.parametrize("kind", ["minimal", "full"])
def test_equal_generators_draw_equal_batches(kind):
    sampler = sampler_of(picture(50, 60, "section", True), picture(70, 40, "noise", False), augment=kind)
    generators = generator(1), generator(1), generator(2)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first, same, other = (sampler.draw(each) for each in generators)
    assert torch.equal(torch.random.get_rng_state(), before)  # nothing else is random
    for one, two in zip(first, same, strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.image, other.image)
    second = sampler.draw(generators[0])
    assert not torch.equal(first.image, second.image)
    assert torch.equal(second.image, sampler.draw(generators[1]).image)


def test_a_full_crop_moves_image_labels_and_distance_alike(monkeypatch):
    monkeypatch.setattr(augment, "_vary_intensity", lambda image, stained, random: image)  # noqa: ARG005
    mask = discs()
    ids = np.unique(mask[mask > 0])
    sample = HeldSample((13 * mask[None]).astype(np.uint8), mask)
    batch = sampler_of(sample, batch_size=64, augment="full", scale_range=(0.7, 2.0), crop_px=64).draw(generator())
    centres = batch.distance[:, 0] > 0.5
    assert centres.sum() > 1000
    expected = batch.labels[:, 0].float() / float(ids.max())
    torch.testing.assert_close(batch.image[:, 1][centres], expected[centres], atol=0.01, rtol=0)
    assert set(batch.labels.unique().tolist()) == {-1, 0, *ids.tolist()}
    ground = batch.labels[:, 0] == 0
    assert batch.image[:, 1][ground].median() == 0
    assert torch.equal(batch.distance > 0, batch.labels > 0)


@pytest.mark.parametrize("modality", ["fluorescence", "brightfield"])
def test_nuclei_stay_visible_in_fully_augmented_crops(modality):
    mask = discs(radius=10)
    nuclei, background = ((90, 60, 140), (230, 190, 220)) if modality == "brightfield" else ((200,), (20,))
    pixels = np.where(mask > 0, *(np.array(colour)[:, None, None] for colour in (nuclei, background)))
    pixels = pixels + np.random.default_rng(0).integers(-9, 10, (1, *mask.shape))
    sample = HeldSample(pixels.astype(np.uint8), mask, modality)
    batch = sampler_of(sample, batch_size=96, augment="full").draw(generator())
    is_visible = []
    for image, labels, distance in zip(batch.image.mean(1), batch.labels[:, 0], batch.distance[:, 0], strict=True):
        inside, outside = image[distance > 0.4], image[labels == 0]
        if min(len(inside), len(outside)) > 30:
            is_visible.append((inside.mean() - outside.mean()).abs() > inside.std() + outside.std())
    assert len(is_visible) > 40
    assert sum(is_visible) / len(is_visible) > 0.85


def areas_of_whole_objects(batch: Batch) -> list[int]:
    """Areas of the objects that no edge of a crop cuts."""
    areas = []
    for labels in batch.labels[:, 0]:
        frame = set(torch.cat([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
        ids, counts = labels[labels > 0].unique(return_counts=True)
        areas += [count for own, count in zip(ids.tolist(), counts.tolist(), strict=True) if own not in frame]
    return areas


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"augment": "minimal"}, 1.0, 1.0),
        ({"scale_range": (0.5, 2.0)}, 0.5, 2.0),
        ({"scale_range": (1.0, 1.0), "nominal_scale_share": 1.0}, 17 / 24, 17 / 24),
        ({"scale_range": (0.8, 1.25), "nominal_scale_share": 0.5}, 0.8 * 17 / 24, 1.25),
    ],
)
def test_objects_are_scaled_within_the_range(settings, least, most):
    mask = np.zeros((64, 64), np.int32)
    rows, columns = np.mgrid[:64, :64] - 31.5
    mask[np.hypot(rows, columns) <= 12] = 9
    given = {"augment": "full", "nominal_scale_share": 0.0, "crop_px": 96, "batch_size": 100, **settings}
    batch = sampler_of(HeldSample(mask[None].astype(np.uint8), mask), **given).draw(generator())
    scales = np.sqrt(np.array(areas_of_whole_objects(batch)) / (mask > 0).sum())
    assert len(scales) > 30
    assert scales.min() > least * 0.97
    assert scales.max() < most * 1.03
    if most > 1.05 * least:  # the range is used, evenly in the logarithm
        middle = np.sqrt(least * most)
        assert 0.2 < (scales < middle).mean() < 0.8
        assert scales.min() < least * 1.15
        assert scales.max() > most / 1.15


def test_synthetic_sections_are_made_of_grey_images_with_bright_nuclei_only():
    mask = discs(count=9)
    bright, dark = (np.where(mask > 0, *pair)[None].astype(np.uint8) for pair in ((200, 20), (20, 200)))
    given = {"augment": "full", "batch_size": 48}

    def coloured(pixels, modality="fluorescence", share=1.0):
        batch = sampler_of(HeldSample(pixels, mask, modality), synthetic_stain_share=share, **given).draw(generator())
        spread = batch.image.amax(1) - batch.image.amin(1)
        return (spread.mean((1, 2)) > 0.1).float().mean()

    usual = coloured(bright, share=0.0)
    assert coloured(bright) > usual + 0.4
    assert coloured(dark) < usual + 0.2


@pytest.mark.parametrize(
    ("present", "channels", "value", "message"),
    [
        *((present, 3, 0, f"has {present} channels; the model takes 3, or 1") for present in (2, 4)),
        (3, 1, 0, "has 3 channels; the model takes 1, or 1"),
        *((1, 3, value, ".*NaN or infinite, the first in channel 0, row 3, column 4") for value in (np.nan, np.inf)),
    ],
)
def test_other_channels_and_values_that_are_not_numbers_are_refused(present, channels, value, message):
    pixels = np.zeros((present, 9, 9), np.float32)
    pixels[0, 3, 4] = value
    with pytest.raises(ValueError, match=rf"made\.png:? {message}"):
        sampler_of(HeldSample(pixels, np.zeros((9, 9))), channels=channels)


def test_a_bank_on_disk_draws_the_same_as_one_in_memory(tmp_path):
    """With no memory allowed every image stays in a file, which is gone when the sampler is closed."""
    samples = [HeldSample(coordinates(70 + 9 * i, 90), discs(70 + 9 * i, 90, count=3)) for i in range(3)]
    given = {"augment": "full", "balance": "modality", "crop_px": 64}
    in_memory = sampler_of(*samples, **given)
    on_disk = CropSampler(samples, ModelConfig("made"), config(memory_gb=0, **given), CPU, tmp_path)
    for seed in range(3):
        for one, two in zip(in_memory.draw(generator(seed)), on_disk.draw(generator(seed)), strict=True):
            assert torch.equal(one, two)
    on_disk.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("augment", ["minimal", "full"])
def test_an_image_of_known_pixel_size_is_scaled_as_when_it_is_segmented(augment):
    """At half the model's pixel size it is half as large, its noise averaged, whatever the nuclei's size."""
    noise = np.random.default_rng(0).integers(0, 255, (1, 128, 128)).astype(np.uint8)
    sample = HeldSample(noise, discs(128, 128))
    object.__setattr__(sample, "pixel_size_um", 0.25)
    given = {"augment": augment, "scale_range": (1.0, 1.0), "crop_px": 64, "batch_size": 1}
    sampler = CropSampler([sample], ModelConfig("made", channels=1, pixel_size_um=0.5), config(**given), CPU)
    assert sampler._size.tolist() == [[64, 64]]
    assert sampler._to_nominal.tolist() == [1.0]
    if augment == "minimal":
        seen = network_image(noise, ModelConfig("made", channels=1), SegmentOptions(pixel_size_um=0.25))
        assert float(sampler.draw(generator()).image.std()) == pytest.approx(float(seen.std()), rel=0.05)


def test_kinds_are_drawn_as_the_root_of_their_objects():
    """Four images with 1 object each and one image with 16: half of the draws are of the one."""
    few = [HeldSample(coordinates(48, 48), discs(48, 48, count=1), dataset="few") for _ in range(4)]
    many = HeldSample(coordinates(144, 144), discs(144, 144, count=16), dataset="many")
    weight = sampler_of(*few, many, balance="modality")._weight
    assert weight[0] * 4 / weight[4] == pytest.approx(2 / 4)
    assert sampler_of(*few, many, balance="image")._weight.tolist() == [1] * 5


def test_a_dead_pixel_costs_no_grey_levels():
    """In 16 bits, 40 grey levels near the top and one dead pixel: float16 alone would leave two of them."""
    pixels = 60_000 + np.arange(96 * 96).reshape(1, 96, 96) % 40
    pixels[0, 0, 0] = 0
    batch = sampler_of(HeldSample(pixels.astype(np.uint16), discs()), crop_px=96, batch_size=1).draw(generator())
    assert batch.image[0, 0].unique().numel() >= 40
