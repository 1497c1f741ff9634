"""The page about a result and its form in notebooks: right numbers, warnings, no markup from names, no scripts."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import imagecodecs
import numpy as np
import pytest

from cytoseed.results import Result, open_result
from cytoseed.results.view import LabelImage

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
    return Result.from_labels(labels, image, **{"source": NAME, "settings": {"model": "<b>m</b>"}, **facts})


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
    assert path.stat().st_size < 600_000
    assert '"model": "<b>m</b>"' in page.text  # the record


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        (squares(), "The pixel size is unknown"),
        (np.zeros((40, 50), np.int32), "No objects were found"),
        (squares()[5:20, :40], "of the objects touch the edge"),
        (squares(), "The image has 3 channels; segmented was <i>DAPI."),
    ],
)
def test_a_report_warns(tmp_path, labels, warning):
    names = ("<i>DAPI", "CD3", "CD8")
    result = result_of(labels, channel_names=names, settings={"channel_names": names[:1]})
    (path, _) = result.save(tmp_path, ["report"])
    page = Page(path.read_text(encoding="utf-8"))
    assert warning in page.text
    assert "i" not in [tag for tag, _ in page.tags]


def test_objects_to_check_are_those_of_lowest_solidity_with_their_outlines(tmp_path):
    labels = squares()
    labels[45:52, 53:60] = np.where(np.eye(7, dtype=bool) | np.eye(7, k=1, dtype=bool), 27, 0)  # a diagonal line
    result = result_of(labels, pixel_size_um=0.5)
    (path, _) = result.save(tmp_path, ["report"])
    page = Page(path.read_text(encoding="utf-8"))
    crops = [(attrs["alt"], attrs["src"]) for tag, attrs in page.tags if attrs.get("alt", "").startswith("Object ")]
    assert len(crops) == 24
    lowest = result.table.sort_values("solidity", kind="stable")["id"].tolist()
    assert [alt for alt, _ in crops] == [f"Object {number}" for number in lowest[:24]]
    assert lowest[0] == 27
    pixels = imagecodecs.jpeg_decode(base64.b64decode(crops[0][1].split(",")[1]))
    is_yellow = (pixels[..., 0] > 180) & (pixels[..., 1] > 150) & (pixels[..., 2] < 120)
    assert 100 < is_yellow.sum() < 4000


def test_the_map_of_density_has_its_scale(tmp_path):
    labels = np.zeros((640, 640), np.int32)
    for number in range(36):
        y, x = 4 + 40 * (number // 6), 4 + 40 * (number % 6)  # all in the upper left
        labels[y : y + 9, x : x + 9] = number + 1
    (path, _) = result_of(labels, pixel_size_um=0.5).save(tmp_path, ["report"])
    page = Page(path.read_text(encoding="utf-8"))
    side = int(re.search(r"in fields of (\d+) px", page.text)[1])
    most = int(re.search(r"0\s+([\d,]+) per mm²", page.text)[1].replace(",", ""))
    assert side == 262  # 6 objects per field, if they were spread
    assert most == round(36 / (side * 0.5 / 1000) ** 2)


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


def test_objects_of_lowest_score_come_first_where_there_are_scores(tmp_path):
    labels = squares()
    result = result_of(labels)
    score = np.where(result.table["id"] == 30, 0.2, 0.9)
    object.__setattr__(result, "contents", LabelImage(labels[None], lambda: result.table.assign(score=score)))
    (path, _) = result.save(tmp_path, ["report"])
    page = Page(path.read_text(encoding="utf-8"))
    crops = [attrs["alt"] for tag, attrs in page.tags if attrs.get("alt", "").startswith("Object ")]
    assert crops[:2] == ["Object 30", "Object 1"]
    assert "lowest score first" in page.text
    assert "score" in page.text.split("Distributions")[1].split("Objects to check")[0]


def test_equal_cells_and_a_single_pixel_have_reports(tmp_path):
    planes = np.zeros((2, 60, 60), np.int32)
    planes[:, 8:24, 8:24] = 1
    planes[1, 40:50, 40:50] = 2  # of the same eccentricity, which differs by rounding
    pixels = np.zeros((1, 60, 60), np.uint8)
    cells = Result.from_labels(planes, pixels, targets=("nuclei", "cells"), source="a.tif", pixel_size_um=(0.5, 0.6))
    pixel = Result.from_labels(np.ones((1, 1), np.int32), pixels[:, :1, :1], source="b.tif")
    for result, told in ((cells, "2 cells"), (pixel, "1 nucleus")):
        (path, _) = result.save(tmp_path, ["report"])
        assert told in Page(path.read_text(encoding="utf-8")).text
        assert told in result._repr_html_()
