"""Parts of HTML pages about results: head, pictures, histograms, facts and warnings; every text is escaped."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import side_text, sides_um
from cytoseed.results.measure.stains import RGB_NAMES
from cytoseed.results.view import SINGULAR, ResultView

GENERATOR = '<meta name="generator" content="cytoseed">'
STYLE = """
.cytoseed { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; }
.cytoseed h1 { font-size: 26px; margin: 24px 0 4px; overflow-wrap: anywhere; }
.cytoseed h2 { font-size: 19px; margin: 28px 0 8px; }
.cytoseed img { max-width: 100%; border: 1px solid #8886; box-sizing: border-box; }
.cytoseed figure { display: inline-block; margin: 0 24px 16px 0; vertical-align: top; max-width: 100%; }
.cytoseed figcaption { font-size: 13px; }
.cytoseed .warning { border-left: 4px solid #e69f00; background: #e69f0018; padding: 4px 10px; margin: 6px 0; }
.cytoseed pre { overflow-x: auto; font-size: 12px; border: 1px solid #8886; padding: 8px; }
.cytoseed .crops figure { margin: 0 8px 8px 0; width: 112px; }
.cytoseed .crops img { width: 112px; height: 112px; object-fit: contain; }
.cytoseed .scale { display: inline-block; width: 120px; height: 10px; }
.cytoseed .bars { fill: #4c78a8; }
.cytoseed svg text { fill: currentColor; }
"""
_PAGE_STYLE = """
:root { color-scheme: light dark; }
body { padding: 0 20px 40px; }
@media print { figure, tr { break-inside: avoid; } .cytoseed pre { white-space: pre-wrap; } }
"""
_BINS, _WIDTH, _HEIGHT = 40, 320, 90
_EQUAL = 1e-9  # values that differ less, relatively, are one
_MANY_AT_EDGES = 0.2


def page(title: str, body: Iterable[str], more_style: str = "") -> str:
    """A whole page; the title is a plain text, the body is HTML."""
    head = (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}<title>{html.escape(title)}</title>'
    )
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    style = f"<style>{_PAGE_STYLE}{STYLE}{more_style}</style>"
    return "\n".join([f'{head}{view}{style}</head><body class="cytoseed">', *body, "</body></html>\n"])


def named_count(result: ResultView) -> str:
    """Number of objects with their name."""
    target = result.targets[-1]
    return f"{result.count:,} {target if result.count != 1 else SINGULAR[target]}"


def per_mm2(result: ResultView) -> float | None:
    """Objects per mm² of the image; None if its pixel size is unknown."""
    _, height, width = result.shape
    size = result.pixel_size_um
    return None if size is None else result.count / (height * width * math.prod(sides_um(size)) / 1e6)


def facts_of(result: ResultView) -> str:
    """Paragraph of count, size, scale, density and model."""
    channels, height, width = result.shape
    size, density = result.pixel_size_um, per_mm2(result)
    facts = [named_count(result), f"{width:,} x {height:,} px, {channels} channel{'s' if channels != 1 else ''}"]
    facts.append("pixel size unknown" if size is None else f"{side_text(size)} µm per pixel")
    if density is not None:
        facts.append(f"{density:,.0f} per mm²")
    facts += [f"{name} {result.settings[name]}" for name in ("model", "stain") if result.settings.get(name)]
    return f"<p>{html.escape('; '.join(facts))}</p>"


def warnings_of(result: ResultView) -> Iterator[str]:
    """Sentences on what may be wrong with a result."""
    if result.pixel_size_um is None and result.settings.get("diameter_px") is None:
        yield "The pixel size is unknown: the image was segmented as it is, which suits nuclei 8 to 40 px wide."
    segmented = result.settings.get("channel_names")
    is_colour = len(result.channel_names) == 3 and result.channel_names in RGB_NAMES
    if segmented and len(result.channel_names) > 1 and not is_colour:
        yield f"The image has {len(result.channel_names)} channels; segmented was {', '.join(map(str, segmented))}."
    if result.failed:
        yield f"{len(result.failed)} parts of the image failed and are empty: {'; '.join(result.failed[:3])}"
    if not result.count:
        yield "No objects were found."
    (at_edge,) = result.measured(["touches_image_edge"])
    if at_edge.size and at_edge.mean() > _MANY_AT_EDGES:
        yield f"{at_edge.mean():.0%} of the objects touch the edge of the image, so their sizes are too small."


def warning_boxes(result: ResultView) -> list[str]:
    """The warnings as HTML."""
    return [f'<p class="warning">{html.escape(text)}</p>' for text in warnings_of(result)]


def source_name(result: ResultView) -> str:
    """Name of the image's file, and of the image in it."""
    series = result.input.get("series")
    return f"{Path(result.source).name}{'' if series is None else f', {series}'}"


def size_column(result: ResultView) -> str:
    """Name of the column of areas, in µm² where that is known."""
    return "area_px" if result.pixel_size_um is None else "area_um2"


def histogram(values: NDArray[np.floating[Any]]) -> str:
    """Histogram from percentile 0.5 to 99.5, as SVG, with the median; values beyond are in the outer bars."""
    low, median, high = (float(value) for value in np.percentile(values, (0.5, 50, 99.5)))
    between = (low, high) if high - low > _EQUAL * abs(high) else (low, low + max(1, abs(low)))
    drawn = bars(values, between, _WIDTH, _HEIGHT)
    texts = ((0, "start", f"{low:.4g}"), (_WIDTH / 2, "middle", f"median {median:.4g}"), (_WIDTH, "end", f"{high:.4g}"))
    below = "".join(
        f'<text x="{x:g}" y="{_HEIGHT + 14}" text-anchor="{anchor}">{text}</text>' for x, anchor, text in texts
    )
    return f'<svg width="{_WIDTH}" height="{_HEIGHT + 18}" role="img" font-size="12">{drawn}{below}</svg>'


def bars(values: NDArray[np.floating[Any]], between: tuple[float, float], width: int, height: int) -> str:
    """Bars of a histogram, as a group of an SVG; values outside of its range are in the outer bars."""
    counts, _ = np.histogram(values.clip(*between), _BINS, between)
    step, most = width / _BINS, max(1, int(counts.max()))
    drawn = "".join(
        f'<rect x="{index * step:.1f}" y="{height * (1 - count / most):.1f}" width="{step * 0.85:.1f}" '
        f'height="{height * count / most:.1f}"/>'
        for index, count in enumerate(counts.tolist())
    )
    return f'<g class="bars">{drawn}</g>'


def picture(pixels: NDArray[np.uint8], largest_px: int, alt: str, quality: int = 88) -> str:
    """A picture (H,W,3) inside the page, as JPEG, at most as large as stated."""
    import cv2
    import imagecodecs

    height, width = pixels.shape[:2]
    factor = largest_px / max(height, width)
    if factor < 1:
        sides = max(1, round(width * factor)), max(1, round(height * factor))
        pixels = np.asarray(cv2.resize(pixels, sides, interpolation=cv2.INTER_AREA), np.uint8)
    encoded = base64.b64encode(imagecodecs.jpeg_encode(np.ascontiguousarray(pixels), level=quality)).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/jpeg;base64,{encoded}">'
