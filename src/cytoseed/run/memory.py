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
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")  # Linux's, in either version of its control groups
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
        pages = int((_PROC / "self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return
    libc = ctypes.CDLL(None)
    if pages * os.sysconf("SC_PAGE_SIZE") > _KEPT_BYTES and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def _free_of_machine() -> float:
    try:
        lines = (_PROC / "meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    for line in lines:
        if line.startswith("MemAvailable:"):
            return float(line.split()[1]) * 1024
    return float("inf")


def _free_of_group() -> float:
    """Room left under the limits of this process's control group and of those around it; inf where there is none."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    room = float("inf")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUP, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = _CGROUP / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = Path(path.lstrip("/"))  # as seen from outside, in some containers: then it is not there
        for place in (root / group, *(root / outer for outer in group.parents)):
            room = min(room, _room_in(place, *names))
    return room


def _room_in(group: Path, limit: str, used: str, cached: str) -> float:
    """Room under the limit of one control group; what the kernel keeps of files that were read is room as well."""
    try:
        room = float((group / limit).read_text(encoding="ascii")) - float((group / used).read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return float("inf")
    try:
        statistics = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        return room + float(statistics.get(cached, 0))
    except (OSError, ValueError):
        return room
