"""Everything that was found, in one file from which all other formats can be made: the stored result."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoseed.paths import is_url
from cytoseed.results.blocks import Part, pack_block
from cytoseed.results.objects import around

if TYPE_CHECKING:
    import pandas as pd

    from cytoseed.results.view import ResultView

FORMAT = 1
"""Version of the file's form; what reads it refuses a larger one."""
SUFFIX = ".objects.zip"
FACTS = "result.json"
"""The member that says whose objects they are and where each part of them lies."""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # every member's date, so that the same result gives the same bytes


def part_names(part: int) -> tuple[str, str]:
    """Give the names of the members that hold the objects of a part, and their ids."""
    return f"parts/{part:08d}.npz", f"parts/{part:08d}.ids.npy"


def write_objects(result: ResultView, path: Path) -> None:
    """Write the result as a zip of packed objects, block by block: see `cytoseed.results.stored.open_result`.

    The members `parts/NNNNNNNN.npz` hold masks and measurements as `Objects.to_bytes` gives them, those called
    `parts/NNNNNNNN.ids.npy` the ids; `result.json`, the last, holds everything else: what the image is and where it
    lies, what made the objects, the table's columns, how many parts each block has, and of each part the number of
    objects, the first and last id, and the box `[row, column, height, width]` around them, in px.
    """
    if result.path is not None:
        shutil.copyfile(result.path, path)
        return
    index = _Index()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for block in result.blocks():
            index.begin_block(block.table)
            for part in pack_block(block, result.targets):
                objects, ids = part
                buffer = io.BytesIO()
                np.save(buffer, ids)
                for name, data in zip(part_names(index.parts), (objects.to_bytes(), buffer.getvalue()), strict=True):
                    archive.writestr(_member(name), data)
                index.add(part)
        text = json.dumps({**_facts(result), **index.to_json()}, allow_nan=False, separators=(",", ":"))
        archive.writestr(_member(FACTS), text.encode(), zipfile.ZIP_DEFLATED)


class _Index:
    """Where each part of the objects lies, and what the table is like."""

    def __init__(self) -> None:
        self.parts = 0
        """How many parts there are until now."""
        self._table: list[tuple[str, str]] = []
        self._has_types = False
        self._blocks: list[int] = []
        self._facts: dict[str, list[Any]] = {"count": [], "first_id": [], "last_id": [], "box_yxhw": []}

    def begin_block(self, table: pd.DataFrame) -> None:
        """Count a block, and remember its table's columns: of the first that has objects."""
        self._blocks.append(0)
        if not self._has_types:
            self._table = [(str(name), str(kind)) for name, kind in table.dtypes.items()]
            self._has_types = bool(len(table))

    def add(self, part: Part) -> None:
        """Count a part of the block begun last."""
        objects, ids = part
        self.parts += 1
        self._blocks[-1] += 1
        self._facts["count"].append(len(ids))
        self._facts["first_id"].append(int(ids.min()) if len(ids) else 0)
        self._facts["last_id"].append(int(ids.max()) if len(ids) else 0)
        self._facts["box_yxhw"].append(around(objects.box_yxhw))

    def to_json(self) -> dict[str, Any]:
        """Give it in values that JSON can hold."""
        return {"table": self._table, "blocks": self._blocks, "parts": self._facts}


def _facts(result: ResultView) -> dict[str, Any]:
    """Give what a result is, but for its objects, in values that JSON can hold."""
    return {
        "format": FORMAT,
        "version": result.version,
        "shape": result.shape,
        "targets": result.targets,
        "channel_names": result.channel_names,
        "stains": result.stains,
        "pixel_size_um": result.pixel_size_um,
        "source": result.source,
        "image": _place_of(result.source),
        "input": dict(result.input),
        "settings": dict(result.settings),
        "fingerprint": result.fingerprint,
        "failed": result.failed,
        "count": result.count,
        "was_in_memory": result.was_in_memory,
    }


def _place_of(source: str) -> str | None:
    """Tell where the image can be found again, from any folder; None for an array."""
    if source == "array":
        return None
    return source if is_url(source) else os.path.abspath(source)


def _member(name: str) -> zipfile.ZipInfo:
    """Describe a member without anything that depends on when and where it is written."""
    info = zipfile.ZipInfo(name, _LONG_AGO)
    info.create_system = 3  # Unix, everywhere
    info.external_attr = 0o644 << 16
    return info
