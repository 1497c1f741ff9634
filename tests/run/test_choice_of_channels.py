"""Which channels are segmented where none are chosen."""

import numpy as np
import pytest
import tifffile

import cytoseed
from cytoseed.images import as_image
from cytoseed.images.channels import nuclear_channel


@pytest.mark.parametrize(
    ("names", "number"),
    [
        (["CD3", "DAPI", "CD8"], 1),
        (["Hoechst 33342", "PanCK"], 0),
        (["405 DRAQ5", "SYTO13 "], None),  # two
        (["GFP", "nuclear stain"], 1),
        (["phagocytosis", "channel 1", "nuclear pore"], None),
        (["DAPI-01", "DAPI-02"], None),
    ],
)
def test_the_one_channel_that_is_called_after_a_nuclear_stain(names, number):
    assert nuclear_channel(names) == number


@pytest.fixture
def nuclei():
    y, x = np.mgrid[:96, :96]
    discs = sum((np.hypot(y - cy, x - cx) < 9).astype(np.uint8) for cy in (20, 60) for cx in (22, 66))
    return (20 + 150 * discs).astype(np.uint8)


def write(path, channels, names):
    tifffile.imwrite(
        path, np.stack(channels), photometric="minisblack", metadata={"axes": "CYX", "Channel": {"Name": names}}
    )
    return path


def test_of_three_fluorescence_channels_the_nuclear_stain_is_segmented(tmp_path, nuclei):
    image = write(tmp_path / "a.ome.tif", [nuclei[::-1], nuclei, nuclei.T // 2], ["CD3", "DAPI", "CD8"])
    notes = []
    result = cytoseed.segment(image, pixel_size_um=0.5, callbacks=cytoseed.Callbacks(notice=notes.append))
    assert np.array_equal(result.labels, cytoseed.segment(nuclei, "nuclei", pixel_size_um=0.5).labels)
    assert result.settings["channels"] == [1]
    assert result.labels.max() == 4
    assert any("channel 1 (DAPI)" in note for note in notes), notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_channels_that_are_not_colours_are_not_taken_as_colours(tmp_path, nuclei, dtype):
    image = write(tmp_path / "a.ome.tif", [nuclei.astype(dtype)] * 3, ["A", "B", "C"])
    with pytest.raises(ValueError, match=r"0 \(A\), 1 \(B\), 2 \(C\)"):
        cytoseed.segment(image, pixel_size_um=0.5)
    assert cytoseed.segment(image, pixel_size_um=0.5, channels=["A", "B", "C"]).settings["channels"] == [0, 1, 2]


def test_a_list_of_images_is_not_an_image_of_channels(nuclei):
    for images in ([nuclei, nuclei, nuclei], ("a.png", "b.png")):
        with pytest.raises(TypeError, match=r"is a \w+ of several images; give one of them, or numpy.stack"):
            as_image(images)
