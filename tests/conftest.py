"""Settings of all tests, and an image in a file."""

import os

import pytest
from hypothesis import settings

from remote import bucket, cache, s3_server, web  # noqa: F401 - fixtures

os.environ.setdefault("OMP_NUM_THREADS", "1")  # many small tensors: threads that wait for each other only slow them
settings.register_profile("cytoseed", deadline=None)  # a deadline is a timed test: it fails on a busy machine
settings.load_profile("cytoseed")


@pytest.fixture(scope="session")
def nuclei():
    """The bundled model."""
    from cytoseed.models.weights import load_model

    return load_model("nuclei")


@pytest.fixture
def path(tmp_path):
    """A tiled TIFF of 500 x 420 px with some 170 discs."""
    from scenes import write_discs

    write_discs(tmp_path / "scene.tif")
    return tmp_path / "scene.tif"


@pytest.fixture
def place(path):
    """Folder of that image and the model `bright`."""
    from bright import bright_config, bright_segmenter
    from cytoseed.models.weights import save_model

    save_model(bright_segmenter(), bright_config(), path.parent / "bright")
    return path.parent
