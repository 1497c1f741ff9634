"""Tutorials and the notebook: commands and Python run, in order, and print and write what the pages show.

`CYTOSEED_DOCS=all` runs all of each page, also trainings and slides (`make docs-test`).
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from skimage.color import hed2rgb, rgb2hed
from skimage.data import immunohistochemistry

import pages

IN_FULL = os.environ.get("CYTOSEED_DOCS") == "all"
SLIDES = Path(os.environ.get("CYTOSEED_DATA", pages.ROOT.parent / "shared" / "data")) / "slides"
NOTEBOOK = pages.ROOT / "examples" / "first_steps.ipynb"
APERIO = "Aperio Image Library v1\n2220x2967 (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.499"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_slide(path):
    """The slide of the tutorial, or in its place one of the same size and kind."""
    if IN_FULL and (SLIDES / path.name).exists():
        shutil.copy(SLIDES / path.name, path)
        return
    pixels = np.full((2967, 2220, 3), 245, np.uint8)
    stains = rgb2hed(immunohistochemistry())[..., [0, 2, 1]]  # pink in place of brown
    pixels[1600:2112, 900:1412] = np.round(255 * hed2rgb(stains))
    tifffile.imwrite(
        path, pixels, tile=(256, 256), compression="jpeg", photometric="rgb", description=APERIO, metadata=None
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of matplotlib
@pytest.mark.parametrize("page", pages.TUTORIALS, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_shows(page, folder, samples):
    if page.stem != "index":  # which shows what `cytoseed samples` prints
        shutil.copytree(samples, folder / "samples")
    if page.stem == "slide":
        write_slide(folder / "CMU-1-Small-Region.svs")
    pages.run_page(page, quick=not IN_FULL)


def test_a_page_that_shows_something_else_fails(folder):
    page = folder / "page.md"
    page.write_text("```python\nprint('4 nuclei')\n```\n\n```output\n5 nuclei\n```\n")
    pages.run_page(page, quick=True)  # numbers may differ
    page.write_text("```python\nprint('4 nuclei')\n```\n\n```output\n4 cells\n```\n")
    with pytest.raises(AssertionError, match="4 cells"):
        pages.run_page(page, quick=True)
    page.write_text("<!-- picture: a.png -->\n![A picture](a.jpg)\n")
    with pytest.raises(AssertionError, match="has not made"):
        pages.run_page(page, quick=True)
    page.write_text("```\ncytoseed segment nothing.tif --output results\n```\n")
    with pytest.raises(RuntimeError, match=r"nothing\.tif"):
        pages.run_page(page, quick=True)


def test_the_notebook_runs(folder, capsys):
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    assert (folder / "results" / "array.geojson").exists()
    assert names["result"].count > 200
    capsys.readouterr()


def test_pictures_are_small():
    files = [path for path in (pages.DOCS / "images").rglob("*") if path.is_file()]
    assert len(files) > 10
    assert sum(path.stat().st_size for path in files) < 3_000_000
