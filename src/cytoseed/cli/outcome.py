"""Outcome of `cytoseed segment` for one image: a line of text, and JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from cytoseed.images.pixel_size import side_text
from cytoseed.paths import display
from cytoseed.results.view import SINGULAR
from cytoseed.run.resume import Request
from cytoseed.run.slide import RunReport

_NAMED = ("table", "parquet", "overlay")  # formats whose files a line names


class Outcome(NamedTuple):
    """Outcome of one image."""

    line: str  # without the image's name
    facts: Mapping[str, Any]  # as JSON values
    is_whole: bool = True  # False if a part is missing


def outcome_of(request: Request, report: RunReport) -> Outcome:
    """Outcome of an image that a run has dealt with."""
    folder, files = display(request.output), dict(zip(request.formats, report.files, strict=False))
    facts: dict[str, Any] = {"model": request.model.config.name, "stain": request.options.stain, "folder": folder}
    facts["files"] = {name: display(file) for name, file in files.items()}
    if report.already_done:
        return Outcome("already there", {"status": "already there", **facts})
    facts |= {
        "status": "incomplete" if report.failures else "done",
        "seconds": report.seconds.get("wall"),
        "stages": dict(report.seconds),
    }
    facts |= {"tiles": report.tiles, "skipped_tiles": report.skipped, "failures": list(report.failures)}
    what, place = "no result", display(request.store.path)
    if request.shard is not None:
        what = f"shard {request.shard.number} of {request.shard.of}, {report.tiles} tiles"
        facts["shard"] = list(request.shard)
    elif report.result is not None:
        target, count = report.result.targets[-1], report.result.count
        what = f"{count} {SINGULAR[target] if count == 1 else target}"
        facts |= {"objects": count, "target": target}
        named = [files[name].name for name in _NAMED if name in files]
        place = f"{folder}: {', '.join(named or [report.files[0].name])}"
    stain = f" on {request.options.stain}" if request.options.stain else ""
    line = f"{what} in {_time(report)} by {request.model.config.name}{stain} -> {place}"
    return Outcome(line, facts, not report.failures)


def describe_plan(label: str, request: Request) -> str:
    """Describe the plan of an image, for --verbose."""
    plan, image = request.plan, request.image
    (full_height, full_width), (height, width) = plan.full_yx, plan.size_yx
    channels = ", ".join(image.channel_names[index] for index in plan.channels)
    size = "unknown" if plan.pixel_size_um is None else f"{side_text(plan.pixel_size_um)} µm"
    tiles = f"in tiles of {plan.grid.core_px} px" if plan.is_tiled else "as one tile"
    return (
        f"{label}: {full_width} x {full_height} px of {image.dtype}, channels {channels}, pixel size {size}; "
        f"level {plan.level}, at {width} x {height} px, {tiles}; model {request.model.config.name}"
    )


def _time(report: RunReport) -> str:
    """Time that an image took; for a tiled one also the share of each stage, as stages run in parallel."""
    wall = report.seconds["wall"]
    if not report.is_tiled:
        return f"{wall:.1f} s"
    total = sum(report.seconds.values()) - wall
    reading = sum(report.seconds.get(part, 0.0) for part in ("read", "prepare", "survey")) / total
    network = report.seconds.get("network", 0.0) / total
    shares = f"reading {reading:.0%}, network {network:.0%}, the rest {1 - reading - network:.0%}"
    skipped = f", {report.skipped} of {report.tiles + report.skipped} tiles skipped" if report.skipped else ""
    return f"{wall:.0f} s ({shares}{skipped})"
