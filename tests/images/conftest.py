"""No test of the readers may leave a file open."""

from __future__ import annotations

import os
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
        assert _open_files(tmp_path) == set()
