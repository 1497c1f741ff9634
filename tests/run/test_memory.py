"""The tile size that fits in free memory, and free memory in control groups."""

import types

import pytest

from cytoseed.run import memory
from cytoseed.run.memory import free_bytes, tile_side, trim
from cytoseed.settings import ModelConfig

LITE, PAPER = ModelConfig("lite"), ModelConfig("paper", network="paper")


@pytest.mark.parametrize("config", [LITE, PAPER])
@pytest.mark.parametrize("tta", [False, True])
def test_less_memory_gives_smaller_tiles(monkeypatch, config, tta):
    sides = []
    for free in (100e9, 5e9, 3e9, 2e9, 1e9, 0):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        sides.append(tile_side(config, 3, 176, 60, tta))
    assert sides == sorted(sides, reverse=True)
    assert sides[0] > sides[-1] == 256
    assert all(side % 64 == 0 for side in sides)


def test_large_networks_and_test_time_augmentation_get_smaller_tiles(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100e9)
    assert tile_side(LITE, 3, 176, 60, False) > tile_side(PAPER, 3, 160, 60, False) > tile_side(PAPER, 3, 160, 60, True)


def test_channels_of_models_of_any_number_count(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100e9)
    sides = [tile_side(ModelConfig("any", channels="any"), channels, 224, 60, False) for channels in (1, 6, 40)]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == 3
    assert tile_side(LITE, 40, 224, 60, False) == tile_side(LITE, 1, 224, 60, False)


def write_files(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")


@pytest.fixture
def linux(tmp_path, monkeypatch):
    """A machine with 64 GB of free memory, whose /proc and control groups are files of the test."""
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=64 * 10**9))
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


@pytest.mark.usefixtures("linux")
def test_without_control_groups_the_free_memory_of_the_machine_counts():
    assert free_bytes() == 64e9


def test_the_limit_of_a_batch_job_counts(linux):
    """The cache of files counts as free, and limits of parent groups apply too."""
    write_files(linux / "proc" / "self", cgroup="0::/slurm/job_7/step\n")
    job = linux / "cgroup" / "slurm" / "job_7"
    write_files(job / "step", memory__max="max\n", memory__current="5000000000\n")
    write_files(
        job,
        memory__max="8000000000\n",
        memory__current="7500000000\n",
        memory__stat="anon 1\ninactive_file 2000000000\n",
    )
    assert free_bytes() == 2.5e9
    write_files(linux / "cgroup", memory__max="7000000000\n", memory__current="6000000000\n")
    assert free_bytes() == 1e9


def test_in_a_container_the_root_group_counts(linux):
    write_files(linux / "proc" / "self", cgroup="0::/\n")
    write_files(linux / "cgroup", memory__max="4000000000\n", memory__current="1000000000\n")
    assert free_bytes() == 3e9


def test_control_groups_of_version_1_are_read_too(linux):
    write_files(linux / "proc" / "self", cgroup="3:cpu,cpuacct:/job\n2:memory:/job\n")
    write_files(
        linux / "cgroup" / "memory" / "job",
        memory__limit_in_bytes="6000000000\n",
        memory__usage_in_bytes="5500000000\n",
        memory__stat="total_inactive_file 500000000\n",
    )
    assert free_bytes() == 1e9


@pytest.mark.parametrize(("held", "expected"), [(10**5, 0), (4 * 10**9, 1)])
def test_only_a_large_process_is_trimmed(monkeypatch, held, expected):
    calls = []
    library = types.SimpleNamespace(malloc_trim=calls.append)
    process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=held))
    monkeypatch.setattr("psutil.Process", lambda: process)
    monkeypatch.setattr(memory.sys, "platform", "linux")
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    trim()
    assert len(calls) == expected
