"""Growth of time with objects and pixels: fits and pictures, in the form of the paper's Fig. 5."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from speed_runs import Ledger

MIDDLE = "600"
"""Image of the section `main` that has the density of those of the section `sizes`."""
_MAIN_THREADS = 2
_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#e69f00")


class Fit(NamedTuple):
    """A line y = start + slope x, or a power y = exp(start) x^slope."""

    start: float
    slope: float
    r2: float
    """Share of the variance that the line explains, of logarithms for a power; 1 where y does not vary."""
    worst: float
    """Largest distance of a point from the fit, relative to that point's y."""


def fit_line(points: NDArray[np.float64]) -> Fit:
    """Least squares through points (N, 2) of x and y."""
    start, slope, r2 = _least_squares(points)
    return Fit(start, slope, r2, _worst(start + slope * points[:, 0], points[:, 1]))


def fit_power(points: NDArray[np.float64]) -> Fit:
    """Least squares through the logarithms of points (N, 2) of x and y, above 0."""
    start, slope, r2 = _least_squares(np.log(points))
    return Fit(start, slope, r2, _worst(np.exp(start) * points[:, 0] ** slope, points[:, 1]))


def fit_objects(ledger: Ledger, method: str) -> Fit | None:
    """Line of seconds against true objects, images of 1024 px; None for fewer than three."""
    points = object_points(ledger, method)
    return fit_line(points) if len(points) > 2 else None


def fit_sizes(ledger: Ledger, method: str) -> Fit | None:
    """Power of seconds against pixels; None for fewer than three images."""
    points = size_points(ledger, method)
    return fit_power(points) if len(points) > 2 else None


def object_points(ledger: Ledger, method: str, field: str = "total_s") -> NDArray[np.float64]:
    """True objects and median seconds of the mosaics of the sections `objects` and `main`, (N, 2)."""
    images = [*ledger.images_of("objects"), *ledger.images_of("main")]
    return _points(ledger, method, [i for i in images if ledger.images[i]["channels"] == 1], field, "objects")


def size_points(ledger: Ledger, method: str) -> NDArray[np.float64]:
    """Pixels and median seconds of the images of one density, (N, 2)."""
    return _points(ledger, method, [*ledger.images_of("sizes"), MIDDLE], "total_s", "side") ** (2, 1)


def plot_objects(ledger: Ledger, path: Path) -> bool:
    """Draw time against nuclei, whole and after the network; false if there is nothing to draw."""
    methods = [method for method in ledger.methods_of("objects") if fit_objects(ledger, method)]
    if not methods:
        return False
    figure = Figure((10, 5), layout="constrained")
    whole, after = figure.subplots(1, 2)
    for method, colour in zip(methods, _COLOURS, strict=False):
        for panel, field in ((whole, "total_s"), (after, "post_s")):
            points = object_points(ledger, method, field)
            line = fit_line(points)
            ends = np.linspace(0, points[:, 0].max(), 100)
            panel.plot(*points.T, "o", color=colour, markersize=4)
            fitted = np.maximum(line.start + line.slope * ends, 1e-3)  # the axis is logarithmic
            panel.plot(ends, fitted, color=colour, linewidth=1, label=f"{method}, R² {line.r2:.3f}")
    for panel, title in ((whole, "image to labels"), (after, "post-processing")):
        _finish(panel, title, "nuclei in 1024 × 1024 px")
    whole.set_yscale("log")
    figure.savefig(path, dpi=100)
    return True


def plot_sizes(ledger: Ledger, path: Path) -> bool:
    """Draw time against pixels, both as logarithms; false if there is nothing to draw."""
    fits = {method: fit for method in ledger.methods_of("sizes") if (fit := fit_sizes(ledger, method))}
    if not fits:
        return False
    figure = Figure((5.5, 5), layout="constrained")
    panel = figure.subplots()
    for (method, fit), colour in zip(fits.items(), _COLOURS, strict=False):
        points = size_points(ledger, method)
        fitted = np.exp(fit.start) * points[:, 0] ** fit.slope
        panel.loglog(points[:, 0] / 1e6, points[:, 1], "o", color=colour, markersize=4)
        label = f"{method}: pixels^{fit.slope:.2f}, R² {fit.r2:.3f}"
        panel.loglog(points[:, 0] / 1e6, fitted, color=colour, linewidth=1, label=label)
    _finish(panel, "image to labels", "million pixels")
    figure.savefig(path, dpi=100)
    return True


def _points(ledger: Ledger, method: str, images: Iterable[str], field: str, fact: str) -> NDArray[np.float64]:
    points = []
    for image in images:
        sections = ("main", "objects", "sizes")
        values = [ledger.median(field, section, method, image, _MAIN_THREADS) for section in sections]
        points += [(ledger.images[image][fact], value) for value in values if not np.isnan(value)]
    return np.array(sorted(points), np.float64).reshape(-1, 2)


def _least_squares(points: NDArray[np.float64]) -> tuple[float, float, float]:
    """Start, slope and R²."""
    x, y = points.T
    if len(set(x)) < 2:
        raise ValueError(f"a line needs two points of different x, got x = {x.tolist()}")
    slope, start = np.polyfit(x, y, 1)
    rest, total = float(((y - start - slope * x) ** 2).sum()), float(((y - y.mean()) ** 2).sum())
    return float(start), float(slope), 1 - rest / total if total else 1.0


def _worst(fitted: NDArray[Any], y: NDArray[Any]) -> float:
    return float(np.abs(fitted / y - 1).max())


def _finish(panel: Any, title: str, label: str) -> None:
    panel.set(title=title, xlabel=label, ylabel="s")
    panel.grid(color="#dddddd")
    panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
