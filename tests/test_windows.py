"""What differs on Windows, tried as far as other systems can: names, code pages, ends of lines, processes by spawn."""

import json
import os
import re
import subprocess
import sys
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import pytest

import cytoseed
from bright import bright_config, bright_segmenter
from cytoseed.images import as_image
from cytoseed.models.weights import Model, save_model
from cytoseed.run import resume
from cytoseed.settings import SegmentOptions
from cytoseed.text_files import read_table
from scenes import discs

SOURCE = Path(cytoseed.__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(bright_segmenter(1), bright_config(1), tmp_path_factory.mktemp("models") / "grey")


@pytest.mark.parametrize("name", ["con", "Nul.backup", "COM1", "lpt³.x", "a:b", "what?", 'say "a"', "line\nfeed"])
def test_names_that_windows_refuses_are_refused_before_the_work(tmp_path, monkeypatch, name):
    model = Model(bright_config(1), bright_segmenter(1))
    request = resume.Request(as_image(discs(40, 40)[0]), tmp_path, model, SegmentOptions(), ("table",))
    monkeypatch.setattr(resume, "stem_of", lambda *_: name)
    request.check_names()  # fine elsewhere
    monkeypatch.setattr(resume, "os", SimpleNamespace(name="nt", fsencode=os.fsencode))
    with pytest.raises(ValueError, match="give the image another name"):
        request.check_names()
    for fine in ("console", "a con", "com10", "nuclei.con", "größe", "com"):
        monkeypatch.setattr(resume, "stem_of", lambda *_, fine=fine: fine)
        request.check_names()


def test_code_pages_and_letters_that_they_lack(tmp_path, model):
    image = tmp_path / "größe 図.png"
    image.write_bytes(imagecodecs.png_encode(discs(60, 60)[0]))
    environment = {
        **os.environ,
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "cp1252",
        "LC_ALL": "C.UTF-8",
    }
    words = (
        "-X",
        "warn_default_encoding",
        "-m",
        "cytoseed",
        "segment",
        image,
        "--model",
        model,
        "--output",
        tmp_path / "r",
    )
    done = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "größe \\u56f3.png: ".encode("cp1252") in done.stdout
    assert str(SOURCE).encode() not in done.stderr  # no EncodingWarning of ours
    assert json.loads((tmp_path / "r" / "größe 図.geojson").read_text(encoding="utf-8"))["features"]


def test_tables_with_windows_ends_of_lines(tmp_path):
    (tmp_path / "unix.csv").write_bytes("image,split\nä.tif,train\nb.tif,val\n".encode())
    (tmp_path / "windows.csv").write_bytes("\ufeffimage;split\r\nä.tif;train\r\nb.tif;val\r\n".encode())
    assert read_table(tmp_path / "windows.csv", ["image"]) == read_table(tmp_path / "unix.csv", ["image"])


def _count(folder):
    return cytoseed.segment(np.ascontiguousarray(discs(60, 60)[0]), folder).count


def test_a_process_that_is_spawned_segments(model):
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(_count, (str(model),)) == _count(model) > 0


def test_nothing_that_windows_lacks_is_taken_for_granted():
    lacking = re.compile(
        r"os\.(fork|getuid|geteuid|chown|mkfifo|sched_\w+)\("
        r"|import (fcntl|resource|pwd|grp|termios)\b|signal\.SIG(HUP|KILL)"
    )
    found = {path.name: lacking.findall(path.read_text(encoding="utf-8")) for path in SOURCE.rglob("*.py")}
    assert {name: calls for name, calls in found.items() if calls} == {}
