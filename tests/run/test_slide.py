"""Images in tiles: the same objects as whole, in every order of events; and nothing lost."""

import json
import multiprocessing
import os
import shutil
import threading
from itertools import pairwise

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

import cytoseed
from bright import bright_config, bright_segmenter
from cytoseed.images import ImageFileError, as_image, open_image
from cytoseed.models.weights import Model
from cytoseed.results.store import Store
from cytoseed.run.api import segment
from cytoseed.run.slide import Callbacks
from cytoseed.run.tile import TileProcessor
from runs import run
from same import assert_same_objects

GREY = Model(bright_config(), bright_segmenter())
RGB = Model(bright_config(3), bright_segmenter(3))
TILES = {"tile_size_px": 128}
FILES = (
    "scene.csv",
    "scene.cytoseed.json",
    "scene.geojson",
    "scene.labels.tif",
    "scene.objects.zip",
    "scene.overlay.png",
)


def scene(height=500, width=420, seed=0, side=24):
    """Bright discs on a ground of 10, some across the borders of tiles; and how many there are."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    image = np.full((height, width), 10, np.uint8)
    count = 0
    for top in range(0, height - side, side):
        for left in range(0, width - side, side):
            if rng.random() < 0.5:
                radius = rng.uniform(2, side / 2 - 2)
                y, x = top + side / 2 + rng.uniform(-0.5, 0.5), left + side / 2 + rng.uniform(-0.5, 0.5)
                image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = rng.integers(150, 220)
                count += 1
    image[0, 0], image[-1, -1] = 0, 255
    return image, count


def rough(height, width):
    """A bright patch with many seeds."""
    return np.random.default_rng(1).integers(170, 220, (height, width), np.uint8)


@pytest.fixture
def path(tmp_path):
    place = tmp_path / "scene.tif"
    tifffile.imwrite(place, scene()[0], tile=(64, 64))
    return place


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder)) if (folder / name).is_file()}


@settings(max_examples=12)
@given(
    st.integers(1, 420),
    st.integers(1, 420),
    st.sampled_from([128, 192, 320]),
    st.sampled_from([None, 0.31, 0.5, 0.77]),
    st.integers(0, 99),
)
def test_tiles_give_the_objects_of_the_whole(height, width, core, pixel_size, seed):
    image = scene(500, 430, seed)[0][:height, :width]
    whole = segment(image, GREY, pixel_size_um=pixel_size)
    in_tiles = segment(image, GREY, pixel_size_um=pixel_size, tile_size_px=core, skip_background=False)
    assert_same_objects(whole.labels, in_tiles.labels)


@pytest.mark.parametrize("tta", [False, True])
def test_colour_16_bit_stains_and_views_too(tta):
    image = scene()[0][100:400, 50:300]
    picture = 255 - np.stack([image // 2, image, image // 3], -1)
    for pixels, wishes in ((picture, {"stain": "haematoxylin"}), (image.astype(np.uint16) * 200, {}), (picture, {})):
        whole = segment(pixels, RGB, tta=tta, **wishes)
        in_tiles = segment(pixels, RGB, tta=tta, skip_background=False, **TILES, **wishes)
        assert whole.count > 0 or not wishes
        assert_same_objects(whole.labels, in_tiles.labels)


@pytest.mark.parametrize("length", [100, 300, 450])
def test_an_object_across_tiles_comes_out_whole(length, tmp_path):
    image = np.full((500, 600), 10, np.uint8)
    image[200:230, 60 : 60 + length] = rough(30, length)
    image[0, 0] = 0
    result = segment(image, GREY, **TILES)
    assert result.count == 1
    assert_same_objects(result.labels, image > 10)
    told = []
    run(image, tmp_path, GREY, callbacks=Callbacks(told.append), **TILES)
    assert not any("left out" in text for text in told)


def test_an_object_too_large_is_left_out_and_told_of_never_cut(tmp_path):
    image = np.full((200, 900), 10, np.uint8)
    image[150:160, 50:850] = rough(10, 800)
    image[100:110, 100:110] = 200
    told = []
    report = run(image, tmp_path, GREY, formats=["labels"], callbacks=Callbacks(told.append), margin_px=64, **TILES)
    assert report.result.count == 1
    assert any("--margin" in text and "left out" in text and "x 50" in text for text in told)
    enough = run(image, tmp_path / "enough", GREY, formats=["labels"], margin_px=896, tile_size_px=512)
    assert enough.result.count == 2


def test_no_object_has_a_straight_edge_along_a_tile_border():
    """Discs have no long straight edges: cut at a border, they would."""
    image, _ = scene(600, 600, seed=5, side=40)
    labels = segment(image, GREY, skip_background=False, **TILES).labels
    for border in range(128, 600, 128):
        for one, other in ((labels[border - 1], labels[border]), (labels[:, border - 1], labels[:, border])):
            inside = (one > 0) != (other > 0)
            longest = max(map(len, "".join("x" if edge else " " for edge in inside).split()), default=0)
            everywhere = [
                max(map(len, "".join("x" if e else " " for e in (a > 0) != (b > 0)).split()), default=0)
                for a, b in pairwise(labels)
            ]
            assert longest <= np.percentile(everywhere, 99)


def test_files_are_those_of_the_whole_image(path, tmp_path):
    report = run(path, tmp_path / "tiles", GREY, skip_background=False, **TILES)
    whole = segment(path, GREY)
    assert {file.name for file in report.files} == set(FILES)
    labels = tifffile.imread(tmp_path / "tiles" / "scene.labels.tif")
    assert_same_objects(labels, whole.labels)
    assert report.result.count == len(report.result) == whole.count == labels.max()
    order = whole.labels[labels > 0], labels[labels > 0]
    number = dict(zip(*map(np.ndarray.tolist, order), strict=True))
    table = {row.pop("id"): row for row in whole.table.drop(columns="touches_tile_edge").to_dict("records")}
    for block in report.result.blocks():
        for row in block.table.drop(columns="touches_tile_edge").to_dict("records"):
            own = row.pop("id")
            (match,) = (theirs for theirs, ours in number.items() if ours == own)
            assert row == pytest.approx(table[match])
    features = json.loads((tmp_path / "tiles" / "scene.geojson").read_text())["features"]
    assert len(features) == whole.count


def test_the_overlay_of_a_large_image_shows_every_object(path, tmp_path):
    report = run(path, tmp_path, GREY, formats=["labels"], **TILES)
    picture, labels = report.result.overview(250)
    assert picture.shape == (1, 250, 210)
    full = tifffile.imread(tmp_path / "scene.labels.tif")
    np.testing.assert_array_equal(labels[0], full[1::2, 1::2])


def test_the_second_run_does_nothing_and_a_missing_format_is_added(path, tmp_path, monkeypatch):
    run(path, tmp_path / "out", GREY, formats=["labels", "table"], **TILES)
    before = files_of(tmp_path / "out")
    monkeypatch.setattr(TileProcessor, "read", None)
    report = run(path, tmp_path / "out", GREY, formats=["labels", "table"], **TILES)
    assert report.already_done
    assert files_of(tmp_path / "out") == before
    more = run(path, tmp_path / "out", GREY, **TILES)
    assert not more.already_done
    assert set(files_of(tmp_path / "out")) == set(FILES)
    assert (tmp_path / "out" / "scene.csv").read_bytes() == before["scene.csv"]


class Stopped(BaseException):
    """As a signal would be."""


def stop_after(tiles, monkeypatch):
    written = []
    write = Store.write

    def counting(self, tile, objects):
        if len(written) == tiles:
            raise Stopped
        written.append(tile)
        write(self, tile, objects)

    monkeypatch.setattr(Store, "write", counting)
    return written


@pytest.mark.parametrize("tiles", [0, 1, 7])
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_bytes(path, tmp_path, monkeypatch, tiles):
    run(path, tmp_path / "one", GREY, **TILES)
    with monkeypatch.context() as patch:
        stop_after(tiles, patch)
        with pytest.raises(Stopped):
            run(path, tmp_path / "two", GREY, **TILES)
    with pytest.raises(FileExistsError, match=f"{16 - tiles} tiles to go.*--resume"):
        run(path, tmp_path / "two", GREY, **TILES)
    with monkeypatch.context() as patch:
        written = stop_after(99, patch)
        report = run(path, tmp_path / "two", GREY, existing="resume", **TILES)
        assert len(written) == 16 - tiles
    assert not report.already_done
    assert files_of(tmp_path / "two") == files_of(tmp_path / "one")


def test_resume_begins_where_nothing_is(path, tmp_path):
    report = run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert report.result.count == scene()[1]
    assert run(path, tmp_path / "out", GREY, existing="resume", **TILES).already_done


def test_the_tile_size_chosen_from_memory_stays_that_of_the_run(path, tmp_path, monkeypatch):
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 128)
    run(path, tmp_path / "out", GREY)
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 256)
    assert run(path, tmp_path / "out", GREY).already_done


def test_other_settings_and_inputs_are_refused_with_the_difference(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, formats=["table"], **TILES)
    for existing in ("refuse", "resume"):
        with pytest.raises(FileExistsError, match=r"seed_threshold: 0\.5 -> 0\.6"):
            run(path, out, GREY, formats=["table"], existing=existing, seed_threshold=0.6, **TILES)
    tifffile.imwrite(path, scene(seed=1)[0], tile=(64, 64))
    with pytest.raises(FileExistsError, match="sha256"):
        run(path, out, GREY, formats=["table"], existing="resume", **TILES)
    report = run(path, out, GREY, formats=["table"], existing="overwrite", **TILES)
    assert report.result.count == scene(seed=1)[1]


def test_an_overwriting_run_that_was_stopped_goes_on_too(path, tmp_path, monkeypatch):
    run(path, tmp_path / "good", GREY, **TILES)
    run(path, tmp_path / "out", GREY, seed_threshold=0.6, **TILES)
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Stopped):
            run(path, tmp_path / "out", GREY, existing="overwrite", **TILES)
    run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "good")


def test_a_run_overwrites_only_until_its_files_are_written(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, formats=["labels"], existing="overwrite", **TILES)
    (out / "scene.csv").write_text("mine")
    with pytest.raises(FileExistsError, match=r"scene\.csv"):
        run(path, out, GREY, formats=["labels", "table"], **TILES)
    assert (out / "scene.csv").read_text() == "mine"


@pytest.mark.parametrize("step", ["announce", "begin", "write"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_overwriting_run_stopped_while_it_begins_goes_on(path, tmp_path, monkeypatch, step, moment):
    run(path, tmp_path / "good", GREY, **TILES)
    run(path, tmp_path / "out", GREY, seed_threshold=0.6, **TILES)
    whole = getattr(Store, step)

    def stopping(*args):
        if moment == "after":
            whole(*args)
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(Store, step, stopping)
        with pytest.raises(Stopped):
            run(path, tmp_path / "out", GREY, existing="overwrite", **TILES)
    again = "overwrite" if (step, moment) == ("announce", "before") else "resume"  # before it, nothing has changed
    run(path, tmp_path / "out", GREY, existing=again, **TILES)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "good")


def test_a_complete_result_needs_its_tiles_no_more(path, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 128)
    run(path, out, GREY)
    shutil.rmtree(out / "scene.cytoseed")
    monkeypatch.setattr("cytoseed.run.plan.tile_side", lambda *_: 256)
    report = run(path, out, GREY)
    assert report.already_done
    assert {file.name for file in report.files} == set(FILES)


def test_the_overlay_shows_a_slide_in_its_colours(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    report = run(image, tmp_path, RGB, formats=["labels"], **TILES)
    picture, _ = report.result.overview(4096)
    np.testing.assert_array_equal(picture, np.moveaxis(image, -1, 0))
    assert picture.dtype == np.uint8


def test_where_all_is_background_it_says_so(tmp_path):
    image = np.random.default_rng(0).normal(100, 3, (900, 900)).astype(np.uint16)
    image[:300, :300] += scene(300, 300)[0].astype(np.uint16) * 20
    told = []
    watch = Callbacks(told.append, lambda _: None)
    report = run(image, tmp_path, GREY, callbacks=watch, region=(700, 700, 100, 100), **TILES)
    assert (report.tiles, report.result.count) == (0, 0)
    assert any("--no-skip-background" in text for text in told)
    assert set(files_of(tmp_path)) == {name.replace("scene", "array") for name in FILES}


def test_a_corrupt_shard_is_made_again(path, tmp_path):
    out = tmp_path / "out"
    run(path, out, GREY, **TILES)
    before = files_of(out)
    shards = sorted((out / "scene.cytoseed" / "tiles").iterdir())
    shards[3].write_bytes(shards[3].read_bytes()[:50])
    shards[5].write_bytes(b"")
    (out / "scene.geojson").unlink()
    run(path, out, GREY, **TILES)
    assert files_of(out) == before


def test_a_tile_that_fails_is_listed_and_tried_again_by_resume(path, tmp_path, monkeypatch):
    run(path, tmp_path / "good", GREY, **TILES)
    read = TileProcessor.read

    def failing(self, tile):
        if tile.number == 5:
            raise RuntimeError("the scanner dreamt")
        return read(self, tile)

    told = []
    with monkeypatch.context() as patch:
        patch.setattr(TileProcessor, "read", failing)
        report = run(path, tmp_path / "out", GREY, callbacks=Callbacks(told.append), **TILES)
    (failure,) = report.failures
    assert failure.box_yxhw == (128, 128, 128, 128)
    assert any("the scanner dreamt" in text and "--resume" in text for text in told)
    assert report.result.count < scene()[1]
    assert "failed_tiles" in json.loads((tmp_path / "out" / "scene.cytoseed.json").read_text())
    with pytest.raises(FileExistsError, match=r"1 tiles to go"):
        run(path, tmp_path / "out", GREY, **TILES)
    report = run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert not report.failures
    assert files_of(tmp_path / "out") == files_of(tmp_path / "good")


def test_where_no_tile_can_be_made_nothing_is_written(path, tmp_path, monkeypatch):
    def failing(*_):
        raise ImageFileError("all is lost")

    monkeypatch.setattr(TileProcessor, "read", failing)
    with pytest.raises(ImageFileError, match="all is lost"):
        run(path, tmp_path / "out", GREY, **TILES)
    assert list((tmp_path / "out").rglob("*.npz")) == []
    assert files_of(tmp_path / "out") == {}


def test_a_full_disk_says_so_and_the_run_goes_on_once_there_is_room(path, tmp_path, monkeypatch):
    run(path, tmp_path / "good", GREY, **TILES)
    fsync, calls = os.fsync, []

    def filling(handle):
        calls.append(handle)
        if len(calls) > 15:
            raise OSError(28, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", filling)
        with pytest.raises(OSError, match=r"no room left.*--resume"):
            run(path, tmp_path / "out", GREY, **TILES)
    assert 0 < len(Store(tmp_path / "out" / "scene.cytoseed").done()) < 16
    run(path, tmp_path / "out", GREY, existing="resume", **TILES)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "good")


def _hold(folder, ready, done):
    image, _ = scene()
    told = []

    def first(progress):
        if not told:
            told.append(progress)
            ready.set()
            done.wait(60)

    run(image, folder, GREY, formats=["table"], callbacks=Callbacks(progress=first), **TILES)


def test_another_run_on_the_same_output_is_refused_until_it_is_over(tmp_path):
    ready, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=_hold, args=(tmp_path, ready, done))
    thread.start()
    assert ready.wait(60)
    with pytest.raises(BlockingIOError, match=f"another run.*process {os.getpid()}"):
        run(scene()[0], tmp_path, GREY, formats=["table"], existing="overwrite", **TILES)
    done.set()
    thread.join()
    assert run(scene()[0], tmp_path, GREY, formats=["table"], **TILES).already_done


def test_a_dead_process_keeps_no_lock(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    report = run(scene()[0], tmp_path, GREY, formats=["table"], existing="resume", **TILES)
    assert report.result.count == scene()[1]


def test_only_what_is_wanted(path, tmp_path):
    image, _ = scene()
    everything = segment(image, GREY, skip_background=False, **TILES)
    report = run(path, tmp_path / "out", GREY, region=(100, 50, 120, 200), **TILES)
    kept = tifffile.imread(tmp_path / "out" / "scene.labels.tif")
    assert kept.shape == image.shape
    peaks = [np.argwhere(everything.labels == number).mean(0) for number in range(1, everything.count + 1)]
    inside = sum(50 <= y < 250 and 100 <= x < 220 for y, x in peaks)
    assert abs(report.result.count - inside) <= 6  # those on the edge belong where their highest point is
    assert report.tiles == 4
    assert report.skipped == 12
    again = segment(image, GREY, region=(100, 50, 120, 200), **TILES)
    assert_same_objects(again.labels, kept)
    outline = {"type": "Polygon", "coordinates": [[[100, 50], [220, 50], [220, 250], [100, 250], [100, 50]]]}
    (tmp_path / "mask.geojson").write_text(json.dumps({"type": "Feature", "geometry": outline, "properties": {}}))
    masked = segment(image, GREY, mask=str(tmp_path / "mask.geojson"), **TILES)
    assert_same_objects(masked.labels, kept)


def test_background_is_skipped_and_nothing_lost(tmp_path):
    image = np.random.default_rng(0).normal(100, 3, (1400, 1400)).astype(np.uint16)
    truth, count = scene(400, 400)
    image[700:1100, 500:900] += truth.astype(np.uint16) * 20
    report = run(image, tmp_path, GREY, formats=["labels"], **TILES)
    everything = segment(image, GREY, skip_background=False, **TILES)
    assert report.result.count == everything.count >= count
    assert 16 < report.tiles < 90
    assert report.tiles + report.skipped == 121


def test_a_dask_array_is_read_tile_by_tile(tmp_path):
    import dask.array as da

    image, _ = scene()
    lazy = da.from_array(image, chunks=(100, 100))
    report = run(lazy, tmp_path, GREY, formats=["labels"], **TILES)
    assert_same_objects(report.result.labels_in((0, 0, *image.shape))[0], segment(image, GREY, **TILES).labels)


def test_a_pyramid_is_read_where_it_is_fine_enough(tmp_path):
    small, _ = scene(512, 384)
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


def test_a_cut_slide_is_refused(tmp_path):
    image, _ = scene(600, 600)
    path = tmp_path / "scene.tif"
    with tifffile.TiffWriter(path) as writer:  # the page's tags come before its pixels
        writer.write(image, tile=(64, 64))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(ImageFileError, match=r"scene\.tif: is cut short"):
        run(path, tmp_path / "out", GREY, **TILES)


def test_bad_regions_and_folders_are_refused_before_any_work(path, tmp_path, monkeypatch):
    monkeypatch.setattr(TileProcessor, "read", None)
    with pytest.raises(ValueError, match="region"):
        run(path, tmp_path / "out", GREY, region=(400, 400, 100, 100))
    with pytest.raises(TypeError, match="no setting 'tilesize'"):
        run(path, tmp_path / "out", GREY, tilesize=3)
    with pytest.raises(ValueError, match="multiple of 64"):
        run(path, tmp_path / "out", GREY, tile_size_px=100)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        run(path, tmp_path / "file", GREY)


def test_an_image_too_large_for_memory_names_the_other_door():
    class Endless:
        shape, dtype, ndim = (10**6, 10**6), np.dtype(np.uint8), 2

        def __getitem__(self, _):
            raise AssertionError

    with pytest.raises(ValueError, match="segment_slide"):
        segment(as_image(Endless()), GREY)
    assert cytoseed.segment_slide is segment_slide


def test_a_format_that_cannot_be_written_is_refused_before_the_work(path, tmp_path, monkeypatch):
    monkeypatch.setattr(TileProcessor, "read", lambda *_: pytest.fail("began to work"))
    with pytest.raises(ValueError, match="format 'tiff' is not known"):
        run(path, tmp_path / "out", GREY, formats=["labels", "tiff"], **TILES)
    monkeypatch.setattr("cytoseed.results.writers.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'cytoseed\[spatial\]'"):
        run(path, tmp_path / "out", GREY, formats=["anndata"], **TILES)
