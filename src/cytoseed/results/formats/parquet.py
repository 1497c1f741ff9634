"""The table as CSV, for spreadsheets, R and everything else, and as Parquet, small and quick to read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoseed.results.measure.intensity import STATISTICS
from cytoseed.results.view import ResultView

if TYPE_CHECKING:
    import pandas as pd

_KEY = b"cytoseed"  # key of the file's metadata
_GROUP_ROWS = 1 << 16  # readers skip and share out whole groups: neither thousands of them, nor one for everything
_GROUP_VALUES = 1 << 23  # 64 MB: with a hundred channels, groups have fewer rows
_HELD = 256  # small tables are joined at this number: each takes some kB, however few its rows
# numbers hardly repeat: a dictionary of them only costs
_STORAGE: Mapping[str, Any] = {"compression": "zstd", "use_dictionary": ["target"]}
_FLAGS = ("touches_image_edge", "touches_tile_edge")
_UNITS = {"_px": "px", "_um": "µm", "_um2": "µm²"}


def write_table(result: ResultView, path: Path) -> None:
    """Write the table as CSV, block by block: comma, point, UTF-8, numbers in full; column names in the first line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(result.tables()):
            table.to_csv(file, index=False, header=number == 0, lineterminator="\n")


def write_parquet(result: ResultView, path: Path) -> None:
    """Write the table as Parquet, with the columns of the CSV: a row group at a time, compressed by Zstandard.

    `id` is int32, `target` is text, `touches_image_edge` and `touches_tile_edge` are booleans, boxes and areas are
    int64, all else is float64, where NaN is a value and not a gap. The file's metadata hold JSON under the key
    `cytoseed`: `version`, `source` (the image's name), `shape` (C,H,W), `pixel_size_um`, `targets`, `channels`,
    `stains`, and `units`, the unit of each column. Row groups do not depend on the blocks of the result.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = result.empty_table
    kinds = {"i": pa.int64(), "f": pa.float64()}
    own = {"id": pa.int32(), "target": pa.string(), **dict.fromkeys(_FLAGS, pa.bool_())}
    schema = pa.schema([(name, own.get(name) or kinds[kind.kind]) for name, kind in empty.dtypes.items()])
    described = {
        "version": metadata.version("cytoseed"),
        "source": Path(result.source).name,
        "shape": list(result.shape),
        "pixel_size_um": result.pixel_size_um,
        "targets": list(result.targets),
        "channels": list(result.channel_names),
        "stains": list(result.stains),
        "units": {name: _unit(name, result.stains) for name in empty.columns},
    }
    schema = schema.with_metadata({_KEY: json.dumps(described).encode()})
    flags = dict.fromkeys(_FLAGS, np.bool_)
    rows = max(1, min(_GROUP_ROWS, _GROUP_VALUES // len(schema)))
    with path.open("wb") as file, pq.ParquetWriter(file, schema, **_STORAGE) as writer:
        for group in _groups(result.tables(), rows):
            columns = [pa.array(group[each.name].to_numpy(flags.get(each.name)), each.type) for each in schema]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _unit(column: str, stains: tuple[str, ...]) -> str:
    """Unit of a column; empty for columns without one."""
    statistic, _, measured = column.partition("_")
    if statistic in STATISTICS:
        return "optical density (log10)" if measured in {f"od_{stain}" for stain in stains} else "as stored"
    return next((unit for ending, unit in _UNITS.items() if column.endswith(ending)), "")


def _groups(tables: Iterable[pd.DataFrame], rows: int) -> Iterator[pd.DataFrame]:
    """Tables cut and joined to groups of `rows` rows; the last one may have fewer."""
    import pandas as pd

    held: list[pd.DataFrame] = []
    for table in tables:
        held.append(table)
        if len(held) == _HELD or sum(map(len, held)) >= rows:
            joined = pd.concat(held)
            whole = len(joined) - len(joined) % rows
            yield from (joined.iloc[begin : begin + rows] for begin in range(0, whole, rows))
            held = [joined.iloc[whole:]]
    if sum(map(len, held)):
        yield pd.concat(held)
