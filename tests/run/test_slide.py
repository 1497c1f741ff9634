"""Images in tiles have the objects of one pass, and warnings name what is missing."""

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from bright import GREY, RGB
from cytoseed.images import ImageFileError, open_image
from cytoseed.run.api import segment
from cytoseed.run.slide import Callbacks
from cytoseed.run.tile import TileProcessor
from runs import run
from same import assert_same_objects
from scenes import RESULTS, contents, discs

TILES = {"tile_size_px": 128}


def textured(height, width):
    """A bright area with many seeds."""
    return np.random.default_rng(1).integers(170, 220, (height, width), np.uint8)


@settings(max_examples=12)
@given(
    st.integers(1, 420),
    st.integers(1, 420),
    st.sampled_from([128, 192, 320]),
    st.sampled_from([None, 0.31, 0.5, 0.77]),
    st.integers(0, 99),
)
def test_tiles_give_the_objects_of_one_pass(height, width, core, pixel_size, seed):
    image = discs(500, 430, seed)[0][:height, :width]
    whole = segment(image, GREY, pixel_size_um=pixel_size)
    in_tiles = segment(image, GREY, pixel_size_um=pixel_size, tile_size_px=core, skip_background=False)
    assert_same_objects(whole.labels, in_tiles.labels)


@pytest.mark.parametrize("tta", [False, True])
def test_colour_16_bit_and_stains_with_and_without_augmentation(tta):
    image = discs()[0][100:400, 50:300]
    picture = 255 - np.stack([image // 2, image, image // 3], -1)
    for pixels, options in ((picture, {"stain": "haematoxylin"}), (image.astype(np.uint16) * 200, {}), (picture, {})):
        whole = segment(pixels, RGB, tta=tta, **options)
        in_tiles = segment(pixels, RGB, tta=tta, skip_background=False, **TILES, **options)
        assert whole.count > 0 or not options
        assert_same_objects(whole.labels, in_tiles.labels)


@pytest.mark.parametrize("length", [100, 450])
def test_an_object_across_tiles_is_whole(length, tmp_path):
    image = np.full((500, 600), 10, np.uint8)
    image[200:230, 60 : 60 + length] = textured(30, length)
    image[0, 0] = 0
    result = segment(image, GREY, **TILES)
    assert result.count == 1
    assert_same_objects(result.labels, image > 10)
    notices = []
    run(image, tmp_path, GREY, callbacks=Callbacks(notices.append), **TILES)
    assert not any("left out" in text for text in notices)


def test_an_object_beyond_the_margin_is_left_out_with_a_warning(tmp_path):
    image = np.full((200, 900), 10, np.uint8)
    image[150:160, 50:850] = textured(10, 800)
    image[100:110, 100:110] = 200
    notices = []
    report = run(image, tmp_path, GREY, formats=["labels"], callbacks=Callbacks(notices.append), margin_px=64, **TILES)
    assert report.result.count == 1
    assert any("--margin" in text and "left out" in text and "x 50" in text for text in notices)
    enough = run(image, tmp_path / "enough", GREY, formats=["labels"], margin_px=896, tile_size_px=512)
    assert enough.result.count == 2


def test_an_image_of_background_gives_a_warning(tmp_path):
    image = np.random.default_rng(0).normal(100, 3, (900, 900)).astype(np.uint16)
    image[:300, :300] += discs(300, 300)[0].astype(np.uint16) * 20
    notices = []
    watch = Callbacks(notices.append, lambda _: None)
    report = run(image, tmp_path, GREY, callbacks=watch, region=(700, 700, 100, 100), **TILES)
    assert (report.tiles, report.result.count) == (0, 0)
    assert any("--no-skip-background" in text for text in notices)
    assert set(contents(tmp_path)) == {f"array{suffix}" for suffix in RESULTS}


def test_regions_and_masks_limit_the_objects(path, tmp_path):
    image, _ = discs()
    everything = segment(image, GREY, skip_background=False, **TILES)
    report = run(path, tmp_path / "out", GREY, region=(100, 50, 120, 200), **TILES)
    kept = tifffile.imread(tmp_path / "out" / "scene.labels.tif")
    assert kept.shape == image.shape
    peaks = [np.argwhere(everything.labels == number).mean(0) for number in range(1, everything.count + 1)]
    inside = sum(50 <= y < 250 and 100 <= x < 220 for y, x in peaks)
    assert abs(report.result.count - inside) <= 6  # an object belongs where its highest point is
    assert report.tiles == 4
    assert report.skipped == 12
    again = segment(image, GREY, region=(100, 50, 120, 200), **TILES)
    assert_same_objects(again.labels, kept)
    outline = {"type": "Polygon", "coordinates": [[[100, 50], [220, 50], [220, 250], [100, 250], [100, 50]]]}
    (tmp_path / "mask.geojson").write_text(json.dumps({"type": "Feature", "geometry": outline, "properties": {}}))
    masked = segment(image, GREY, mask=str(tmp_path / "mask.geojson"), **TILES)
    assert_same_objects(masked.labels, kept)


def test_background_is_skipped_without_losing_objects(tmp_path):
    image = np.random.default_rng(0).normal(100, 3, (1000, 1000)).astype(np.uint16)
    truth, count = discs(300, 300)
    image[500:800, 400:700] += truth.astype(np.uint16) * 20
    report = run(image, tmp_path, GREY, formats=["labels"], **TILES)
    everything = segment(image, GREY, skip_background=False, **TILES)
    assert report.result.count == everything.count >= count
    assert 8 < report.tiles < 50
    assert report.tiles + report.skipped == 64


def test_a_dask_array_is_read_tile_by_tile(tmp_path):
    import dask.array as da

    image, _ = discs()
    lazy = da.from_array(image, chunks=(100, 100))
    report = run(lazy, tmp_path, GREY, formats=["labels"], **TILES)
    assert_same_objects(report.result.labels_in((0, 0, *image.shape))[0], segment(image, GREY, **TILES).labels)


def test_the_coarsest_sufficient_level_of_a_pyramid_is_read(tmp_path):
    small, _ = discs(512, 384)
    image = small.repeat(4, 0).repeat(4, 1)
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        writer.write(image, subifds=2, tile=(64, 64), metadata=metadata)
        writer.write(image[::2, ::2], subfiletype=1, tile=(64, 64))
        writer.write(image[::4, ::4], subfiletype=1, tile=(64, 64))
    levels = []
    opened = open_image(path)
    assert [shape[0] for shape in opened.level_shapes] == [2048, 1024, 512]
    with opened.regions() as regions:
        kind = type(regions)
    read = kind.read

    def watching(self, box, level=0, channels=None):
        levels.append((level, box[2] * box[3]))
        return read(self, box, level, channels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "read", watching)
        in_tiles = segment(path, GREY, **TILES)
    assert {level for level, _ in levels} == {0, 1}  # for the table and the overview, for the network
    whole = segment(path, GREY)
    assert in_tiles.pixel_size_um == 0.25
    assert_same_objects(in_tiles.labels, whole.labels)
    assert_same_objects(whole.labels, segment(small, GREY, pixel_size_um=1.0).labels.repeat(4, 0).repeat(4, 1), 0.8)


def test_bad_regions_settings_folders_and_formats_are_refused_before_the_run(path, tmp_path, monkeypatch):
    monkeypatch.setattr(TileProcessor, "read", lambda *_: pytest.fail("began to work"))
    with pytest.raises(ValueError, match="region"):
        run(path, tmp_path / "out", GREY, region=(400, 400, 100, 100))
    with pytest.raises(ValueError, match="multiple of 64"):
        run(path, tmp_path / "out", GREY, tile_size_px=100)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(path, tmp_path / "file", GREY)
    with pytest.raises(ValueError, match="format 'tiff' is not known"):
        run(path, tmp_path / "out", GREY, formats=["labels", "tiff"], **TILES)
    monkeypatch.setattr("cytoseed.results.writers.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cytoseed\[spatial\]'"):
        run(path, tmp_path / "out", GREY, formats=["anndata"], **TILES)


@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_an_image_that_changes_during_the_run_gives_no_results(tmp_path, change):
    path, output = tmp_path / "image.tif", tmp_path / "out"
    pixels = discs(300, 300)[0]
    tifffile.imwrite(path, pixels)

    def write(_):
        if change == "removed":
            return path.unlink(missing_ok=True)
        with path.open("rb+") as file:  # valid pixels, in place
            file.seek(path.stat().st_size // 2)
            file.write(bytes(1000))
        return None

    with pytest.raises(ImageFileError, match=r"image\.tif: was changed or removed while it was segmented"):
        run(path, output, GREY, callbacks=Callbacks(progress=write), skip_background=False, **TILES)
    assert not list(output.glob("image.*"))
    tifffile.imwrite(path, pixels)
    assert run(path, output, GREY, **TILES).result.count > 0  # nothing of the mixture is taken
