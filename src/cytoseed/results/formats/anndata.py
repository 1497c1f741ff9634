"""The measurements as an AnnData file, for scanpy, squidpy and what else reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.results.annotated import write_annotated

if TYPE_CHECKING:
    from cytoseed.results.view import ResultView


def write_anndata(result: ResultView, path: Path) -> None:
    """Write the table as h5ad: one row an object, of two targets one a cell, as `write_annotated` has it.

    Without times in it: the same result gives the same bytes.
    """
    import h5py

    with h5py.File(path, "w") as file:
        write_annotated(result, file)
