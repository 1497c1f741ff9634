"""A page about all results of a folder: a table that can be sorted, with pictures, numbers and distributions."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import side_text
from cytoseed.paths import write_bytes
from cytoseed.results.formats.overlay import draw_overlay
from cytoseed.results.formats.page import (
    GENERATOR,
    bars,
    histogram,
    page,
    per_mm2,
    picture,
    size_column,
    source_name,
    warnings_of,
)
from cytoseed.results.view import ResultView

NAME = "report.html"
"""Name of the page in the folder."""

_DRAWN_PX, _PICTURE_PX = 720, 240
_BARS_PX = (160, 44)
_MOST_UM2, _USUAL_UM = 150, 0.5  # largest area of the histograms, which are comparable; pixel size where it is unknown
_MANY = 8  # images, from which on their numbers have histograms
_AREAS = f"areas, 0 to {_MOST_UM2} µm² or {_MOST_UM2 / _USUAL_UM**2:g} px"
_STYLE = """
.cytoseed { max-width: none; }
.cytoseed table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.cytoseed th, .cytoseed td { padding: 6px 12px; text-align: left; vertical-align: top; border-bottom: 1px solid #8884; }
.cytoseed th { position: sticky; top: 0; background: Canvas; }
.cytoseed th button { all: unset; cursor: pointer; font-weight: 600; }
.cytoseed th button:focus-visible { outline: 2px solid; }
.cytoseed th[aria-sort=ascending] button::after { content: " \\2191"; }
.cytoseed th[aria-sort=descending] button::after { content: " \\2193"; }
.cytoseed td.number { text-align: right; }
.cytoseed td.name { max-width: 260px; overflow-wrap: anywhere; }
.cytoseed td img { max-width: 160px; max-height: 120px; }
.cytoseed td .warning { max-width: 340px; font-size: 13px; }
"""
# A click on a head sorts its column by the numbers or texts in data-value; the second one the other way round.
_SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentNode, body = document.querySelector("tbody");
  const descends = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descends ? "descending" : "ascending");
  const value = (row) => row.children[head.cellIndex].dataset.value;
  const compare = (a, b) => value(a).localeCompare(value(b), undefined, {numeric: true});
  const rows = [...body.rows].sort(head.dataset.numbers ? (a, b) => value(a) - value(b) : compare);
  body.append(...(descends ? rows.reverse() : rows));
};
"""


@dataclass(frozen=True)
class Row:
    """One image of the table; texts are plain, pictures are HTML."""

    name: str
    link: str  # address of its own report; empty without one
    shown: str
    count: int
    density: float  # per mm²; NaN if the pixel size is unknown
    size: float  # median area
    unit: str
    sizes: str
    pixel_size: str
    model: str
    warnings: tuple[str, ...]


def describe(result: ResultView, report: Path | None, folder: Path) -> Row:
    """Row of a result, with its own report, in a page in a folder; without a picture if the image is not found."""
    warnings, shown = list(warnings_of(result)), ""
    try:
        shown = picture(draw_overlay(result, _DRAWN_PX), _PICTURE_PX, "Outlines on the image", 80)
    except (FileNotFoundError, ValueError) as error:
        warnings.append(str(error))
    (areas,) = result.measured([size_column(result)])
    most = _MOST_UM2 if result.pixel_size_um is not None else _MOST_UM2 / _USUAL_UM**2
    stain, density = result.settings.get("stain"), per_mm2(result)
    return Row(
        source_name(result),
        "" if report is None else quote(Path(os.path.relpath(report, folder)).as_posix()),
        shown,
        result.count,
        math.nan if density is None else density,
        float(np.median(areas)) if areas.size else math.nan,
        "px" if result.pixel_size_um is None else "µm²",
        _sizes(areas, most),
        "unknown" if result.pixel_size_um is None else f"{side_text(result.pixel_size_um)} µm",
        f"{result.settings.get('model', '')}{f' on {stain}' if stain else ''}",
        tuple(warnings),
    )


def write_folder_report(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write the page; one of the same name is replaced only if it is such a page.

    Raises FileExistsError for any other file.
    """
    if path.exists():
        with path.open("rb") as file:
            if GENERATOR.encode() not in file.read(1000):
                raise FileExistsError(f"{path} was not made by cytoseed; move it, or give another --output")
    total, warned = sum(row.count for row in rows), sum(bool(row.warnings) for row in rows)
    facts = f"{len(rows):,} images; {total:,} objects; {warned:,} images with warnings"
    titles = ("image", "", "objects", "per mm²", "median area", _AREAS, "pixel size", "model", "warnings")
    numbers = {"objects", "per mm²", "median area", "warnings"}
    heads = "".join(_head(title, title in numbers) for title in titles)
    body = [
        f"<h1>{html.escape(title)}</h1><p>{facts}</p>",
        _counts(rows),
        f"<table><thead><tr>{heads}</tr></thead><tbody>",
        *map(_row, rows),
        f"</tbody></table><script>{_SCRIPT}</script>",
    ]
    write_bytes(path, page(title, body, _STYLE).encode())


def _sizes(areas: NDArray[np.float64], most: float) -> str:
    """Histogram of areas without texts."""
    width, height = _BARS_PX
    return f'<svg width="{width}" height="{height}" role="img">{bars(areas, (0, most), width, height)}</svg>'


def _counts(rows: Sequence[Row]) -> str:
    """Histograms of the numbers of all images."""
    figures = []
    numbers = {"objects": [float(row.count) for row in rows], "objects per mm²": [row.density for row in rows]}
    for name, values in numbers.items():
        finite: NDArray[np.float64] = np.array(values)[np.isfinite(values)]
        if finite.size > _MANY:
            figures.append(f"<figure>{histogram(finite)}<figcaption>{name}, by image</figcaption></figure>")
    return "".join(figures)


def _head(title: str, is_number: bool) -> str:
    if title in ("", _AREAS):
        return f"<th>{title}</th>"
    return f"<th{' data-numbers=1' if is_number else ''}><button>{title}</button></th>"


def _row(row: Row) -> str:
    name = html.escape(row.name)
    linked = f'<a href="{row.link}">{name}</a>' if row.link else name
    texts = "".join(f'<p class="warning">{html.escape(text)}</p>' for text in row.warnings)
    unit = f" {row.unit}" if math.isfinite(row.size) else ""
    cells = [
        f'<td class="name" data-value="{name}">{linked}</td><td>{row.shown}</td>',
        _number(row.count, f"{row.count:,}"),
        _number(row.density, f"{row.density:,.0f}"),
        _number(row.size, f"{row.size:,.4g}{unit}"),
        f"<td>{row.sizes}</td>",
        f'<td data-value="{html.escape(row.pixel_size)}">{html.escape(row.pixel_size)}</td>',
        f'<td data-value="{html.escape(row.model)}">{html.escape(row.model)}</td>',
        f'<td data-value="{len(row.warnings)}">{texts}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _number(value: float, text: str) -> str:
    """Cell of a number; an unknown one is empty, and comes before all others."""
    is_known = math.isfinite(value)
    return f'<td class="number" data-value="{value if is_known else -1}">{text if is_known else ""}</td>'
