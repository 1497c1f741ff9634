"""The stored result: a zip of everything that was found, from which all other formats can be made."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.paths import is_url
from cytoseed.results.blocks import pack_block
from cytoseed.results.objects import around
from cytoseed.results.view import ResultView

FORMAT = 1
"""Version of the file's form; a reader refuses a larger one."""
SUFFIX = ".objects.zip"
FACTS = "result.json"
"""The member that describes the result and its parts."""

_LONG_AGO = (1980, 1, 1, 0, 0, 0)  # date of every member, so that the same result gives the same bytes


def part_names(part: int) -> tuple[str, str]:
    """Names of the members that hold the objects of a part, and their ids."""
    return f"parts/{part:08d}.npz", f"parts/{part:08d}.ids.npy"


def write_objects(result: ResultView, path: Path) -> None:
    """Write the result as a zip of packed objects, block by block: see `cytoseed.open_result`.

    The members `parts/NNNNNNNN.npz` hold masks and measurements as in `Objects.to_bytes`, those called
    `parts/NNNNNNNN.ids.npy` the ids; `result.json`, the last, holds everything else: the image and its place, what
    made the objects, the table's columns, the number of parts of each block, and of each part the number of objects,
    the first and last id, and the box `[row, column, height, width]` around them, in px.
    """
    if result.path is not None:
        shutil.copyfile(result.path, path)
        return
    table: list[tuple[str, str]] = []
    has_types = False
    blocks: list[int] = []
    parts: dict[str, list[Any]] = {"count": [], "first_id": [], "last_id": [], "box_yxhw": []}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for block in result.blocks():
            blocks.append(0)
            if not has_types:  # those of the first block that has objects
                table = [(str(name), str(kind)) for name, kind in block.table.dtypes.items()]
                has_types = bool(len(block.table))
            for objects, ids in pack_block(block, result.targets):
                buffer = io.BytesIO()
                np.save(buffer, ids)
                names = part_names(len(parts["count"]))
                for name, data in zip(names, (objects.to_bytes(), buffer.getvalue()), strict=True):
                    archive.writestr(_member(name), data)
                blocks[-1] += 1
                parts["count"].append(len(ids))
                parts["first_id"].append(int(ids.min()) if len(ids) else 0)
                parts["last_id"].append(int(ids.max()) if len(ids) else 0)
                parts["box_yxhw"].append(around(objects.box_yxhw))
        facts = {**_facts(result), "table": table, "blocks": blocks, "parts": parts}
        text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
        archive.writestr(_member(FACTS), text.encode(), zipfile.ZIP_DEFLATED)


def _facts(result: ResultView) -> Mapping[str, Any]:
    """Everything but the objects, in values that JSON can hold."""
    at: str | None = None
    if result.source != "array":
        at = result.source if is_url(result.source) else os.path.abspath(result.source)
    return {
        "format": FORMAT,
        "version": result.version,
        "shape": result.shape,
        "targets": result.targets,
        "channel_names": result.channel_names,
        "stains": result.stains,
        "pixel_size_um": result.pixel_size_um,
        "source": result.source,
        "image": at,
        "input": dict(result.input),
        "settings": dict(result.settings),
        "fingerprint": result.fingerprint,
        "failed": result.failed,
        "count": result.count,
        "was_in_memory": result.was_in_memory,
    }


def _member(name: str) -> zipfile.ZipInfo:
    """Description of a member that does not depend on when and where it is written."""
    info = zipfile.ZipInfo(name, _LONG_AGO)
    info.create_system = 3  # Unix, everywhere
    info.external_attr = 0o644 << 16
    return info
