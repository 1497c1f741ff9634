"""Measurements of a result as columns by id, gathered in the background."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytoseed.results import Result


class Columns:
    """Numbers of all objects of the last target: column by name, a float32 per id from 1, NaN where there is none."""

    def __init__(self, result: Result) -> None:
        self._result, self._values = result, dict[str, NDArray[np.float32]]()
        self.done, self.error, self.is_ready = 0, "", threading.Event()
        threading.Thread(target=self._gather, daemon=True).start()

    def _gather(self) -> None:
        try:
            result, values = self._result, self._values
            for table in result.tables():
                own = table[table["target"] == result.targets[-1]] if len(result.targets) > 1 else table
                index = own["id"].to_numpy() - 1
                for name in own.columns:
                    if name != "id" and own[name].dtype.kind in "biuf":
                        column = values.setdefault(name, np.full(result.count, np.nan, np.float32))
                        column[index] = own[name].to_numpy(np.float32)
                self.done += len(own)
        except Exception as error:  # shown in the page
            self.error = f"{type(error).__name__}: {error}"
        self.is_ready.set()

    def names(self) -> list[str]:
        """Names of the columns so far."""
        return list(self._values)

    def column(self, name: str) -> NDArray[np.float32]:
        """One column, (K,) float32; waits until all are gathered. A KeyError if there is none of this name."""
        self.is_ready.wait()
        return self._values[name]

    def row(self, number: int) -> dict[str, Any]:
        """Finite measurements of the object with an id; an IndexError if there is none."""
        self.is_ready.wait()
        if not 1 <= number <= self._result.count:
            raise IndexError(number)
        pairs = {name: float(values[number - 1]) for name, values in self._values.items()}
        return {name: value for name, value in pairs.items() if np.isfinite(value)}
