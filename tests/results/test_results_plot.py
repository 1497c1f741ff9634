"""Plots of results: outlines, or objects in the colours of a measurement, in pixels of the image."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from cytoseed.results import Result
from cytoseed.results.formats.overlay import draw_overlay


@pytest.fixture(scope="module")
def result():
    labels = np.zeros((60, 90), np.int32)
    labels[10:20, 10:30], labels[30:50, 40:60] = 4, 9
    return Result.from_labels(labels, (labels * 9)[None].astype(np.uint8), source="a.tif")


@pytest.fixture(autouse=True)
def _no_window():
    mpl.use("agg")
    yield
    plt.close("all")


def test_outlines_are_drawn_in_pixels_of_the_image(result):
    axes = result.plot()
    [image] = axes.get_images()
    np.testing.assert_array_equal(image.get_array(), draw_overlay(result))
    assert axes.get_xlim() == (0, 90)
    assert axes.get_ylim() == (60, 0)
    assert axes.get_title() == "a.tif: 2 nuclei"


def test_objects_have_the_colours_of_a_measurement_in_the_given_axes(result):
    figure, axes = plt.subplots()
    assert result.plot("area_px", ax=axes) is axes
    values = axes.get_images()[1].get_array()
    np.testing.assert_array_equal(values.filled(0), np.choose(np.searchsorted([0, 4, 9], result.labels), [0, 200, 400]))
    assert [each.get_ylabel() for each in figure.axes] == ["y (px)", "area_px"]
    with pytest.raises(ValueError, match="measurement is 'mean'; it must be a column of the table: id, box_x_px"):
        result.plot("mean")
