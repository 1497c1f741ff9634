"""How much memory there is, and how large a tile may be in it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from cytoseed.settings import ModelConfig

_CORES_PX = (2048, 1536, 1280, 1024, 768, 512, 256)
_SHARE = 0.5  # of what is free that a run may take
_MOST_BYTES = 2_700_000_000  # larger tiles than this allows gain nothing
_KEPT_BYTES = 2_300_000_000  # a process above this gives freed memory back
_FIXED_BYTES = 700_000_000  # the program, its libraries, the model, the overview
_BYTES_PER_PX = {"lite": 560, "paper": 900, "slim": 560}  # of a tile as the network sees it
# `lite` by benchmarks/slides.py, `paper` by one image (docs/experiments.md), `slim` taken to be as `lite`


def core_for(config: ModelConfig, halo_px: int, area_factor: float, tta: bool) -> int:
    """Choose the side of a tile's core.

    Parameters
    ----------
    config : ModelConfig
        The model's: its network decides how much memory a pixel takes.
    halo_px : int
        What a tile sees beyond its core, to each side.
    area_factor : float
        Pixels to read for one that the network sees, times the channels and bytes of each.
    tta : bool
        Test-time augmentation holds the fields of eight views.

    Returns
    -------
    int
        From 2048 down to 256 px: the largest for which half of the free memory, and no more than 3 GB, is enough.
    """
    fields = config.positional_dims + config.conditional_dims + 1
    of_views = 3 * 8 * 4 * fields * len(config.targets) if tta else 0  # three tiles, eight views, four bytes
    per_px = _BYTES_PER_PX[config.network] + area_factor + of_views
    room = min(_SHARE * free_bytes(), _MOST_BYTES) - _FIXED_BYTES
    fitting = [side for side in _CORES_PX if (side + 2 * halo_px) ** 2 * per_px <= room]
    return fitting[0] if fitting else _CORES_PX[-1]


def free_bytes() -> float:
    """Bytes of memory that are free: of the machine, or of what a container or batch job may use; inf where unknown."""
    return min(_free_of_machine(), _free_of_group())


def give_back() -> None:
    """Hand freed memory back to the system where a process holds more than tiles are planned for.

    `engine.keep_freed_memory` has the C library keep what is freed, and tiles of several threads leave gaps in it:
    without this, a process grows from tile to tile. Elsewhere than on Linux with glibc nothing is done.
    """
    if sys.platform != "linux":
        return
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return
    libc = ctypes.CDLL(None)
    if pages * os.sysconf("SC_PAGE_SIZE") > _KEPT_BYTES and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _free_of_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    for line in lines:
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def _free_of_group() -> float:
    """Room left under the limit of the control group, in either version of Linux's interface."""
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            return float(Path(limit).read_text(encoding="ascii")) - float(Path(used).read_text(encoding="ascii"))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return float("inf")
