"""Images in files."""

import pytest

from bright import bright_config, bright_segmenter
from cytoseed.models.weights import save_model
from scenes import write_discs


@pytest.fixture
def path(tmp_path):
    """A tiled TIFF of 500 x 420 px with some 170 discs."""
    write_discs(tmp_path / "scene.tif")
    return tmp_path / "scene.tif"


@pytest.fixture
def place(path):
    """Folder of that image and the model `bright`."""
    save_model(bright_segmenter(), bright_config(), path.parent / "bright")
    return path.parent
