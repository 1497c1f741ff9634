"""The measurements as an AnnData file, for scanpy, squidpy and what else reads them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cytoseed.results.annotated import write_annotated
from cytoseed.results.writer import Writer

if TYPE_CHECKING:
    from cytoseed.results.result import Result


def write_anndata(result: Result, path: Path) -> None:
    """Write the table as h5ad: one row an object, of two targets one a cell, as `write_annotated` has it.

    Without times in it: the same result gives the same bytes.
    """
    import h5py

    with h5py.File(path, "w") as file:
        write_annotated(result, file)


WRITERS = (
    Writer(
        "anndata",
        ".h5ad",
        write_anndata,
        "measurements as AnnData: scanpy, squidpy, R",
        needs="anndata",
        extra="spatial",
    ),
)
