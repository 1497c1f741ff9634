"""No test of the readers may leave a file open."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _open_files(below: Path) -> set[str]:
    descriptors = Path("/proc/self/fd")
    found = set()
    for descriptor in descriptors.iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:  # closed meanwhile: the listing's own
            continue
        if target.startswith(str(below)):
            found.add(target)
    return found


@pytest.fixture(autouse=True)
def _files_are_closed(tmp_path: Path) -> Iterator[None]:
    yield
    if Path("/proc/self/fd").is_dir():
        for _ in range(100):  # after an error zarr's own threads may still be at other chunks
            if not _open_files(tmp_path):
                break
            time.sleep(0.01)
        assert _open_files(tmp_path) == set()
