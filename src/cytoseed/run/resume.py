"""Request for one image, compared with the results and interrupted runs in its output folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cytoseed.images import Image, ImageFileError, address
from cytoseed.models.weights import Model
from cytoseed.paths import is_remote, longest_name, require_writable
from cytoseed.results.record import SUFFIX as RECORD_SUFFIX
from cytoseed.results.record import OldRecord, compare, differences, read_record
from cytoseed.results.store import SUFFIX, Store
from cytoseed.results.view import Record, stem_of
from cytoseed.results.writers import check_formats, paths_of
from cytoseed.run.engine import choose_device
from cytoseed.run.plan import Plan, make_plan
from cytoseed.settings import SegmentOptions

_DEVICE = re.compile(
    r"(con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(\.|$)|.*[\x00-\x1f<>:\"|?*\\]", re.IGNORECASE | re.DOTALL
)
"""Names of devices on Windows, whatever follows a point, and names with characters that it refuses."""

Existing = Literal["refuse", "resume", "overwrite"]
"""How to treat results and interrupted runs of the same name: see `cytoseed.segment`."""


class Shard(NamedTuple):
    """One of several parts into which an image's tiles are divided, each processed by a run of its own."""

    number: int  # from 1
    of: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Shard written as `3/8`; a ValueError for anything else."""
        number, slash, of = text.partition("/")
        if slash and number.strip().isdecimal() and of.strip().isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise ValueError(f"shard is {text!r}; it must be written like 3/8: the third of eight parts, counted from 1")

    def takes(self, place: int) -> bool:
        """Whether a small image, by its place in the list from 1, belongs to this shard as a whole."""
        return place % self.of == self.number % self.of

    def share(self, count: int) -> range:
        """Indices of the shard's share of `count` items; the shares of all shards differ by one item at most."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


@dataclass(frozen=True)
class Request:
    """One image to segment: how, and where its results go."""

    image: Image
    output: Path
    model: Model
    options: SegmentOptions
    formats: tuple[str, ...]
    existing: Existing = "refuse"
    shard: Shard | None = None  # process only this part of the tiles; `cytoseed.run.shards.merge` joins them later

    def __post_init__(self) -> None:
        """Read values that are not finite as the options say."""
        if self.options.nan == "zero":
            object.__setattr__(self, "image", self.image.finite())

    @cached_property
    def plan(self) -> Plan:
        """Plan for an empty output folder."""
        return make_plan(self.image, self.model.config, self.options)

    @property
    def stem(self) -> str:
        """Beginning of the results' file names."""
        return stem_of(self.image.source, self.image.series)

    @property
    def store(self) -> Store:
        """Store of the tiles' objects."""
        part = "" if self.shard is None else f".shard-{self.shard.number}-of-{self.shard.of}"
        return Store(self.output / f"{self.stem}{part}{SUFFIX}")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the requested formats, then the record."""
        record = self.output / f"{self.stem}{RECORD_SUFFIX}"
        return (*paths_of(self.output, self.stem, self.formats).values(), record)

    def check_names(self) -> None:
        """Raise `ValueError` if a file of the results would have a longer name than its disk allows, or none at all."""
        if os.name == "nt" and not is_remote(self.output) and _DEVICE.match(self.stem):
            raise ValueError(
                f"{self.image.source}: Windows takes no files named {self.stem!r}; give the image another name"
            )
        longest = max(len(os.fsencode(path.name)) for path in (*self.files, self.store.path))
        limit = 0 if is_remote(self.output) else longest_name(self.output)
        if limit and longest > limit:
            raise ValueError(
                f"{self.image.source}: its results would have names of up to {longest} bytes, and {self.output} takes "
                f"{limit}; give the image a shorter name"
            )


class Job(NamedTuple):
    """Work that a request leaves to do."""

    plan: Plan
    record: Record
    overwrite: bool = True  # ignores existing results
    resumes: bool = False  # continues an interrupted run
    is_done: bool = False  # everything exists already


def new_job(request: Request) -> Job:
    """Job that ignores everything in the output folder."""
    return Job(request.plan, Record.of(request.image.identity(), request.plan.record))


def require_unchanged(image: Image, was: Mapping[str, Any]) -> None:
    """Raise `ImageFileError` if the file of an image is not the one any more that `was` identifies."""
    if image.path is None:
        return
    try:
        is_same = replace(image).identity() == was  # a copy, which computes it again
    except (FileNotFoundError, ImageFileError):
        is_same = False
    if not is_same:
        raise ImageFileError(
            f"{image.source}: was changed or removed while it was segmented, so its objects may be of two images, and "
            f"no results were written; segment it again when nothing writes to it"
        )


def compare_with_output(request: Request) -> Job:
    """Job that remains, given what the output folder already holds; errors as `cytoseed.segment` raises them."""
    store, existing = request.store, request.existing
    check_formats(request.formats)
    require_writable(request.output)
    choose_device(request.options.device, request.options.precision)
    if existing == "overwrite":
        return new_job(request)
    started, asked = store.run(), request
    earlier = started or (read_record(request.files[-1]) or OldRecord()).decides
    tile_size_px = earlier.get("settings", {}).get("tile_size_px")  # memory may differ today
    if request.options.tile_size_px is None and tile_size_px not in (None, request.plan.record.get("tile_size_px")):
        asked = replace(request, options=replace(request.options, tile_size_px=tile_size_px))
    job = new_job(asked)._replace(overwrite=False)
    resumes = job.plan.is_tiled and started is not None and "normalisation" in started
    found = compare(request.output, request.stem, job.record, request.formats)
    has_files = found.state == "same" and not found.missing
    if started is not None and started.get("overwrites") and found.state == "different":
        job = job._replace(overwrite=True)
    lines = () if job.overwrite else found.differences
    if started is not None:
        wanted = json.loads(json.dumps(vars(job.record)))
        lines = tuple(differences({name: started.get(name) for name in wanted}, wanted)) or lines
    if lines:
        raise FileExistsError(
            f"{request.output} holds a result for {request.stem!r} that was made differently ({'; '.join(lines)}); "
            f"choose another folder, or overwrite it (--overwrite, existing='overwrite')"
        )
    if not resumes:
        return job._replace(is_done=started is None and has_files)
    todo = store.todo()
    if len(todo) and todo[-1] >= job.plan.grid.tiles:
        raise ValueError(f"{store.path}: lists tiles that the image does not have; start again with --overwrite")
    missing = len(set(todo.tolist()) - store.done())
    has_ended = store.kept() is not None if request.shard is None else bool((started or {}).get("ended"))
    is_complete = not missing and has_ended
    if not is_complete and existing != "resume":
        raise FileExistsError(
            f"{store.path} holds a run that was stopped, with {missing} tiles to go: continue it with --resume "
            f"(existing='resume' in Python), or start again with --overwrite"
        )
    return job._replace(resumes=True, is_done=is_complete and (request.shard is not None or has_files))


def describe_run(request: Request, job: Job) -> dict[str, Any]:
    """Description of a run: everything that decides its result, and how to ask for it again."""
    folder, mask = request.model.folder, request.options.mask
    options = asdict(request.options) | {"mask": None if mask is None else os.path.abspath(mask)}
    return {
        **vars(job.record),
        "grid": job.plan.grid._asdict(),
        "overwrites": job.overwrite,
        "asked": {
            "source": address(request.image),
            "series": request.image.series,
            "full_canvas": request.image.full_canvas,
            "model": "" if folder is None else os.path.abspath(folder),
            "options": options,
            "formats": list(request.formats),
            "shard": list(request.shard or ()),
        },
    }
