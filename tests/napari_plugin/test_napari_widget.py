"""The widget in napari: it finds the demo's nuclei, takes plane, scale and place from the layer, can be cancelled."""

import os
import warnings

import numpy as np
import pytest

from bright import GREY
from cytoseed.models.weights import save_model
from scenes import discs

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # those of napari
    pytest.importorskip("napari", reason="napari is not installed: pip install 'cytoseed[napari]' pytest-qt")
    pytest.importorskip("pytestqt", reason="pytest-qt is not installed")
    from napari.components import ViewerModel

    from cytoseed.napari_plugin import sample_data
    from cytoseed.napari_plugin.segment_widget import SegmentWidget
    from cytoseed.napari_plugin.worker import SegmentWorker

pytestmark = pytest.mark.filterwarnings("ignore")  # those of napari and Qt


@pytest.fixture
def widget(qtbot):
    """The widget on a viewer without a window."""
    viewer = ViewerModel()
    widget = SegmentWidget(viewer)
    qtbot.addWidget(widget.native)
    yield widget
    qtbot.waitUntil(lambda: widget._worker is None, timeout=60_000)


def run(widget, qtbot, layer, **values):
    widget.image.choices = [layer]
    widget.image.value = layer
    for name, value in values.items():
        getattr(widget, name).value = value
    widget.start()
    qtbot.waitUntil(lambda: widget._worker is None, timeout=120_000)
    return widget._viewer.layers[1:]


def test_the_widget_finds_the_nuclei_of_the_demo(widget, qtbot):
    [(pixels, attributes, _)] = sample_data.section()
    [labels] = run(widget, qtbot, widget._viewer.add_image(pixels, **attributes))
    assert len(np.unique(labels.data)) - 1 == 273
    assert widget.status.value.startswith("273 nuclei by nuclei on haematoxylin\npixel size unknown")
    assert labels.name == "section nuclei"
    features = labels.features.set_index("index")
    assert features.loc[7, "area_px"] == (labels.data == 7).sum()


def test_a_plane_of_a_stack_is_segmented_in_its_place(widget, qtbot, tmp_path):
    save_model(GREY.segmenter, GREY.config, tmp_path / "bright")
    pixels, _ = discs(100, 110)
    stack = np.stack([np.zeros_like(pixels), pixels, np.zeros_like(pixels)])
    scale, units = (2000, 500, 500), ("nm", "nm", "nm")
    layer = widget._viewer.add_image(stack, scale=scale, translate=(100, 10, 20), units=units)
    widget._viewer.dims.set_current_step(0, 1)
    own = {"model": "a folder...", "model_folder": tmp_path / "bright", "expand": 1.0}
    nuclei, cells = run(widget, qtbot, layer, **own)
    assert widget.pixel_size.value == 0.5
    assert widget.status.value.splitlines()[0].endswith("cells by bright")
    for labels in (nuclei, cells):
        assert labels.data.shape == (1, *pixels.shape)
        np.testing.assert_allclose(labels.data_to_world((0, 3, 4)), layer.data_to_world((1, 3, 4)))
    np.testing.assert_array_equal(nuclei.data[0] > 0, (pixels > 120) & (pixels < 255))  # one pixel is no object
    inside = nuclei.data[0] > 0
    np.testing.assert_array_equal(cells.data[0][inside], nuclei.data[0][inside])
    assert nuclei.features["mean_stack"].min() > 120
    assert nuclei.features["area_um2"].equals(nuclei.features["area_px"] * 0.25)


def test_channels_may_be_the_first_axis(widget, qtbot, tmp_path):
    save_model(GREY.segmenter, GREY.config, tmp_path / "bright")
    pixels, _ = discs(100, 110)
    layer = widget._viewer.add_image(np.stack([np.zeros_like(pixels), pixels]), scale=(1, 0.5, 0.5))
    own = {"model": "a folder...", "model_folder": tmp_path / "bright", "channels": "1"}
    [labels] = run(widget, qtbot, layer, **own)
    np.testing.assert_array_equal(labels.data > 0, (pixels > 120) & (pixels < 255))  # one pixel is no object
    assert labels.scale.tolist() == [0.5, 0.5]


def test_mistakes_are_told_in_the_widget(widget, qtbot):
    widget.start()
    assert widget.status.value == "open an image first"
    layer = widget._viewer.add_image(np.zeros((20, 30), np.uint8))
    assert not run(widget, qtbot, layer, channels="1")
    assert "no axis of channels" in widget.status.value
    assert not run(widget, qtbot, layer, channels="", model="a folder...", model_folder="/nowhere")
    assert "/nowhere" in widget.status.value


def test_a_run_in_tiles_tells_progress_and_can_be_cancelled():
    pixels, _ = discs(500, 420)
    told = []
    worker = SegmentWorker(pixels, GREY, {"tile_size_px": 128})
    worker.advanced.connect(lambda *numbers: told.append(numbers))
    assert worker.work().count > 50
    assert [done for done, _, _ in told] == list(range(1, told[0][1] + 1))
    told.clear()
    worker.advanced.connect(lambda *_: worker.quit())
    assert worker.work() is None
    assert len(told) == 1


def test_a_cancelled_run_adds_nothing(widget, qtbot):
    [(pixels, attributes, _)] = sample_data.section()
    layer = widget._viewer.add_image(pixels, **attributes)
    widget.image.choices = [layer]
    widget.start()
    assert not widget.run.enabled
    widget.stop()
    qtbot.waitUntil(lambda: widget._worker is None, timeout=120_000)
    assert widget.status.value == "cancelled"
    assert list(widget._viewer.layers) == [layer]
    assert widget.run.enabled


def test_a_result_opens_in_a_viewer_with_its_image(monkeypatch):
    import cytoseed

    monkeypatch.setattr("napari.Viewer", ViewerModel)
    pixels, _ = discs(100, 110)
    result = cytoseed.segment(pixels, GREY, pixel_size_um=0.5)
    image, labels = result.to_napari().layers
    np.testing.assert_array_equal(image.data, pixels)
    np.testing.assert_array_equal(labels.data, result.labels)
    assert image.scale.tolist() == labels.scale.tolist() == [0.5, 0.5]
    viewer = ViewerModel()
    assert result.to_napari(viewer) is viewer
    assert len(viewer.layers) == 1


def test_large_labels_are_a_layer_in_several_resolutions(monkeypatch):
    import cytoseed

    monkeypatch.setattr("cytoseed.results.layers._WHOLE_PX", 0)
    monkeypatch.setattr("cytoseed.results.pyramid._SMALLEST_LARGE_PX", 60)
    pixels, _ = discs(200, 210)
    result = cytoseed.segment(pixels, GREY, tile_size_px=128)
    viewer = ViewerModel()
    [labels] = result.to_napari(viewer).layers
    assert labels.multiscale
    row = labels.features.iloc[5]
    place = round(row["centroid_y_px"] - 0.5), round(row["centroid_x_px"] - 0.5)
    assert labels.get_value(place)[1] == row["index"]
