"""The Python of guides and of the home page runs on images of the kinds that they name."""

import os
import shutil

import imagecodecs
import pytest
import tifffile
from skimage.data import immunohistochemistry

import pages

SECTION = immunohistochemistry()[:96, :128]
GUIDES = ("index", "segment", "slides", "cluster")
STARTS_WORKERS = ("cluster",)


@pytest.fixture
def folder(tmp_path, samples, monkeypatch):
    """Files of the names that the pages use; their content decides how they are read."""
    monkeypatch.chdir(tmp_path)
    for name in ("image.tif", "slide.svs", "slide.tif"):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(SECTION))
    with tifffile.TiffWriter(tmp_path / "positions.ome.tif") as file:
        for number in range(2):
            file.write(SECTION, photometric="rgb", metadata={"axes": "YXS", "Name": f"pos{number}"})
    shutil.copytree(samples / "plate.zarr", "plate.zarr")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("guide", GUIDES)
def test_the_python_of_a_guide_runs(guide, capsys):
    if guide in STARTS_WORKERS and os.environ.get("CYTOSEED_DOCS") != "all":
        pytest.skip("starts workers: make docs-test")
    blocks = [part.text for part in pages.parts(pages.DOCS / f"{guide}.md") if part.kind == "python"]
    assert blocks
    for code in blocks:
        exec(compile(code.replace("(10_000, 20_000, 5_000, 5_000)", "(10, 20, 100, 70)"), guide, "exec"), {})
    if guide != "index":
        assert capsys.readouterr().out.strip()
