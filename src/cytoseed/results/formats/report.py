"""A page to read about a result, as one HTML file without scripts; also how notebooks show a result."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytoseed.images.pixel_size import sides_um
from cytoseed.results.formats.crops import least_certain
from cytoseed.results.formats.overlay import draw_overlay
from cytoseed.results.formats.page import (
    STYLE,
    facts_of,
    histogram,
    page,
    picture,
    size_column,
    source_name,
    warning_boxes,
)
from cytoseed.results.view import ResultView

_PICTURE_PX, _DENSITY_PX, _SMALL_PICTURE_PX = 1600, 640, 640
_FIELDS, _SMALLEST_FIELD_PX, _OBJECTS_PER_FIELD = 48, 32, 6  # of the map of density: along a side; side; on average
_CHANNELS = 8  # whose means are shown


def write_report(result: ResultView, path: Path) -> None:
    """Write the page: overview, numbers, density, distributions, objects to check, warnings, and the record."""
    name = source_name(result)
    crops, by = least_certain(result)
    checked = [f"<h2>Objects to check, lowest {html.escape(by)} first</h2>", f'<div class="crops">{crops}</div>']
    body = [
        f"<h1>{html.escape(name)}</h1>",
        facts_of(result),
        *warning_boxes(result),
        picture(draw_overlay(result), _PICTURE_PX, "Outlines on the image"),
        *(["<h2>Density</h2>", _density(result)] if result.count else []),
        "<h2>Distributions</h2>",
        *distributions(result),
        *(checked if crops else []),
        f"<h2>Record</h2><p>The same image, version and settings give the same result; made by cytoseed "
        f"{html.escape(result.version)}.</p><pre>{html.escape(result.record.to_json(()))}</pre>",
    ]
    path.write_text(page(name, body), encoding="utf-8")


def summary_html(result: ResultView) -> str:
    """Short form for notebooks: overlay, numbers, sizes; without the overlay if the image is not found."""
    try:
        overlay = picture(draw_overlay(result, 2 * _SMALL_PICTURE_PX), _SMALL_PICTURE_PX, "Outlines on the image")
    except (FileNotFoundError, ValueError):
        overlay = ""
    sizes = next(distributions(result), "")
    body = f"<b>{html.escape(source_name(result))}</b>{facts_of(result)}{overlay}<br>{sizes}"
    return f'<style>{STYLE}</style><div class="cytoseed">{body}</div>'


def distributions(result: ResultView) -> Iterator[str]:
    """Histograms: size first, then score and shape, then the mean of each channel."""
    means = [name for name in result.columns if name.startswith("mean_")][:_CHANNELS]
    wanted = (size_column(result), "score", "eccentricity", "solidity", *means)
    names = [name for name in wanted if name in result.columns]
    for name, values in zip(names, result.measured(names), strict=True):
        finite = values[np.isfinite(values)]
        if finite.size:
            yield f"<figure>{histogram(finite)}<figcaption>{html.escape(name)}</figcaption></figure>"


def _density(result: ResultView) -> str:
    """Map of objects per area, in square fields, with its scale."""
    _, *sides = result.shape
    for_objects = math.sqrt(_OBJECTS_PER_FIELD * math.prod(sides) / result.count)
    side_px = max(_SMALLEST_FIELD_PX, -(-max(sides) // _FIELDS), min(math.ceil(for_objects), *sides))
    ends = [np.minimum(np.arange(-(-side // side_px) + 1) * side_px, side) for side in sides]
    x, y = result.measured(["centroid_x_px", "centroid_y_px"])
    counts, _, _ = np.histogram2d(y, x, bins=ends)
    size = result.pixel_size_um
    px_area, unit = (1.0, "Mpx") if size is None else (math.prod(sides_um(size)), "mm²")
    density = counts / (np.multiply.outer(*map(np.diff, ends)) * px_area / 1e6)
    most = float(density.max())
    shown = _viridis(density / most)
    factor = max(1, _DENSITY_PX // max(shown.shape))
    colours = ", ".join(
        f"rgb({', '.join(map(str, stop))})" for stop in _viridis(np.linspace(0, 1, 6)[None])[0].tolist()
    )
    bar = f'<span class="scale" style="background: linear-gradient(90deg, {colours})"></span>'
    caption = f"0 {bar} {most:,.0f} per {unit}, in fields of {side_px} px"
    drawn = picture(shown.repeat(factor, axis=0).repeat(factor, axis=1), _DENSITY_PX, "Map of density", 95)
    return f"<figure>{drawn}<figcaption>{caption}</figcaption></figure>"


def _viridis(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Colours (H,W,3) of values from 0 to 1."""
    import cv2

    colours = cv2.applyColorMap(np.rint(values * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(colours[..., ::-1], np.uint8)
