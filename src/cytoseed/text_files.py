"""Text files that people write or export: tables and JSON, in the encodings and dialects that programs save."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cytoseed.paths import read_bytes

_SEPARATORS = (",", ";", "\t")


def decode_text(data: bytes, path: Path) -> str:
    """Text of a file's content, in UTF-8 or UTF-16, without the byte order mark."""
    encoding = "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 or UTF-16 ({error}); save it as UTF-8") from error


def parse_json(data: bytes, path: Path, remedy: str) -> Any:
    """Content of a JSON file; `ValueError`, with the remedy, if it is none."""
    text = decode_text(data, path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}; {remedy}") from error


def read_table(path: Path, required: Sequence[str]) -> tuple[list[str], list[dict[str, str]]]:
    """Columns and rows of a table that must have some columns, separated by commas, semicolons or tabs.

    Values are stripped, and those missing at the end of a row are empty; empty rows are left out.
    """
    text = decode_text(read_bytes(path), path)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(_SEPARATORS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    columns: list[str] = []
    rows = []
    try:
        for values in ([value.strip() for value in found] for found in reader):
            if not any(values):
                continue
            if not columns:
                columns = values
                continue
            if any(values[len(columns) :]):
                raise ValueError(
                    f"{path} has {len(values)} values in line {reader.line_num} and {len(columns)} columns; put values "
                    f"that contain {separator!r} in quotes"
                )
            rows.append(dict(zip(columns, values + [""] * len(columns), strict=False)))
    except csv.Error as error:
        raise ValueError(f"{path} is damaged in line {reader.line_num} ({error}); save it again as CSV") from error
    for column in required:
        if column not in columns:
            raise ValueError(f"{path} has no column {column!r}; it needs at least: {', '.join(required)}")
    return columns, rows


def parse_number(text: str) -> float:
    """Number with a decimal point or comma; nan if it is none."""
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return float("nan")
