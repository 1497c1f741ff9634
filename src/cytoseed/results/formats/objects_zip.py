"""The stored result: a zip of everything that was found, from which all other formats can be made."""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cytoseed.paths import is_url
from cytoseed.results.objects import around, pack_block
from cytoseed.results.view import ResultView

FORMAT = 1
"""Version of the file's form; a reader refuses a larger one."""
SUFFIX = ".objects.zip"
FACTS = "result.json"
"""The member that describes the result and its parts."""

_FIRST = ("version", "shape", "targets", "channel_names", "stains", "pixel_size_um", "source")
_PART = ("count", "first_id", "last_id", "box_yxhw")
_LAST = ("fingerprint", "failed", "count", "was_in_memory")


def part_names(part: int) -> tuple[str, str]:
    """Names of the members that hold the objects of a part, and their ids."""
    return f"parts/{part:08d}.npz", f"parts/{part:08d}.ids.npy"


def member(name: str) -> zipfile.ZipInfo:
    """Description of a zip's member that does not depend on when and where it is written."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # Unix, everywhere
    info.external_attr = 0o644 << 16
    return info


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
    parts: list[tuple[Any, ...]] = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for block in result.blocks():
            before = len(parts)
            if not has_types:  # those of the first block that has objects
                table = [(str(name), str(kind)) for name, kind in block.table.dtypes.items()]
                has_types = bool(len(block.table))
            for objects, ids in pack_block(block, result.targets):
                buffer = io.BytesIO()
                np.save(buffer, ids)
                names = part_names(len(parts))
                for name, data in zip(names, (objects.to_bytes(), buffer.getvalue()), strict=True):
                    archive.writestr(member(name), data)
                ends = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
                parts.append((len(ids), *ends, around(objects.box_yxhw)))
            blocks.append(len(parts) - before)
        at = result.source if is_url(result.source) else os.path.abspath(result.source)
        image = None if result.source == "array" else at
        facts = {"format": FORMAT, **{name: getattr(result, name) for name in _FIRST}, "image": image}
        facts |= {"input": dict(result.input), "settings": dict(result.settings)}
        facts |= {name: getattr(result, name) for name in _LAST}
        facts |= {"table": table, "blocks": blocks}
        facts["parts"] = {name: [part[index] for part in parts] for index, name in enumerate(_PART)}
        text = json.dumps(facts, allow_nan=False, separators=(",", ":"))
        archive.writestr(member(FACTS), text.encode(), zipfile.ZIP_DEFLATED)
