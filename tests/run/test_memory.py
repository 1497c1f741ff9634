"""Tiles as large as memory allows, and no larger."""

import types

import pytest

from cytoseed.run import memory
from cytoseed.run.memory import core_for, free_bytes, give_back
from cytoseed.settings import ModelConfig

LITE, PAPER = ModelConfig("lite"), ModelConfig("paper", network="paper")


@pytest.mark.parametrize("config", [LITE, PAPER])
@pytest.mark.parametrize("tta", [False, True])
def test_less_memory_gives_smaller_tiles(monkeypatch, config, tta):
    sides = []
    for free in (100e9, 5e9, 3e9, 2e9, 1e9, 0):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        sides.append(core_for(config, 176, 60, tta))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1] == 256
    assert all(side % 64 == 0 for side in sides)


def test_costly_networks_and_views_get_smaller_tiles(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100e9)
    assert core_for(LITE, 176, 60, False) > core_for(PAPER, 160, 60, False) > core_for(PAPER, 160, 60, True)


def written(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine with 64 GB free, of files that are written here."""
    written(tmp_path / "proc", meminfo="MemTotal: 99000000 kB\nMemAvailable: 64000000 kB\n")
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


def test_without_groups_the_machine_decides(linux):
    assert free_bytes() == 64e6 * 1024
    (linux / "proc" / "meminfo").unlink()
    assert free_bytes() == float("inf")


def test_the_limit_of_the_group_that_the_process_is_in_counts(linux):
    """As a batch job has it; what the kernel keeps of files is free."""
    written(linux / "proc" / "self", cgroup="0::/slurm/job_7/step\n")
    job = linux / "cgroup" / "slurm" / "job_7"
    written(job / "step", memory__max="max\n", memory__current="5000000000\n")
    written(
        job,
        memory__max="8000000000\n",
        memory__current="7500000000\n",
        memory__stat="anon 1\ninactive_file 2000000000\n",
    )
    assert free_bytes() == 2.5e9
    written(linux / "cgroup", memory__max="7000000000\n", memory__current="6000000000\n")
    assert free_bytes() == 1e9


def test_in_a_container_the_root_is_its_own_group(linux):
    written(linux / "proc" / "self", cgroup="0::/\n")
    written(linux / "cgroup", memory__max="4000000000\n", memory__current="1000000000\n")
    assert free_bytes() == 3e9


def test_the_older_interface_is_read_too(linux):
    written(linux / "proc" / "self", cgroup="3:cpu,cpuacct:/job\n2:memory:/job\n")
    written(
        linux / "cgroup" / "memory" / "job",
        memory__limit_in_bytes="6000000000\n",
        memory__usage_in_bytes="5500000000\n",
        memory__stat="total_inactive_file 500000000\n",
    )
    assert free_bytes() == 1e9


@pytest.mark.parametrize(("pages", "given"), [(10, 0), (10**6, 1)])
def test_a_large_process_gives_memory_back(linux, monkeypatch, pages, given):
    calls = []
    library = types.SimpleNamespace(malloc_trim=calls.append)
    written(linux / "proc" / "self", statm=f"99 {pages} 1\n")
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.os, "sysconf", lambda _: 4096, raising=False)
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    give_back()
    assert len(calls) == given
