"""The pictures of docs/benchmarks.md's section on speed, in the form of the paper's Fig. 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from speed_fit import fit_line
from speed_runs import Ledger, names
from speed_tables import fit_objects, fit_sizes, object_points, size_points

_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#e69f00")


def plot_objects(ledger: Ledger, path: Path) -> bool:
    """Draw time against the number of nuclei, of the whole and of what follows the network, with lines fitted.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    methods = [method for method in names(ledger.of("objects")) if fit_objects(ledger, method)]
    if not methods:
        return False
    figure = Figure((10, 5), layout="constrained")
    whole, after = figure.subplots(1, 2)
    for method, colour in zip(methods, _COLOURS, strict=False):
        for panel, field in ((whole, "total_s"), (after, "post_s")):
            points = np.array(object_points(ledger, method, field))
            line = fit_line(points[:, 0].tolist(), points[:, 1].tolist())
            ends = np.linspace(0, points[:, 0].max(), 100)
            panel.plot(*points.T, "o", color=colour, markersize=4)
            fitted = np.maximum(line.start + line.slope * ends, 1e-3)  # of a logarithm
            panel.plot(ends, fitted, color=colour, linewidth=1, label=f"{method}, R² {line.r2:.3f}")
    for panel, title in ((whole, "image to labels"), (after, "post-processing")):
        _finish(panel, title, "nuclei in 1024 × 1024 px")
    whole.set_yscale("log")
    figure.savefig(path, dpi=100)
    return True


def plot_sizes(ledger: Ledger, path: Path) -> bool:
    """Draw time against the number of pixels, both as logarithms, with lines fitted.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    figure = Figure((5.5, 5), layout="constrained")
    panel = figure.subplots()
    drawn = False
    for method, colour in zip(names(ledger.of("sizes")), _COLOURS, strict=False):
        fit = fit_sizes(ledger, method)
        if fit is None:
            continue
        points = np.array(size_points(ledger, method))
        fitted = np.exp(fit.start) * points[:, 0] ** fit.slope
        panel.loglog(points[:, 0] / 1e6, points[:, 1], "o", color=colour, markersize=4)
        label = f"{method}: pixels^{fit.slope:.2f}, R² {fit.r2:.3f}"
        panel.loglog(points[:, 0] / 1e6, fitted, color=colour, linewidth=1, label=label)
        drawn = True
    if drawn:
        _finish(panel, "image to labels", "million pixels")
        figure.savefig(path, dpi=100)
    return drawn


def _finish(panel: Any, title: str, label: str) -> None:
    panel.set(title=title, xlabel=label, ylabel="s")
    panel.grid(color="#dddddd")
    panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
