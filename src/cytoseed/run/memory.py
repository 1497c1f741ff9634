"""Free memory, and the largest tile that fits."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

from cytoseed.settings import ModelConfig

_SIDES_PX = (2048, 1536, 1280, 1024, 768, 512, 256)
_SHARE = 0.5  # share of the free memory that a run may take
_MOST_BYTES = 2_700_000_000  # larger tiles than this allows gain nothing
_TRIM_ABOVE_BYTES = 2_300_000_000
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_FIXED_BYTES = 700_000_000  # program, libraries, model, overview
_BYTES_PER_PX = {"lite": 560, "paper": 900, "slim": 560}  # memory per pixel of a tile's network input
# `lite` from benchmarks/slides.py, `paper` from one image (docs/experiments.md), `slim` assumed to equal `lite`
_BYTES_PER_CHANNEL_PX = 120  # of `ChannelNet`, for each of the image's channels; measured with 2, 8 and 16


def tile_side(config: ModelConfig, channels: int, halo_px: int, bytes_per_px: float, tta: bool) -> int:
    """Side of a tile's core, 256 to 2048 px: the largest for which half of the free memory, or 3 GB, suffices.

    A tile's input has `channels` and is `halo_px` wider on each side; `bytes_per_px` are read from the image per pixel
    of the input.
    """
    fields = config.positional_dims + config.conditional_dims + 1
    of_views = 3 * 8 * 4 * fields * len(config.targets) if tta else 0  # three tiles, eight views, four bytes
    of_channels = _BYTES_PER_CHANNEL_PX * channels if config.fixed_channels == 0 else 0
    per_px = _BYTES_PER_PX[config.network] + of_channels + bytes_per_px + of_views
    room = min(_SHARE * free_bytes(), _MOST_BYTES) - _FIXED_BYTES
    fitting = [side for side in _SIDES_PX if (side + 2 * halo_px) ** 2 * per_px <= room]
    return fitting[0] if fitting else _SIDES_PX[-1]


def free_bytes() -> float:
    """Bytes of free memory: of the machine, or of the container or batch job; inf if unknown."""
    import psutil

    return min(float(psutil.virtual_memory().available), _free_of_group())


def trim() -> None:
    """Return freed memory to the system if a process holds more than is planned for tiles.

    `engine.keep_freed_memory` makes glibc keep freed memory, and tiles of several threads leave gaps in it: without
    this, a process grows from tile to tile. On other systems nothing is done.
    """
    import psutil

    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim") and psutil.Process().memory_info().rss > _TRIM_ABOVE_BYTES:
        libc.malloc_trim(0)


def _free_of_group() -> float:
    """Free memory below the limits of this process's control group and its parents, which psutil does not know."""
    try:
        lines = (_PROC / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return float("inf")
    room = float("inf")
    for line in lines:
        _, controllers, path = line.split(":", 2)
        group = Path(path.lstrip("/"))  # inside some containers this is the path outside, which does not exist
        for folder in (group, *group.parents):
            if not controllers:
                room = min(room, _room_in(_CGROUP / folder, "memory.max", "memory.current", "inactive_file"))
            elif "memory" in controllers.split(","):  # version 1
                names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
                room = min(room, _room_in(_CGROUP / "memory" / folder, *names))
    return room


def _room_in(group: Path, limit: str, used: str, cached: str) -> float:
    """Bytes below the limit of one control group; the kernel's cache of files counts as free."""
    try:
        room = float((group / limit).read_text(encoding="ascii")) - float((group / used).read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except FileNotFoundError as error:
        return room if str(error.filename).endswith("memory.stat") else float("inf")
    except (OSError, ValueError):  # "max"
        return float("inf")
    return room + sum(float(line.split()[1]) for line in lines if line.startswith(f"{cached} "))
