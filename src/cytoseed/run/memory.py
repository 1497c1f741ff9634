"""How much memory there is, and how large a tile may be in it."""

from __future__ import annotations

from pathlib import Path

from cytoseed.settings import ModelConfig

_LARGEST_CORE_PX, _SMALLEST_CORE_PX = 2048, 256
_SHARE = 0.5  # of what is free that a run may take
_MOST_BYTES = 2_600_000_000  # larger tiles than this allows gain nothing
_FIXED_BYTES = 500_000_000  # the program, its libraries, the model
_BYTES_PER_PX = {"lite": 300, "paper": 700}  # of a tile as the network sees it; measured by benchmarks/slides.py


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
        2048, 1024, 512 or 256 px: the largest for which half of the free memory, and no more than 3 GB, is enough.
    """
    fields = config.positional_dims + config.conditional_dims + 1
    per_px = _BYTES_PER_PX[config.network] + area_factor + (8 * fields * 4 if tta else 0) * len(config.targets)
    room = min(_SHARE * free_bytes(), _MOST_BYTES) - _FIXED_BYTES
    side = _LARGEST_CORE_PX
    while side > _SMALLEST_CORE_PX and (side + 2 * halo_px) ** 2 * per_px > room:
        side //= 2
    return side


def free_bytes() -> float:
    """Bytes of memory that are free: of the machine, or of what a container or batch job may use; inf where unknown."""
    return min(_free_of_machine(), _free_of_group())


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
