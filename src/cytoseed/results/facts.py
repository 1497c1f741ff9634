"""Facts that identify a result: the stem of its files, its input image, its settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_OPTIONAL_ENDINGS = (".ome",)  # cells.ome.tif and cells.tif are both called cells


def stem_of(source: str | os.PathLike[str]) -> str:
    """Name that the result files of a source begin with: its name without the ending."""
    stem = Path(source).stem
    for ending in _OPTIONAL_ENDINGS:
        stem = stem.removesuffix(ending) or stem
    return stem


def input_of(pixels: NDArray[Any], source: str) -> Mapping[str, Any]:
    """Identity of an image (C,H,W) in memory: its `name`, `shape`, `dtype`, and the `sha256` of its pixels."""
    return {
        "name": Path(source).name,
        "shape": list(pixels.shape),
        "dtype": pixels.dtype.name,
        "sha256": hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
    }


def fingerprint(source: str, settings: Mapping[str, Any]) -> str:
    """One text for a source's name and settings: the same for the same ones."""
    name = Path(source).name.encode("utf-8", "backslashreplace").decode()  # a name need not be UTF-8
    return f"{name}/{canonical_json(settings)}"


def canonical_json(settings: Mapping[str, Any]) -> str:
    """Settings as JSON with sorted keys.

    Raises
    ------
    TypeError
        If they hold a value that JSON cannot.
    """
    try:
        return json.dumps(settings, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"settings hold a value that JSON cannot ({error}); allowed are texts, finite numbers, true, false, "
            f"None, and lists and mappings of these"
        ) from error
