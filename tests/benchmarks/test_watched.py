"""Runs seen from outside: memory, the moment of a kill, and which files differ."""

import importlib
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def watched():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("watched")


def test_memory_counts_children(watched, tmp_path):
    program = (
        "import os, sys, time\n"
        "if not os.fork():\n"
        "    held = bytearray(b'1') * 80_000_000\n"
        "    time.sleep(1)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "sys.exit(3)"
    )
    run = watched.watch([sys.executable, "-c", program], Path("a.tif"), tmp_path)
    assert run.exit_code == 3
    assert run.peak_bytes > 80_000_000


def test_a_kill_reaches_the_children(watched, tmp_path):
    program = (
        "import os, time\n"
        "child = os.fork()\n"
        "if child:\n"
        f"    open({str(tmp_path / 'pid')!r}, 'w').write(str(child))\n"
        "time.sleep(60)"
    )
    run = watched.watch([sys.executable, "-c", program], Path("a.tif"), tmp_path, ends_after_s=3)
    assert run.exit_code == -9
    pid = (tmp_path / "pid").read_text()
    stat = Path("/proc") / pid / "stat"
    patience = time.monotonic() + 20
    while is_alive(stat) and time.monotonic() < patience:  # a process that was killed takes a moment to end
        time.sleep(0.05)
    assert not is_alive(stat)


def is_alive(stat):
    try:
        return ") Z " not in stat.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_every_stranger_and_every_changed_byte_is_told(watched, tmp_path):
    wanted = {}
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "slide.cytoseed").mkdir(parents=True)
        (folder / "slide.cytoseed" / "shard").write_text(name)
        (folder / "slide.csv").write_text("id")
        (folder / "slide.labels.tif").write_text("labels")
        wanted[name] = watched.digests(Path("slide.svs"), folder)
    assert watched.differences(wanted["a"], wanted["b"]) == ()
    (tmp_path / "b" / "slide.csv").write_text("other")
    (tmp_path / "b" / ".staging").mkdir()
    (tmp_path / "b" / "slide.labels.tif").unlink()
    found = watched.digests(Path("slide.svs"), tmp_path / "b")
    assert watched.differences(wanted["a"], found) == (
        ".staging: should not be there",
        "slide.csv: other bytes",
        "slide.labels.tif: missing",
    )
