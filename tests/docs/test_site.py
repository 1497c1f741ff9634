"""The documentation site: every page is in the navigation, and the site builds without a warning."""

import subprocess
import sys

import pytest

import pages


def test_every_page_is_in_the_navigation():
    text = (pages.ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    missing = [
        path for page in pages.DOCS.rglob("*.md") if (path := page.relative_to(pages.DOCS).as_posix()) not in text
    ]
    assert missing == []


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=pages.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for model in (pages.ROOT / "src" / "cytoseed" / "models").glob("*/config.json"):
        card = (tmp_path / "models" / model.parent.name / "index.html").read_text(encoding="utf-8")
        assert "Licence" in card
    cluster = (tmp_path / "tutorials" / "cluster" / "index.html").read_text(encoding="utf-8")
    assert "/blob/main/examples/slurm/shards.sh" in cluster  # a file outside of the site
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("cytoseed.segment", "cytoseed.Result.from_labels", "cytoseed.settings.SegmentOptions.expand_um"):
        assert f'id="{name}"' in api, name
