"""Overview, tissue and normalisation of large images, compared with those computed from all pixels."""

import dataclasses
import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoseed.core.prepare import percentiles
from cytoseed.images import as_image, open_image
from cytoseed.images.channels import unmix
from cytoseed.images.overview import Overview, overview
from cytoseed.images.regions import Layout
from cytoseed.learn.samples import find_samples
from cytoseed.run import survey as normalisation
from cytoseed.run.area import read_area
from cytoseed.run.plan import Plan
from cytoseed.run.survey import find_tissue, intensity_limits
from cytoseed.run.tiles import single_tile
from twenty import DATA

OVERVIEW = sys.modules["cytoseed.images.overview"]
with_data = pytest.mark.skipif(not (DATA / "samples.csv").is_file(), reason="the real images are missing")


class RecordingRegions:
    """Regions of an image's levels; `reads` lists the level and bytes of every read."""

    def __init__(self, levels):
        self.levels, self.reads = levels, []
        self.layout = Layout(levels[0].shape, levels[0].dtype, tuple(level.shape[1:] for level in levels))

    def read(self, box_yxhw, level=0, channels=None):
        top, left, height, width = box_yxhw
        part = self.levels[level][:, top : top + height, left : left + width]
        assert part.shape[1:] == (height, width)
        part = part if channels is None else part[list(channels)]
        self.reads.append((level, part.nbytes))
        return part.copy()


def opened(*levels):
    regions = RecordingRegions(levels)
    shapes = tuple(level.shape[1:] for level in levels)
    image = dataclasses.replace(
        as_image(np.zeros((17, 17), levels[0].dtype)),
        shape=levels[0].shape,
        level_shapes=shapes,
        connect=lambda: nullcontext(regions),
    )
    return image, regions


def plan_of(image, channels=None, level=0, stain=None):
    chosen = tuple(range(image.shape[0])) if channels is None else channels
    size = image.level_shapes[level]
    area, record = read_area(image.shape[1:]), {"stain": stain}
    return Plan(
        chosen,
        level,
        size,
        (1.0, 1.0),
        image.shape[1:],
        None,
        single_tile(*size),
        False,
        area,
        ("nuclei",),
        0.0,
        record,
        (),
        0.0,
    )


def noise(shape, mean, width, seed=0):
    return (mean + width * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def overview_of(pixels):
    return Overview(pixels.astype(np.float32), 1.0, np.zeros(pixels.shape[1:], bool))


# overview


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64, bool])
@pytest.mark.parametrize("room", [1 << 26, 4000])
def test_overview_pixels_are_means_of_the_image(dtype, room, monkeypatch):
    monkeypatch.setattr(OVERVIEW, "_READ_BYTES", room)
    monkeypatch.setattr(OVERVIEW, "_BAND_PX", 7)
    monkeypatch.setattr(OVERVIEW, "_BLOCK_PX", 14)
    pixels = (np.random.default_rng(0).random((2, 101, 143)) * 250).astype(dtype)
    image, regions = opened(pixels)
    result = overview(regions, image, (1, 0), 21)
    assert result.pixels.shape == (2, 15, 21)  # 143 / 21 is 6.8: 7 px to one
    assert result.pixels.dtype == np.float32
    assert result.step == 7
    assert not result.unread.any()
    for row, column in np.ndindex(15, 21):
        square = pixels[::-1, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7].astype(np.float64)
        np.testing.assert_allclose(result.pixels[:, row, column], square.mean((1, 2)), rtol=1e-5)
    assert max(size for _, size in regions.reads) <= max(room, 2 * 7 * 7 * pixels.itemsize)


@pytest.mark.parametrize(("largest_px", "level", "step"), [(60, 2, 16), (99, 2, 16), (150, 1, 8), (400, 1, 4)])
def test_overview_reads_the_coarsest_level_that_is_large_enough(largest_px, level, step):
    levels = [np.full((1, 640 // by, 800 // by), by, np.uint8) for by in (1, 4, 16)]
    image, regions = opened(*levels)
    result = overview(regions, image, (0,), largest_px)
    assert {one for one, _ in regions.reads} == {level}
    assert result.step == step
    assert largest_px / 2 <= max(result.pixels.shape) <= largest_px
    assert (result.pixels == (4, 16)[level - 1]).all()


def test_areas_with_nan_or_infinite_values_are_marked_as_unread():
    pixels = np.ones((2, 60, 80))
    pixels[0, 5, 6], pixels[1, 30, 40:42], pixels[0, 50, 60] = np.nan, (np.inf, -np.inf), 1e300
    image, regions = opened(pixels)
    result = overview(regions, image, (0, 1), 20)
    assert np.argwhere(result.unread).tolist() == [[1, 1], [7, 10], [12, 15]]
    np.testing.assert_array_equal(result.pixels, np.where(result.unread, 0, np.ones((2, 15, 20))))


# tissue


def test_objects_and_their_surroundings_are_tissue():
    pixels = noise((1, 300, 300), 100, 0.5, seed=1)
    pixels[0, 100:115, 200:212] += 60
    result = find_tissue(overview_of(pixels), 16)
    expected = np.zeros((300, 300), bool)
    expected[84:131, 184:228] = True
    assert (result >= expected).all()
    assert not result[:80].any()  # a window of contrast more to each side
    assert not result[136:].any()
    assert result.sum() < 1.5 * expected.sum()


@pytest.mark.parametrize("brighter", [60, -60])
def test_brighter_and_darker_objects_in_any_channel_are_tissue(brighter):
    pixels = noise((3, 200, 200), 150, 0.5)
    pixels[2] = 7  # an empty channel
    for channel, place in ((0, 50), (1, 140)):
        pixels[channel, place : place + 12, place : place + 12] += brighter
    result = find_tissue(overview_of(pixels), 12)
    assert result[50:62, 50:62].all()
    assert result[140:152, 140:152].all()
    assert result.mean() < 0.2


def test_uneven_and_dusty_glass_is_background():
    pixels = noise((3, 300, 300), 240, 0.2)
    pixels += np.linspace(0, 4, 300, dtype=np.float32)
    pixels[:, 40, 250] -= 3
    pixels[:, 150:200, 100:150] = noise((3, 50, 50), 150, 20)
    result = find_tissue(overview_of(pixels), 12)
    assert result[150:200, 100:150].all()
    assert not result[30:50, 240:260].any()
    assert result.mean() < 0.15


@pytest.mark.parametrize(("background", "inside"), [(100, 130), (240, 215)])
def test_the_inside_of_large_flat_tissue_is_tissue(background, inside):
    pixels = noise((1, 300, 300), background, 0.2)
    pixels[0, 50:250, 20:220] += inside - background
    result = find_tissue(overview_of(pixels), 12)
    assert result[50:250, 20:220].all()
    assert result.mean() < 0.65


def test_on_an_uneven_background_single_faint_nuclei_are_found():
    """In the dark corners a nucleus is darker than the background in the middle."""
    rows = np.linspace(-1, 1, 400, dtype=np.float32)
    shade = 1 - 0.3 * (rows[:, None] ** 2 + rows**2)
    pixels = 300 * shade[None] + noise((1, 400, 400), 0, 1)
    pixels[0, 190:210, 190:210] += 3000
    places = [(y, x) for y in range(20, 400, 90) for x in range(20, 400, 90)]
    for y, x in places:
        pixels[0, y : y + 2, x : x + 2] += 30
    result = find_tissue(overview_of(pixels), 12)
    assert all(result[y : y + 2, x : x + 2].all() for y, x in places)
    assert pixels[0, :3, :3].mean() + 30 < pixels[0, 150, 150]
    assert result.mean() < 0.6


@pytest.mark.parametrize("margin_px", [0, 12, 70])
@pytest.mark.parametrize("kind", ["one value", "noise", "texture", "one px", "slope"])
def test_without_a_discernible_background_everything_is_tissue(kind, margin_px):
    pixels = {
        "one value": np.full((1, 150, 130), 7.0),
        "noise": noise((1, 150, 130), 100, 5),
        "texture": noise((3, 50, 44), 150, 40).repeat(3, 1).repeat(3, 2),
        "one px": np.ones((1, 1, 1)),
        "slope": np.linspace(5, 100, 130).repeat(150).reshape(1, 130, 150),
    }[kind]
    assert find_tissue(overview_of(pixels), margin_px).all()


def test_unscanned_areas_are_neither_tissue_nor_background():
    pixels = np.zeros((1, 300, 300), np.float32)
    pixels[:, :200, :200] = noise((1, 200, 200), 100, 0.4)
    pixels[0, 50:65, 50:65] += 50
    result = find_tissue(overview_of(pixels), 12)
    assert result[50:65, 50:65].all()
    assert not result[230:].any()
    assert not result[100:150, 100:150].any()
    assert not find_tissue(overview_of(np.zeros((1, 50, 60))), 5).any()


def test_unread_areas_are_tissue():
    pixels = noise((1, 200, 200), 100, 0.4)
    pixels[0, 50:65, 50:65] += 50
    unread = np.zeros((200, 200), bool)
    unread[150:160, 20:180] = True
    pixels[:, unread] = 0
    result = find_tissue(Overview(pixels, 1.0, unread), 12)
    assert result[140:170, 20:180].all()
    assert not result[100:130, 100:].any()


# tissue of real images


def composed(sample, canvas, place=300):
    """A canvas with an image of one channel or three on it, and the (y, x) of its nuclei' pixels."""
    pixels, mask = sample.read()
    height, width = mask.shape
    canvas = np.broadcast_to(canvas, (len(pixels), *canvas.shape[1:])).copy()
    canvas[:, place : place + height, place : place + width] = pixels
    return canvas, np.argwhere(mask > 0) + place


@with_data
@pytest.mark.parametrize("step", [4, 16])
@pytest.mark.parametrize(
    ("dataset", "modality", "background"),
    [
        ("kumar_train16", "brightfield", (243.0, 1.2)),
        ("dsb2018", "fluorescence", (0.0, 0.0)),
        ("dsb2018", "brightfield", (243.0, 1.2)),
        ("bitdepth_nucseg", "fluorescence", (0.0, 0.0)),
    ],
)
@pytest.mark.filterwarnings("ignore::cytoseed.paths.InputWarning")  # some masks have ids in several pieces
def test_no_annotated_nucleus_of_a_real_image_is_lost(dataset, modality, background, step):
    samples = [one for one in find_samples(DATA, datasets=[dataset]) if one.modality == modality]
    canvas = np.rint(noise((1, 1920, 1920), *background))
    for sample in samples[:: max(1, len(samples) // 8)]:
        image, nuclei = composed(sample, canvas)
        small, regions = opened(image.astype(np.float32))
        picture = overview(regions, small, range(len(image)), 1920 // step)
        assert picture.step == step
        result = find_tissue(picture, 200 // step)
        assert result[tuple(nuclei.T // step)].all()
        assert not result[-200 // step :, -200 // step :].any()


# one normalisation

types = st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64, bool])


@given(
    types.flatmap(
        lambda kind: arrays(
            kind,
            st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 50)),
            elements=None if kind is bool else st.integers(0, 120),
        )
    ),
    st.booleans(),
)
def test_limits_of_a_level_are_percentiles_of_all_its_pixels(pixels, in_pieces):
    with pytest.MonkeyPatch.context() as patch:
        if in_pieces:
            patch.setattr(OVERVIEW, "_READ_BYTES", 200)
            patch.setattr(OVERVIEW, "_BAND_PX", 3)
            patch.setattr(OVERVIEW, "_BLOCK_PX", 5)
        if pixels.dtype.kind == "i":
            pixels = pixels - pixels.dtype.type(60)
        image, regions = opened(pixels)
        found = intensity_limits(regions, image, plan_of(image), np.ones((2, 2), bool))
    expected = percentiles(torch.from_numpy(pixels.astype(np.float32)))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_array_equal(one, other.numpy())


def test_limits_use_the_level_and_channels_of_the_plan():
    fine = np.random.default_rng(0).integers(0, 65535, (4, 90, 80), dtype=np.uint16)
    coarse = np.random.default_rng(1).integers(0, 65535, (4, 45, 40), dtype=np.uint16)
    image, regions = opened(fine, coarse)
    found = intensity_limits(regions, image, plan_of(image, (2, 0), level=1), np.ones((2, 2), bool))
    expected = percentiles(torch.from_numpy(coarse[[2, 0]].astype(np.int32)))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_limits_of_a_stain_are_those_of_its_amount(monkeypatch):
    monkeypatch.setattr(OVERVIEW, "_READ_BYTES", 9000)
    pixels = np.random.default_rng(0).integers(1, 255, (3, 90, 80), dtype=np.uint8)
    image, regions = opened(pixels)
    low, high = intensity_limits(regions, image, plan_of(image, stain="haematoxylin"), np.ones((2, 2), bool))
    expected = percentiles(torch.from_numpy(unmix(pixels, "haematoxylin")))
    np.testing.assert_allclose([low, high], expected, rtol=1e-6)
    assert low.shape == (1,)
    assert len(regions.reads) > 1


def large(monkeypatch, side=16):
    monkeypatch.setattr(normalisation, "LARGEST_COUNTED_PX", 100)
    monkeypatch.setattr(normalisation, "_SAMPLE_PX", side)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_limits_of_a_large_level_come_from_blocks_of_tissue(dtype, monkeypatch):
    large(monkeypatch)
    pixels = np.full((1, 1000, 900), 200, dtype)
    pixels[:, 200:600, 100:800] = np.random.default_rng(0).integers(50, 91, (1, 400, 700))
    image, regions = opened(pixels)
    mask = np.zeros((100, 90), bool)
    mask[20:60, 10:80] = True
    low, high = intensity_limits(regions, image, plan_of(image), mask)
    assert (low.item(), high.item()) == (50, 90)  # no glass
    assert len(regions.reads) == 64
    assert (low, high) == intensity_limits(regions, image, plan_of(image), mask)
    low, high = intensity_limits(regions, image, plan_of(image), np.zeros((100, 90), bool))
    assert high == 200  # without tissue, the whole level counts


def test_blocks_lie_in_separate_pieces_of_tissue_by_their_size():
    mask = np.zeros((200, 300), bool)
    mask[10:50, 10:90], mask[150:190, 200:240] = True, True
    boxes = np.array(normalisation._samples(mask, (200 * 512, 300 * 512)))
    rows, columns = boxes[:, 0] // 512, boxes[:, 1] // 512
    assert mask[rows, columns].all()
    assert len(boxes) == 64
    assert 40 <= (columns < 100).sum() <= 46  # two thirds
    assert np.ptp(rows[columns < 100]) > 25
    assert np.ptp(columns[columns < 100]) > 50


def test_blocks_at_the_edge_stay_inside():
    for level_yx in ((1300, 700), (100, 513), (512, 512)):
        for shape in ((1, 1), (3, 2), (400, 300)):
            for y, x, height, width in normalisation._samples(np.ones(shape, bool), level_yx):
                assert y + height <= level_yx[0]
                assert x + width <= level_yx[1]
                assert min(height, width) > 0


@pytest.mark.parametrize(("value", "message"), [(np.nan, "NaN or infinite"), (1e300, "values beyond")])
def test_invalid_values_are_refused(value, message):
    pixels = np.zeros((1, 30, 30))
    pixels[0, 5, 6] = value
    image, regions = opened(pixels)
    with pytest.raises(ValueError, match=message):
        intensity_limits(regions, image, plan_of(image), np.ones((2, 2), bool))


@with_data
def test_limits_of_a_real_slide_from_blocks_are_close_to_those_of_all_pixels(monkeypatch):
    image = open_image(DATA / "slides" / "CMU-1-Small-Region.svs")
    with image.regions() as regions:
        picture = overview(regions, image, (0, 1, 2))
        mask = find_tissue(picture, 100)
        exact = intensity_limits(regions, image, plan_of(image), mask)
        large(monkeypatch, side=128)
        by_blocks = intensity_limits(regions, image, plan_of(image), mask)
    np.testing.assert_allclose(by_blocks, exact, atol=6)
