"""A result as a plot of Matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.formats.overlay import as_rgb, draw_overlay
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST_PX = 2048
_OPACITY = 0.85


def plot(result: ResultView, measurement: str | None, ax: Axes | None) -> Axes:
    """Draw the overlay, or the objects in the colours of a measurement on the image."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install 'cytoseed[plot]'", name="matplotlib") from error
    _, height, width = result.shape
    where: dict[str, Any] = {"extent": (0, width, height, 0), "interpolation": "nearest"}
    if measurement is None:
        picture, values = draw_overlay(result, _LARGEST_PX), None
    else:
        values_of = _values_by_id(result, measurement)
        image, planes = result.overview(_LARGEST_PX)
        picture, values = as_rgb(image, result.channel_names), values_of[planes[-1]]
    axes = plt.subplots(layout="constrained")[1] if ax is None else ax
    axes.imshow(picture, **where)
    if values is not None:
        shown = axes.imshow(np.ma.masked_invalid(values), alpha=_OPACITY, **where)
        axes.figure.colorbar(shown, ax=axes, label=measurement, shrink=0.8)
    axes.set(title=f"{Path(result.source).name}: {result.count} {result.targets[-1]}", xlabel="x (px)", ylabel="y (px)")
    return axes


def _values_by_id(result: ResultView, name: str) -> NDArray[np.float32]:
    """Measurement of the last target's objects, at the places of their ids; NaN elsewhere."""
    if name not in result.columns:
        raise ValueError(f"measurement is {name!r}; it must be a column of the table: {', '.join(result.columns)}")
    ids, values = result.measured(["id", name])
    found = np.full(int(ids.max(initial=0)) + 1, np.nan, np.float32)
    found[ids.astype(np.int64)] = values
    return found
