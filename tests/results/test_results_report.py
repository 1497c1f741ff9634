"""The page about a result and its form in notebooks: right numbers, warnings, no markup from names, no scripts."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cytoseed.results import Result, open_result

NAME = "<script>alert(1)<b> & co.tif"


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def result_of(labels, **facts):
    image = np.stack([labels * 3 % 250, labels % 250, labels % 100]).astype(np.uint8)
    return Result.from_labels(labels, image, source=NAME, settings={"model": "<b>m</b>"}, **facts)


def squares(height=200, width=300):
    labels = np.zeros((height, width), np.int32)
    for number in range(60):
        y, x, side = 5 + 20 * (number // 12), 5 + 24 * (number % 12), 6 + number % 7
        labels[y : y + side, x : x + side] = number + 1
    return labels


def test_a_report_is_one_harmless_page_with_the_numbers(tmp_path):
    (path, _) = result_of(squares(), pixel_size_um=0.5).save(tmp_path, ["report"])
    assert path.name.endswith(".report.html")
    page = Page(path.read_text(encoding="utf-8"))
    assert not [tag for tag, attrs in page.tags if tag in ("script", "link", "iframe", "b") or "onclick" in attrs]
    assert all(attrs["src"].startswith("data:image/jpeg;base64,") for tag, attrs in page.tags if tag == "img")
    assert NAME in page.text
    assert "60 nuclei" in page.text
    assert "4,000 per mm²" in page.text
    assert "median 20.25" in page.text  # µm²: sides of 6 to 12 px, 9 in the middle
    assert "warning" not in [attrs.get("class") for _, attrs in page.tags]
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (squares(), "The pixel size is unknown"),
        (np.zeros((40, 50), np.int32), "No objects were found"),
        (squares()[5:20, :40], "of the objects touch the edge"),
    ],
)
def test_a_report_warns(tmp_path, labels, warning):
    (path, _) = result_of(labels).save(tmp_path, ["report"])
    page = Page(path.read_text(encoding="utf-8"))
    assert warning in page.text


def test_a_notebook_shows_a_result_with_and_without_its_image(tmp_path):
    result = result_of(squares())
    shown = result._repr_html_()
    assert "60 nuclei" in Page(shown).text
    assert "<script" not in shown
    assert len(re.findall("<img ", shown)) == 1
    (path, _) = result.save(tmp_path, ["objects"])
    alone = open_result(path)._repr_html_()
    assert "60 nuclei" in Page(alone).text
    assert "<img " not in alone
