"""Segmentation of small images: inputs, scale, settings and errors."""

import json
from unittest.mock import Mock

import hypothesis
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st

from bright import GREY, RGB
from cytoseed.images import open_image
from cytoseed.models.weights import save_model
from cytoseed.results import open_result
from cytoseed.run.api import segment
from cytoseed.run.engine import Engine
from cytoseed.run.slide import Callbacks
from cytoseed.run.tile import full_size_labels
from cytoseed.settings import SegmentOptions

BOXES = ((5, 20, 10, 30), (30, 50, 40, 60), (2, 10, 66, 78))


def scene(dtype=np.uint8, value=200, boxes=BOXES, shape=(60, 80)):
    """Bright boxes on black, and the label image that belongs to them in raster order of their seeds."""
    image = np.zeros(shape, dtype)
    truth = np.zeros(shape, np.int32)
    for number, (top, bottom, left, right) in enumerate(boxes, start=1):
        image[top:bottom, left:right] = value
        truth[top:bottom, left:right] = number
    return image, truth


def same_objects(found, truth):
    """Equal up to the numbers of the objects."""
    pairs = set(zip(found.ravel().tolist(), truth.ravel().tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) and (0, 0) in pairs


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.float32, np.float64, ">u2", bool])
def test_every_dtype_gives_the_objects(dtype):
    image, truth = scene(dtype, 1 if dtype is bool else 100)
    before = image.copy()
    result = segment(image, GREY)
    assert same_objects(result.labels, truth)
    assert result.labels.dtype == np.int32
    assert np.array_equal(image, before)


@pytest.mark.parametrize("kind", ["grey", "channels last", "alpha", "channels first"])
def test_a_colour_model_takes_grey_and_colour_images(kind):
    image, truth = scene()
    given_as = {
        "grey": image,
        "channels last": np.repeat(image[:, :, None], 3, 2),
        "alpha": np.dstack([image, image, image, np.full_like(image, 255)]),
        "channels first": np.repeat(image[None], 3, 0),
    }[kind]
    result = segment(given_as, RGB)
    assert same_objects(result.labels, truth)
    assert result.shape[1:] == image.shape


def test_path_image_and_array_give_one_result(tmp_path):
    image, _ = scene()
    path = tmp_path / "scene.tif"
    tifffile.imwrite(path, image)
    results = [segment(given_as, GREY) for given_as in (path, str(path), open_image(path), image)]
    assert all(np.array_equal(result.labels, results[0].labels) for result in results)
    assert [result.source for result in results] == [str(path)] * 3 + ["array"]


def test_chosen_channels_are_segmented():
    image, truth = scene()
    stack = np.stack([np.zeros_like(image), np.full_like(image, 7), image, image, image])
    for channels in ("2", ("2",), 2, [2], np.array([2])):
        assert same_objects(segment(stack, GREY, channels=channels).labels, truth)
    assert segment(stack, GREY, channels=("1",)).count == 0
    result = segment(stack, RGB, channels=("2", "3", "4"))
    assert same_objects(result.labels, truth)
    assert result.shape == stack.shape
    assert result.settings["channels"] == [2, 3, 4]


def test_a_wrong_number_of_channels_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"has 5 channels and model .*takes 1 or 3.*--channels 0.*4 \(channel 4\)"):
        segment(np.zeros((5, 20, 30), np.uint8), RGB)
    with pytest.raises(ValueError, match=r"has 5 channels, 2 are chosen, and model .*takes 1 or 3.*4 \(channel 4\)"):
        segment(np.zeros((5, 20, 30), np.uint8), RGB, channels=("0", "1"))


@hypothesis.settings(max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    pixel_size=st.sampled_from([None, 0.11, 0.25, 0.5, 0.65, 1.3, 4.0]),
    values=st.sampled_from([1, 255]),
    seed=st.integers(0, 1000),
)
def test_labels_have_the_images_size_and_no_gaps(height, width, pixel_size, values, seed):
    """Constant images too."""
    image = np.random.default_rng(seed).integers(0, values, (height, width), np.uint8)
    labels = segment(image, GREY, pixel_size_um=pixel_size, min_size_px=1).labels
    assert labels.shape == image.shape
    assert np.array_equal(np.unique(np.append(labels, 0)), np.arange(labels.max() + 1))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"pixel_size_um": 0.5}, 1.0),
        ({"pixel_size_um": 0.504}, 1.0),
        ({"pixel_size_um": 0.25}, 0.5),
        ({"pixel_size_um": 1.0}, 2.0),
        ({"diameter_px": 8.5}, 2.0),
        ({"diameter_px": 17.1}, 1.0),
        ({}, 1.0),
    ],
)
def test_the_scale_follows_from_pixel_size_or_diameter(settings, scale):
    boxes = [(8, 24, 12, 32), (32, 48, 40, 60)]
    image, truth = scene(boxes=boxes)
    result = segment(image, GREY, **settings)
    assert result.settings["scale"] == pytest.approx(scale)
    assert result.count == 2
    assert np.mean((result.labels > 0) != (truth > 0)) < 0.02


def test_smallest_size_counts_at_the_models_scale():
    image, _ = scene(boxes=[(10, 20, 10, 20)])
    assert segment(image, GREY, min_size_px=101).count == 0
    assert segment(image, GREY, min_size_px=101, pixel_size_um=1.0).count == 1


def test_a_given_pixel_size_or_diameter_outranks_the_files(tmp_path):
    image, _ = scene()
    path = tmp_path / "scene.ome.tif"
    sizes = {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 1.0, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, image, ome=True, metadata={"axes": "YX", **sizes})
    notices = []
    stated = segment(path, GREY, callbacks=Callbacks(notices.append))
    assert (stated.pixel_size_um, stated.settings["scale"]) == (1.0, 2.0)
    assert stated.settings["pixel_size_source"] == "OME metadata"
    given_one = segment(path, GREY, pixel_size_um=0.5, callbacks=Callbacks(notices.append))
    assert (given_one.pixel_size_um, given_one.settings["scale"]) == (0.5, 1.0)
    assert given_one.settings["pixel_size_source"] == "given"
    by_diameter = segment(path, GREY, diameter_px=34.0, callbacks=Callbacks(notices.append))
    assert (by_diameter.pixel_size_um, by_diameter.settings["scale"]) == (1.0, 0.5)
    assert notices == []


def test_pixels_that_are_not_square_are_resampled_to_square_ones(tmp_path):
    discs, _ = scene(boxes=[(20, 36, 12, 20), (64, 80, 40, 48)], shape=(120, 60))  # 8 x 8 µm
    path = tmp_path / "scene.ome.tif"
    sizes = {"PhysicalSizeX": 1.0, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, discs, ome=True, metadata={"axes": "YX", **sizes})
    notices = []
    result = segment(path, GREY, callbacks=Callbacks(notices.append))
    assert (result.pixel_size_um, result.settings["scale"]) == ((0.5, 1.0), [1.0, 2.0])
    assert result.settings["pixel_size_um"] == [0.5, 1.0]
    assert [text.split(" (width")[0] for text in notices] == ["pixels are 1 x 0.5 µm"]
    assert "--pixel-size" in notices[0]
    assert np.mean((result.labels > 0) != (discs > 0)) < 0.02
    assert result.table["area_um2"].tolist() == pytest.approx([64, 64], rel=0.2)
    assert "0.5 x 1 µm/px" in repr(result)
    in_tiles = segment(path, GREY, tile_size_px=128, output=tmp_path / "out", formats=["objects", "labels", "ngff"])
    assert np.array_equal(in_tiles.labels > 0, result.labels > 0)
    for written in ("scene.labels.tif", "*.zarr/nuclei"):
        (place,) = (tmp_path / "out").glob(written)
        assert open_image(place).pixel_size_yx_um == pytest.approx((0.5, 1.0))
    with open_result(tmp_path / "out" / "scene.objects.zip") as stored:
        assert stored.pixel_size_um == (0.5, 1.0)
        assert stored.table.equals(in_tiles.table)
    by_diameter = segment(path, GREY, diameter_px=17 * 2**0.5)
    assert by_diameter.settings["scale"] == pytest.approx([0.5, 1.0])
    assert segment(path, GREY, pixel_size_um=0.5).settings["scale"] == 1.0


def test_notices_of_a_cameras_pixel_size_and_of_merged_fluorescence(tmp_path):
    image, _ = scene(shape=(60, 80))
    path = tmp_path / "camera.tif"
    tifffile.imwrite(path, image, imagej=True, resolution=(1 / 2.1, 1 / 2.1), metadata={"unit": "microns"})
    notices = []
    segment(path, GREY, callbacks=Callbacks(notices.append))
    (notice,) = notices
    assert "2.1 µm (from ImageJ metadata) enlarges the image 4.2 times" in notice
    segment(path, GREY, pixel_size_um=2.1, callbacks=Callbacks(notices.append))
    segment(path, GREY, diameter_px=3, callbacks=Callbacks(notices.append))
    assert notices == [notice]
    colours = np.dstack([image // 4, image // 2, image])
    grey = np.dstack([image] * 3)
    for pixels, given_channels in ((colours, ()), (colours, "blue"), (grey, ()), (255 - colours, ())):
        segment(pixels, RGB, pixel_size_um=0.5, channels=given_channels, callbacks=Callbacks(notices.append))
    assert len(notices) == 2
    assert "fluorescence channels merged in one picture" in notices[1]
    assert "--channels blue" in notices[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peak_radius_px": 10**6}, "peak_radius_px is 1000000; it must be from 1 to 512"),
        ({"nan": "mean"}, "nan is 'mean'; it must be refuse or zero"),
        ({"pixel_size_um": 0.00025}, r"pixel_size_um is 0.00025 \(given\).*--pixel-size"),
        ({"diameter_px": 0.5}, "diameter_px is 0.5.*--pixel-size"),
        ({"pixel_size_um": float("nan")}, "pixel_size_um is nan; it must be"),
        ({"mask_threshold": float("inf")}, "mask_threshold is inf; it must be"),
    ],
)
def test_absurd_and_infinite_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        segment(scene()[0], GREY, **settings)


@pytest.mark.parametrize("text", ["CUDA out of memory. Tried to allocate", "can't allocate memory: you tried to"])
def test_a_lack_of_memory_is_a_memory_error(monkeypatch, text):
    monkeypatch.setattr(Engine, "labels_of_views", Mock(side_effect=RuntimeError(text)))
    with pytest.raises(MemoryError, match="not enough memory to segment 120 x 160 px"):
        segment(scene()[0], GREY, pixel_size_um=1.0)
    monkeypatch.setattr(Engine, "labels_of_views", Mock(side_effect=RuntimeError("mat1 and mat2 cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1"):  # other errors stay as they are
        segment(scene()[0], GREY)


def test_an_image_too_large_once_rescaled_is_refused():
    image = np.broadcast_to(np.uint8(0), (10**6, 10**6))
    with pytest.raises(ValueError, match="4000000 x 4000000 px"):
        segment(image, GREY, pixel_size_um=2.0)


@pytest.mark.parametrize(("value", "says"), [(np.nan, "NaN or inf"), (np.inf, "NaN or inf"), (1e300, "beyond 3.4")])
def test_nan_infinite_and_too_large_values_are_refused(value, says):
    image = np.zeros((20, 20))
    image[3, 4] = value
    with pytest.raises(ValueError, match=says):
        segment(image, GREY)


@pytest.mark.parametrize("tiles", [{}, {"tile_size_px": 128}])
def test_values_that_are_not_finite_count_as_0_on_request(tiles, tmp_path):
    plain, truth = scene(np.float32)
    image = plain.copy()
    image[:, :5], image[-3:] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "scene.tif", image)
    result = segment(tmp_path / "scene.tif", GREY, nan="zero", pixel_size_um=0.5, **tiles, output=tmp_path / "out")
    assert same_objects(result.labels, truth)
    assert result.settings["nan"] == "zero"
    assert np.isfinite(result.table["mean_channel 0"]).all()
    assert "nan" not in segment(plain, GREY).settings


@pytest.mark.parametrize("tiles", [{}, {"tile_size_px": 128}])
def test_values_too_far_from_0_to_be_told_apart_are_refused(tiles):
    image, truth = scene(np.float64)
    with pytest.raises(ValueError, match="which float32 can hardly tell apart: subtract 1e"):
        segment(image + 1e15, GREY, **tiles)
    assert same_objects(segment(image + 1e6, GREY, **tiles).labels, truth)


def test_an_unknown_setting_is_refused_with_a_suggestion():
    with pytest.raises(TypeError, match=r"no setting 'diameter'.*diameter_px"):
        segment(scene()[0], GREY, diameter=17)


def test_settings_override_options():
    options = SegmentOptions(min_size_px=10**6, seed_threshold=0.4)
    result = segment(scene()[0], GREY, options, min_size_px=1)
    assert result.count == 3
    assert (result.settings["min_size_px"], result.settings["seed_threshold"]) == (1, 0.4)


def test_a_nucleus_keeps_the_id_of_its_cell_where_labels_shrink():
    labels = torch.zeros(2, 40, 60, dtype=torch.int32)
    labels[1, 2:12, 2:12] = 1  # a cell without a nucleus
    labels[1, 20:36, 4:20], labels[0, 24:32, 8:16] = 2, 2
    labels[1, 20, 40] = 3  # gone at half the size
    labels[1, 20:36, 42:58], labels[0, 24:32, 46:54] = 4, 4
    nuclei, cells = full_size_labels(labels, 20, 30)
    assert np.unique(cells).tolist() == [0, 1, 2, 3]
    assert np.unique(nuclei).tolist() == [0, 2, 3]
    assert (cells[nuclei > 0] == nuclei[nuclei > 0]).all()


def test_the_settings_of_a_result(tmp_path):
    image, _ = scene()
    options = SegmentOptions(pixel_size_um=0.7, peak_radius_px=6)
    described = segment(image, GREY, options).settings
    assert json.loads(json.dumps(described)) == described
    assert described["peak_radius_px"] == 6
    assert described["agreement_iou"] == GREY.config.agreement_iou
    assert "device" not in described
    saved = save_model(GREY.segmenter, GREY.config, tmp_path / "bright")
    by_folder = segment(image, saved, options).settings
    assert len(by_folder["model_sha256"]) == 64
    assert dict(by_folder, model_sha256="") == described
