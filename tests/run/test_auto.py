"""Model `auto`: by the kind of image, before any tile, the same for arrays, files, tiles and pyramids."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from skimage.data import immunohistochemistry

import cytoseed
from cytoseed.images import as_image, open_image
from cytoseed.run.auto import choose_model
from cytoseed.settings import SegmentOptions

BROWN = immunohistochemistry()  # haematoxylin and DAB
SECTION = BROWN[..., [0, 2, 1]]  # pink in place of brown
DARK = np.where(SECTION > 200, SECTION // 2, 20).astype(np.uint8)
CHOICES = [
    ("nuclei", BROWN, {}),
    ("nuclei-he", SECTION, {}),
    ("nuclei-he", SECTION.transpose(2, 0, 1), {}),
    ("nuclei-he", np.where(SECTION < 150, SECTION, 255).astype(np.uint8), {}),
    ("nuclei", SECTION, {"stain": "haematoxylin"}),
    ("nuclei", SECTION, {"channels": (0,)}),
    ("nuclei", SECTION[..., 0], {}),
    ("nuclei", np.repeat(SECTION[..., :1], 3, axis=2), {}),
    ("nuclei", DARK, {}),
    ("nuclei", SECTION.astype(np.uint16), {}),
    ("nuclei", np.zeros((64, 64, 3), np.uint8), {}),
]


@pytest.mark.parametrize(("expected", "image", "given"), CHOICES, ids=range(len(CHOICES)))
def test_brightfield_in_colour_takes_the_tissue_model(expected, image, given):
    chosen = choose_model("auto", as_image(image), SegmentOptions(**given))
    assert chosen.model.config.name == expected
    assert chosen.image.shape == as_image(image).shape
    stain = "haematoxylin" if image is BROWN else given.get("stain")
    assert chosen.options == SegmentOptions(**{**given, "stain": stain})


def test_a_file_is_judged_by_its_pixels_at_any_size(tmp_path):
    large = np.tile(SECTION, (6, 6, 1))
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(large, subifds=1, tile=(256, 256), photometric="rgb")
        file.write(large[::4, ::4], subfiletype=1, tile=(256, 256), photometric="rgb")
    tifffile.imwrite(tmp_path / "flat.tif", large, tile=(256, 256), photometric="rgb")
    tifffile.imwrite(tmp_path / "small.tif", SECTION, photometric="rgb")
    tifffile.imwrite(tmp_path / "dark.tif", np.tile(DARK, (6, 6, 1)), tile=(256, 256), photometric="rgb")
    choices = {"pyramid": "nuclei-he", "flat": "nuclei-he", "small": "nuclei-he", "dark": "nuclei"}
    for name, expected in choices.items():
        assert (
            choose_model("auto", open_image(tmp_path / f"{name}.tif"), SegmentOptions()).model.config.name == expected
        )


def test_auto_is_the_default_and_gives_what_the_chosen_model_gives(tmp_path):
    image = SECTION[:256, :256]
    chosen = cytoseed.segment(image)
    named = cytoseed.segment(image, "nuclei-he")
    in_tiles = cytoseed.segment(image, tile_size_px=128, output=tmp_path)
    assert chosen.settings == named.settings
    assert chosen.settings["model"] == in_tiles.settings["model"] == "nuclei-he"
    assert np.array_equal(chosen.labels, named.labels)
    assert np.array_equal(chosen.labels > 0, in_tiles.labels > 0)
    brown, named = cytoseed.segment(BROWN), cytoseed.segment(BROWN, "nuclei", stain="haematoxylin")
    assert brown.settings == named.settings
    assert np.array_equal(brown.labels, named.labels)


def test_auto_is_no_model():
    with pytest.raises(ValueError, match="'auto' is a choice by image"):
        cytoseed.load_model("auto")
