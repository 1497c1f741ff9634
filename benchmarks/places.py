"""Folders and files that the benchmarks read and write."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
OPEN_DATA = ["dsb2018", "bbbc039", "bitdepth_nucseg"]


def read_page(key: str) -> str:
    """Text between the marks of `key` on the page."""
    found = re.search(f"<!-- {key} -->\n(.*?)\n?<!-- /{key} -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return found[1] if found else ""


def write_page(key: str, text: str) -> None:
    """Replace the text between the marks of `key`; a page without them stays as it is."""
    start, end = f"<!-- {key} -->", f"<!-- /{key} -->"
    page = PAGE.read_text(encoding="utf-8")
    page = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{text}\n{end}", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


def _find_data() -> Path:
    """Data folder: $CYTOSEED_DATA, else shared/data beside the checkout; a git worktree uses its main checkout's."""
    given = os.environ.get("CYTOSEED_DATA")
    if given:
        return Path(given)
    words = ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    checkout = Path(found).parent if found else ROOT
    return checkout.parent / "shared" / "data"


DATA = _find_data()
