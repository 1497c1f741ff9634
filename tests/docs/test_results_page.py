"""docs/results.md: its Python runs, and it names every format and every column."""

import re
from pathlib import Path

import imagecodecs
import pytest
from skimage.data import immunohistochemistry

import cytoseed
from cytoseed.results import WRITERS

TEXT = (Path(__file__).parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "image.png").write_bytes(imagecodecs.png_encode(immunohistochemistry()[:200, :220]))
    found = cytoseed.segment(folder / "image.png", stain="haematoxylin", pixel_size_um=0.5)
    found.save(folder, [name for name in WRITERS if name not in ("ngff-0.4", "geojson-split")])
    return folder, found


def _first_import(code):
    return re.search(r"import (\w+)", code)[1]


@pytest.mark.filterwarnings("ignore")  # warnings of other packages
@pytest.mark.parametrize("code", SNIPPETS, ids=_first_import)
def test_the_snippets_run(result, monkeypatch, capsys, code):
    monkeypatch.chdir(result[0])
    exec(compile(code, "docs/results.md", "exec"), {})
    capsys.readouterr()


def test_there_are_snippets_for_each_kind_of_file():
    assert len(SNIPPETS) == 10


def test_every_format_is_in_the_table():
    named = set(re.findall(r"`([^`]+)`", "".join(re.findall(r"^\| `.*?\|.*?\|", TEXT, re.MULTILINE))))
    assert set(WRITERS) <= named
    assert {writer.suffix for writer in WRITERS.values()} <= {name.removesuffix("/") for name in named}


def test_every_column_is_in_the_table(result):
    columns = {re.sub(r"_(px|um2?)$", "", name) for name in result[1].table.columns}
    statistic = re.compile(r"(mean|sd|p\d\d)_")
    others = [name for name in columns if not statistic.match(name)]
    assert not [name for name in others if name not in TEXT and re.sub("_[xy]$", "", name) not in TEXT]
    found = {match[1] for match in map(statistic.match, columns) if match}
    assert found == set(re.findall(r"`(mean|sd|p\d\d)_…`", TEXT))
