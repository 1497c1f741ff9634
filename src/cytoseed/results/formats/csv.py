"""The table as CSV, for spreadsheets, R and everything else."""

from __future__ import annotations

from pathlib import Path

from cytoseed.results.measure.table import empty_table
from cytoseed.results.view import ResultView


def write_table(result: ResultView, path: Path) -> None:
    """Write the table as CSV, block by block: comma, point, UTF-8, numbers in full; column names in the first line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        is_first = True
        for block in result.blocks():
            block.table.to_csv(file, index=False, header=is_first, lineterminator="\n")
            is_first = False
        if is_first:
            empty_table(result).to_csv(file, index=False, lineterminator="\n")
