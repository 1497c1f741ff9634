"""README.md and all pages of docs: commands have existing flags, links lead to files, and the README's Python runs."""

import re
import shlex
from pathlib import Path

import imagecodecs
import pytest
import typer
from skimage.data import immunohistochemistry

from cytoseed.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
MODELS = ROOT / "src" / "cytoseed" / "models"


def _commands():
    for page in PAGES:
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").replace("$SETS", "--dataset dsb2018").splitlines():
                if line.lstrip().startswith("cytoseed ") and "--help" not in line:
                    yield pytest.param(shlex.split(line, comments=True)[1:], id=f"{page.stem}: {line.strip()[9:60]}")


@pytest.mark.parametrize("arguments", list(_commands()))
def test_commands_can_be_parsed(arguments):
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        is_card = (
            link.endswith("models/index.md") or (MODELS / Path(link).stem / "config.json").exists()
        )  # made by the site
        assert link.startswith("http") or (page.parent / link).exists() or is_card, link


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = imagecodecs.png_encode(immunohistochemistry()[:100, :120])
    for name in ("image.tif", "a.png", "b.png"):  # content decides, not the name
        Path(name).write_bytes(data)
    [code] = re.findall(r"```python\n(.*?)```", PAGES[0].read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "results" / "image.labels.tif").exists()
    assert len(capsys.readouterr().out.splitlines()) == 2
