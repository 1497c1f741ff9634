"""Runs the pages of the documentation: their commands and Python, in order, in a folder.

A block without a language holds commands, `python` is run, and `output` shows lines that the block before it printed,
in any numbers (`...` stands for lines left out). A comment before a block or picture says more:

    <!-- not run: why -->             leave this block out
    <!-- quick: --steps 2 -->         add these flags to its commands in a quick run
    <!-- slow -->                     leave this block out of a quick run
    <!-- picture: results/a.png -->   the file, made by the page, that the picture below shows
    <!-- picture: 0,9,300,200 of results/a.png -->   a part of it
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
_PART = re.compile(
    r"(?:<!-- (?P<note>[^>]*) -->\n+)?"
    r"(?:^(?P<indent> *)```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^ *```$|!\[[^]]*\]\((?P<picture>[^)]*)\))",
    re.DOTALL | re.MULTILINE,
)


class Part(NamedTuple):
    """A block or a picture of a page, and the comment before it."""

    kind: str
    text: str
    note: str


class Picture(NamedTuple):
    """A picture of a page, the file that it shows, and the part of it (x, y, width, height), or all."""

    path: Path
    source: str
    box_xywh: tuple[int, ...]


def parts(page: Path) -> Iterator[Part]:
    """Blocks and pictures of a page, in order."""
    for match in _PART.finditer(page.read_text(encoding="utf-8")):
        note = match["note"] or ""
        if match["picture"]:
            yield Part("picture", match["picture"], note)
        else:
            code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            yield Part(match["kind"] or "commands", code, note)


def pictures(page: Path) -> list[Picture]:
    """Pictures of a page that name the file that they show."""
    found = []
    for part in parts(page):
        if part.kind == "picture" and part.note.startswith("picture: "):
            box, _, source = part.note.removeprefix("picture: ").rpartition(" of ")
            numbers = tuple(int(number) for number in box.split(",")) if box else ()
            found.append(Picture((page.parent / part.text).resolve(), source, numbers))
    return found


def run_page(page: Path, quick: bool) -> dict[str, str]:
    """Run a page in the current folder; returns its blocks of printed lines, and the same with the numbers of this run.

    Raises what fails, and AssertionError where a line was not printed.
    """
    names: dict[str, object] = {"__name__": "__page__"}
    printed, shown, is_left_out = "", {}, False
    for part in parts(page):
        if part.kind == "picture" and part.note.startswith("picture: ") and not is_left_out:
            source = part.note.removeprefix("picture: ").rpartition(" of ")[2]
            assert Path(source).exists(), f"{page}: {part.text} shows {source}, which the page has not made"
        elif part.kind == "output":
            shown[part.text] = _printed_now(part.text, printed, page)
        elif part.kind in ("commands", "python"):
            added = part.note.removeprefix("quick:") if quick and part.note.startswith("quick:") else ""
            is_left_out = part.note.startswith("not run") or (quick and part.note.startswith("slow"))
            if is_left_out:
                printed = ""
            elif part.kind == "python":
                printed = _run_python(part.text, names, page)
            else:
                printed = "".join(_run_command(line, added, page) for line in commands(part.text))
    return shown


def commands(block: str) -> list[str]:
    """Command lines of a block."""
    return [
        line.strip() for line in block.replace("\\\n", " ").splitlines() if line.strip() and line.lstrip()[0] != "#"
    ]


def _run_python(code: str, names: dict[str, object], page: Path) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), names)
    return printed.getvalue()


def _run_command(line: str, added: str, page: Path) -> str:
    """Run one command of cytoseed in this process; installations, and looking at files, are left out."""
    from typer.testing import CliRunner

    from cytoseed.cli.main import app

    words = shlex.split(line, comments=True)
    if words[0] in ("pip", "cat", "head", "ls") or (line == "cytoseed samples" and Path("samples").exists()):
        return ""
    if words[0] == "python":
        return _run_python(Path(words[1]).read_text(encoding="utf-8"), {"__name__": "__main__"}, page)
    if words[0] != "cytoseed":
        raise ValueError(f"{page}: only cytoseed, pip, python, cat, head and ls can be run, not {line!r}")
    done = CliRunner().invoke(app, [*words[1:], *shlex.split(added)])
    if done.exit_code:
        raise RuntimeError(f"{page}: {line!r} ended with {done.exit_code}: {done.output}") from done.exception
    return done.output


def _printed_now(shown: str, printed: str, page: Path) -> str:
    """Lines of a block as they were printed in this run; each must be there, in this order, but for its numbers."""
    rest, now = printed.splitlines(), []
    for line in shown.splitlines():
        if line.strip() in ("", "...") or not printed:
            now.append(line)
            continue
        same = [n for n, new in enumerate(rest) if _without_numbers(new) == _without_numbers(line)]
        assert same, f"{page}: shows {line!r}, but the block before it printed:\n{printed}"
        place = next((n for n in same if rest[n].rstrip() == line), same[0])
        now.append(rest[place].rstrip())
        rest = rest[place + 1 :]
    return "\n".join(now) + "\n"


def _without_numbers(line: str) -> str:
    text = re.sub(r"[-+]?\d[\d.,]*(e[-+]\d+)?", "#", line)
    return " ".join(re.sub(r"# (s|min)\b", "# s", text).split())


def main(names: list[str]) -> None:
    """Run pages in full in fresh folders; write their pictures, and the numbers of this run into them."""
    import tempfile

    for page in TUTORIALS:
        if names and page.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            for slide in (ROOT / os.environ.get("CYTOSEED_DATA", "../shared/data")).glob("slides/*.svs"):
                shutil.copy(slide, ".")
            text = page.read_text(encoding="utf-8")
            for old, new in run_page(page, quick=False).items():
                text = text.replace(f"```output\n{old}```", f"```output\n{new}```")
            page.write_text(text, encoding="utf-8")
            for picture in pictures(page):
                _write(picture)
                sys.stderr.write(f"{os.path.relpath(picture.path, ROOT)}: {picture.path.stat().st_size // 1024} kB\n")


def _write(picture: Picture) -> None:
    """Write a picture as the page shows it, at most 1,000 px per side."""
    import cv2

    pixels = cv2.imread(picture.source)
    if picture.box_xywh:
        x, y, width, height = picture.box_xywh
        pixels = pixels[y : y + height, x : x + width]
    factor = 1000 / max(pixels.shape[:2])
    if factor < 1:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    picture.path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(picture.path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 82] if picture.path.suffix == ".jpg" else [])


if __name__ == "__main__":
    main(sys.argv[1:])
