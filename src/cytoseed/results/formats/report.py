"""A page to read about a result, as one HTML file without scripts; also how notebooks show a result."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import side_text, sides_um
from cytoseed.results.formats.overlay import draw_overlay
from cytoseed.results.view import SINGULAR, ResultView

_PICTURE_PX, _SMALL_PICTURE_PX = 1600, 640
_BINS, _WIDTH, _HEIGHT = 40, 320, 90
_MANY_AT_EDGES = 0.2
_STYLE = """
.cytoseed { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; }
.cytoseed img { max-width: 100%; border: 1px solid #8884; }
.cytoseed figure { display: inline-block; margin: 0 24px 16px 0; vertical-align: top; }
.cytoseed figcaption { font-size: 13px; }
.cytoseed .warning { border-left: 4px solid #e69f00; padding-left: 8px; }
.cytoseed pre { overflow-x: auto; font-size: 12px; }
"""


def write_report(result: ResultView, path: Path) -> None:
    """Write the page: overview, numbers, distributions, warnings, and the record that makes the result again."""
    name = html.escape(Path(result.source).name)
    settings = html.escape(json.dumps(dict(result.settings), indent=2, ensure_ascii=False))
    body = [
        f"<h1>{name}</h1>",
        _facts(result),
        *(f'<p class="warning">{html.escape(text)}</p>' for text in _warnings(result)),
        _picture(draw_overlay(result), _PICTURE_PX),
        "<h2>Distributions</h2>",
        *_distributions(result),
        f"<h2>Settings</h2><pre>{settings}</pre>",
        f"<p>Image: {html.escape(json.dumps(dict(result.input), ensure_ascii=False))}</p>",
    ]
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
    page = f'{head}<style>:root {{ color-scheme: light dark }} {_STYLE}</style></head><body class="cytoseed">'
    path.write_text("\n".join([page, *body, "</body></html>\n"]), encoding="utf-8")


def summary_html(result: ResultView) -> str:
    """Short form for notebooks: overlay, numbers, sizes; without the overlay if the image is not found."""
    try:
        picture = _picture(draw_overlay(result, 2 * _SMALL_PICTURE_PX), _SMALL_PICTURE_PX)
    except (FileNotFoundError, ValueError):
        picture = ""
    name = html.escape(Path(result.source).name)
    sizes = next(_distributions(result), "")
    return f'<style>{_STYLE}</style><div class="cytoseed"><b>{name}</b>{_facts(result)}{picture}<br>{sizes}</div>'


def _facts(result: ResultView) -> str:
    channels, height, width = result.shape
    named = result.targets[-1] if result.count != 1 else SINGULAR[result.targets[-1]]
    size = result.pixel_size_um
    scale = "pixel size unknown" if size is None else f"{side_text(size)} µm per pixel"
    facts = [f"{result.count:,} {named}", f"{width:,} x {height:,} px, {channels} channels", scale]
    if size is not None:
        area_mm2 = height * width * math.prod(sides_um(size)) / 1e6
        facts.append(f"{result.count / area_mm2:,.0f} per mm²")
    model = result.settings.get("model")
    return f"<p>{html.escape('; '.join([*facts, *([f'model {model}'] if model else [])]))}</p>"


def _warnings(result: ResultView) -> Iterator[str]:
    if result.pixel_size_um is None and result.settings.get("diameter_px") is None:
        yield "The pixel size is unknown: the image was segmented as it is, which suits nuclei 8 to 40 px wide."
    if result.failed:
        yield f"{len(result.failed)} parts of the image failed and are empty: {'; '.join(result.failed[:3])}"
    if not result.count:
        yield "No objects were found."
    at_edge = result.measured(["touches_image_edge"])[0]
    if at_edge.size and at_edge.mean() > _MANY_AT_EDGES:
        yield f"{at_edge.mean():.0%} of the objects touch the edge of the image, so their sizes are too small."


def _distributions(result: ResultView) -> Iterator[str]:
    """Histograms: size first, then shape, then the mean of each channel."""
    table = result.empty_table
    area = "area_um2" if "area_um2" in table else "area_px"
    means = [name for name in table.columns if name.startswith("mean_")]
    names = [name for name in (area, "eccentricity", "solidity", *means[:8]) if name in table]
    for name, values in zip(names, result.measured(names), strict=True):
        finite = values[np.isfinite(values)]
        if finite.size:
            yield f"<figure>{_histogram(finite)}<figcaption>{html.escape(name)}</figcaption></figure>"


def _histogram(values: NDArray[np.floating[Any]]) -> str:
    """Histogram from percentile 0.5 to 99.5, as SVG, with the median."""
    low, median, high = (float(value) for value in np.percentile(values, (0.5, 50, 99.5)))
    counts, _ = np.histogram(values, _BINS, (low, high if high > low else low + 1))
    step, most = _WIDTH / _BINS, max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{_HEIGHT * (1 - count / most):.1f}" width="{step - 1:.1f}" '
        f'height="{_HEIGHT * count / most:.1f}"/>'
        for index, count in enumerate(counts.tolist())
    )
    text = f'<text x="0" y="{_HEIGHT + 14}">{low:.4g}</text><text x="{_WIDTH}" y="{_HEIGHT + 14}" '
    text += f'text-anchor="end">{high:.4g}</text><text x="{_WIDTH / 2}" y="{_HEIGHT + 14}" text-anchor="middle">'
    size = f'width="{_WIDTH}" height="{_HEIGHT + 18}"'
    return f'<svg {size} font-size="12" fill="currentColor">{bars}{text}median {median:.4g}</text></svg>'


def _picture(pixels: NDArray[np.uint8], largest_px: int) -> str:
    """A picture inside the page, as JPEG."""
    import cv2
    import imagecodecs

    height, width = pixels.shape[:2]
    factor = largest_px / max(height, width)
    if factor < 1:
        sides = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = np.asarray(cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA), np.uint8)
    encoded = base64.b64encode(imagecodecs.jpeg_encode(np.ascontiguousarray(pixels), level=88)).decode()
    return f'<img alt="Outlines on the image" src="data:image/jpeg;base64,{encoded}">'
