"""Figures made of many runs: medians with their spread, and straight lines through points."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speed_runs import Record


class Spread(NamedTuple):
    """Seconds of several runs."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Median, then lowest and highest where there are several."""
        text = seconds(self.median)
        return text if self.low == self.high else f"{text} ({seconds(self.low)} to {seconds(self.high)})"


class Fit(NamedTuple):
    """A straight line y = start + slope x."""

    start: float
    slope: float
    r2: float
    """Share of the variance of y that the line explains; 1 where y does not vary."""
    worst: float
    """Largest distance of a point from the line, as a share of that point's y."""


def spread(values: Iterable[float]) -> Spread:
    """Give median, lowest and highest of one value or more."""
    known = list(values)
    return Spread(statistics.median(known), min(known), max(known))


def median_of(records: Sequence[Record], field: str) -> float | None:
    """Give the median of a field over those records that have it; None where none does."""
    known = [value for value in (getattr(record, field) for record in records) if value is not None]
    return statistics.median(known) if known else None


def fit_line(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit a line by least squares.

    Parameters
    ----------
    x, y : sequence of float
        Two points or more, of different x; y not 0.

    Raises
    ------
    ValueError
        If there are fewer.
    """
    start, slope, r2 = _least_squares(x, y)
    return Fit(start, slope, r2, _worst(start + slope * np.asarray(x), y))


def fit_power(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fit y = c x^p as a line between logarithms: `slope` is p, and `worst` is that of y itself.

    Parameters
    ----------
    x, y : sequence of float
        Above 0; two points or more, of different x.
    """
    start, slope, r2 = _least_squares(np.log(x).tolist(), np.log(y).tolist())
    return Fit(start, slope, r2, _worst(np.exp(start) * np.asarray(x) ** slope, y))


def seconds(value: float) -> str:
    """Three digits: 0.0123, 0.123, 1.23, 12.3, 123."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}" if value >= 1 else f"{value:.3f}"


def _least_squares(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Start, slope and R²."""
    if len(set(x)) < 2:
        raise ValueError(f"a line wants two points of different x, got x = {list(x)}")
    slope, start = np.polyfit(x, y, 1)
    known = np.asarray(y, dtype=np.float64)
    rest = float(((known - start - slope * np.asarray(x)) ** 2).sum())
    total = float(((known - known.mean()) ** 2).sum())
    return float(start), float(slope), 1 - rest / total if total else 1.0


def _worst(fitted: NDArray[Any], y: Sequence[float]) -> float:
    return float(np.abs(fitted / np.asarray(y) - 1).max())
