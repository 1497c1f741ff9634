"""Compartments of cells: the cytoplasm is measured, and the row of each cell gets its nucleus, cytoplasm and whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.results.measure.runs import find_runs

if TYPE_CHECKING:
    import pandas as pd

COMPARTMENTS = ("nucleus", "cytoplasm", "cell")
"""Beginnings of the columns, in their order."""

_CYTOPLASM = "cytoplasm_"
_DERIVED = ("nucleus_", "cell_")


class Cytoplasm(NamedTuple):
    """Pixels of those of K cells that have any outside their nucleus."""

    place: NDArray[np.int64]  # (N,) places among the K cells
    pixels: NDArray[np.int64]  # of the flattened image, cell by cell
    area_px: NDArray[np.int64]  # (N,) number of pixels of each


def find_cytoplasm(cells: NDArray[np.int32], nuclei: NDArray[np.int32], ids: NDArray[np.int32]) -> Cytoplasm:
    """Pixels of cells (H,W), whose `ids` are ascending, that are not of the nucleus of the same id."""
    runs = find_runs(np.where(cells == nuclei, np.int32(0), cells))
    area = np.bincount(runs.place, weights=runs.last - runs.first + 1, minlength=len(runs.ids)).astype(np.int64)
    return Cytoplasm(np.searchsorted(ids, runs.ids), runs.pixels(cells.shape[1]), area)


def join_compartments(table: pd.DataFrame) -> pd.DataFrame:
    """Table of nuclei and cells with `nucleus_...`, `cytoplasm_...` and `cell_...` of every statistic, at the end.

    They stand in the row of the cell; those of the nucleus also in that of a nucleus without a cell. All others are
    NaN. A cell and its nucleus must be in the same table. A table without `cytoplasm_...` stays as it is.
    """
    import pandas as pd

    measured = [str(name).removeprefix(_CYTOPLASM) for name in table.columns if str(name).startswith(_CYTOPLASM)]
    if not measured or "target" not in table.columns:
        return table
    ids, is_cell = table["id"].to_numpy(), (table["target"] == "cells").to_numpy()
    nuclei = np.flatnonzero(~is_cell)
    nuclei = nuclei[np.argsort(ids[nuclei], kind="stable")]
    at = np.searchsorted(ids[nuclei], ids)
    has_nucleus = np.append(ids[nuclei], -1)[at] == ids
    is_alone = ~is_cell & ~np.isin(ids, ids[is_cell])
    nucleus = np.append(nuclei, 0)[at] if len(nuclei) else np.zeros(len(ids), np.int64)
    values = table[measured].to_numpy(np.float64)
    shown = {
        "nucleus": np.where((has_nucleus & (is_cell | is_alone))[:, None], values[nucleus], np.nan),
        "cytoplasm": np.where(
            (has_nucleus & is_cell)[:, None], table[[_CYTOPLASM + name for name in measured]], np.nan
        ),
        "cell": np.where(is_cell[:, None], values, np.nan),
    }
    own = [pd.DataFrame(shown[each], table.index, [f"{each}_{name}" for name in measured]) for each in COMPARTMENTS]
    return pd.concat([table.drop(columns=[_CYTOPLASM + name for name in measured]), *own], axis=1)


def without_derived(table: pd.DataFrame) -> pd.DataFrame:
    """Table without the columns that `join_compartments` derives from others."""
    return table.drop(columns=[name for name in table.columns if str(name).startswith(_DERIVED)])
