"""`cytoseed report`: one page for a folder, one per image, right numbers, harmless names, nothing overwritten."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cytoseed.results import Result
from scenes import names

NAME = '"><script>alert(1)<b> & co.tif'


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.tags, self.rows, self.scripts = [], [], 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


@pytest.fixture
def results(tmp_path):
    """Two results, of 3 and 0 objects; the image of neither is found, as it was an array."""
    folder = tmp_path / "r & r"
    for name, count in ((NAME, 3), ("b.tif", 0)):
        labels = np.zeros((40, 50), np.int32)
        for number in range(count):
            labels[5:15, 5 + 14 * number : 15 + 14 * number] = number + 1
        result = Result.from_labels(labels, labels[None].astype(np.uint8), source=name, pixel_size_um=0.5)
        result.save(folder, ["objects", "report"] if count else ["objects"])
    return folder


def test_the_page_of_a_folder(run, results):
    done = run("report", results)
    assert (done.exit_code, done.stdout) == (0, f"2 images -> {results / 'report.html'}\n")
    page = Page(results / "report.html")
    head, *rows = page.rows
    assert [row[:2] + row[2:5] for row in sorted(rows)] == [
        [NAME, "", "3", "6,000", "25 µm²"],
        ["b.tif", "", "0", "0", ""],
    ]
    assert head[0] == "image"
    assert "No objects were found." in sorted(rows)[1][-1]
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "b" not in [tag for tag, _ in page.tags]
    [link] = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert re.fullmatch(r"[\w%.-]+", link)
    assert "needs the image" in done.stderr


def test_pages_of_images_that_are_found_are_written_and_linked(run, segment, image, tmp_path):
    assert segment(image, "--format", "objects").exit_code == 0
    assert run("report", tmp_path / "out", "--output", tmp_path / "page.html").exit_code == 0
    page = Page(tmp_path / "page.html")
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["out/scene.report.html"]
    assert "scene.report.html" in names(tmp_path / "out")
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert page.rows[1][0] == "scene.tif"
    assert run("report", tmp_path / "out", "--output", tmp_path / "page.html").exit_code == 0, "its own is replaced"


def test_other_files_are_never_replaced(run, results):
    (results / "report.html").write_text("mine")
    done = run("report", results)
    assert done.exit_code == 1
    assert "was not made by cytoseed" in done.stderr
    assert (results / "report.html").read_text() == "mine"


def test_a_folder_without_results(run, tmp_path):
    assert "no stored result found" in run("report", tmp_path).stderr
    assert "is not a folder" in run("report", tmp_path / "none").stderr
