"""One table of all images of a run, with columns for image, well and field, time and depth."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cytoseed.images.frames import parse_name
from cytoseed.paths import atomic_file

SUFFIXES = {".csv": "table", ".parquet": "parquet"}
"""Endings of the combined table, and the format of the images' tables that it is made from."""

_WELLS = (
    re.compile(r"r(?P<row>\d{2})c(?P<column>\d{2})f(?P<field>\d{2,})", re.IGNORECASE),  # Opera, Operetta
    re.compile(r"(?P<letter>[A-P]) ?- ?(?P<column>\d{1,2})\(fld ?(?P<field>\d+)", re.IGNORECASE),  # IN Cell
    re.compile(r"(?:^|_)(?P<letter>[A-P])(?P<column>\d{2})_s(?P<field>\d+)", re.IGNORECASE),  # ImageXpress
    re.compile(r"(?:^|_)(?P<letter>[A-P])(?P<column>\d{2})_?f(?P<field>\d+)", re.IGNORECASE),  # CellInsight, Yokogawa
    re.compile(r"(?:^|_)(?P<letter>[A-P])(?P<column>\d{1,2})(?:_(?P<field>\d+))?(?=_|$)"),  # fields of OME-Zarr plates
)


class ImageTable(NamedTuple):
    """Table of one image of a run."""

    path: Path
    image: str  # name of the image's file, with subfolders
    series: str | None = None  # name of the image in a file of several


def find_well(name: str) -> tuple[str, str] | None:
    """Well, such as `B03`, and field in the name of a plate's image; None for other names. A field may be empty."""
    for pattern in _WELLS:
        found = pattern.search(name)
        if found is not None:
            parts = found.groupdict()
            letter = parts.get("letter") or chr(ord("A") + int(parts["row"]) - 1)
            return f"{letter.upper()}{int(parts['column']):02d}", parts["field"] or ""
    return None


def write_run_table(target: Path, tables: Sequence[ImageTable]) -> None:
    """Join the tables of images, all CSV or all Parquet as `target` is; columns that an image lacks stay empty."""
    keys = [_keys(table) for table in tables]
    names = [name for name in ("image", "series", "well", "field", "t", "z") if any(name in key for key in keys)]
    with atomic_file(target) as beside:
        join = _join_csv if target.suffix.lower() == ".csv" else _join_parquet
        join(beside, tables, [{name: key.get(name, "") for name in names} for key in keys])


def _keys(table: ImageTable) -> dict[str, str]:
    """Values of the first columns, as far as the image has them."""
    found = {"image": table.image}
    if table.series is not None:
        found["series"] = table.series
        frame = parse_name(table.series)
        if frame is not None:
            found |= {name: at for name, at in (("t", frame.time), ("z", frame.z)) if at is not None}
    well = find_well(table.series or "") or find_well(Path(table.image).stem)
    return found if well is None else found | {"well": well[0], "field": well[1]}


def _union(columns: Iterable[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in columns for name in names))


def _join_csv(target: Path, tables: Sequence[ImageTable], keys: Sequence[Mapping[str, str]]) -> None:
    def rows(path: Path) -> Iterator[dict[str, Any]]:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)

    def header(path: Path) -> list[str]:
        with path.open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file))

    own = _union(header(table.path) for table in tables)
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*(keys[0] if keys else ()), *own], restval="", lineterminator="\n")
        writer.writeheader()
        for table, key in zip(tables, keys, strict=True):
            writer.writerows({**key, **row} for row in rows(table.path))


def _join_parquet(target: Path, tables: Sequence[ImageTable], keys: Sequence[Mapping[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.unify_schemas([pq.read_schema(table.path).remove_metadata() for table in tables])
    first = [pa.field(name, pa.string()) for name in (keys[0] if keys else ())]
    whole = pa.schema([*first, *schema])
    with pq.ParquetWriter(target, whole, compression="zstd") as writer:
        for table, key in zip(tables, keys, strict=True):
            for batch in pq.ParquetFile(table.path).iter_batches():
                columns = [pa.array([key[field.name]] * len(batch), pa.string()) for field in first]
                for field in schema:
                    held = field.name in batch.schema.names
                    columns.append(batch[field.name] if held else pa.nulls(len(batch), field.type))
                writer.write_table(pa.Table.from_arrays(columns, schema=whole))
