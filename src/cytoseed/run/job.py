"""What is to be done for a slide: what is asked for, beside what is there already."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cytoseed.images import Image, address
from cytoseed.models.weights import Model
from cytoseed.paths import require_writable
from cytoseed.results.facts import stem_of
from cytoseed.results.record import SUFFIX as RECORD_SUFFIX
from cytoseed.results.record import Record, compare, differences, read_record
from cytoseed.results.store import SUFFIX, Store
from cytoseed.results.writers import check_formats, paths_of
from cytoseed.run.area import Area, read_area
from cytoseed.run.engine import choose_device
from cytoseed.run.plan import Plan, make_plan
from cytoseed.run.survey import Limits, Survey, tile_grid, tile_settings
from cytoseed.run.tiles import Grid
from cytoseed.settings import SegmentOptions

Existing = Literal["refuse", "resume", "overwrite"]
"""What becomes of a run that is there already: see `cytoseed.segment_slide`."""


class Shard(NamedTuple):
    """One of several parts that an image's tiles are divided into, each made by a run of its own."""

    number: int
    """Which it is, from 1."""
    of: int
    """How many there are."""

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read `3/8`.

        Raises
        ------
        ValueError
            It is something else.
        """
        number, slash, of = text.partition("/")
        if slash and number.strip().isdecimal() and of.strip().isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise ValueError(f"shard is {text!r}; it must be such as 3/8: the third of eight parts, counted from 1")

    def takes(self, place: int) -> bool:
        """Tell whether an image, by its place in the list from 1, is the shard's as a whole."""
        return place % self.of == self.number % self.of

    def share(self, count: int) -> range:
        """Give the shard's share of so many things in a row; the shares of all are of one size, give or take one."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


class Request(NamedTuple):
    """What is asked for."""

    image: Image
    output: Path
    """Folder of the results."""
    model: Model
    options: SegmentOptions
    formats: tuple[str, ...]
    existing: Existing = "refuse"
    shard: Shard | None = None
    """Make only this part of the tiles, for `cytoseed.run.shards.merge` to join later."""

    @property
    def source(self) -> str:
        """The image's path, or `array`."""
        return self.image.source

    @property
    def stem(self) -> str:
        """What the results' names begin with."""
        return stem_of(self.source)

    @property
    def store(self) -> Store:
        """Where the tiles go."""
        part = "" if self.shard is None else f".shard-{self.shard.number}-of-{self.shard.of}"
        return Store(self.output / f"{self.stem}{part}{SUFFIX}")

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of the formats asked for, and the record, last."""
        record = self.output / f"{self.stem}{RECORD_SUFFIX}"
        return (*paths_of(self.output, self.stem, self.formats).values(), record)


class Job(NamedTuple):
    """What is to be done."""

    plan: Plan
    grid: Grid
    area: Area
    record: Record
    overwrite: bool
    """Whatever is there does not count."""
    goes_on: bool
    """A run was begun, and is gone on with."""
    was_there: bool
    """It is complete."""


class Begun(NamedTuple):
    """What a run that goes on began with."""

    limits: Limits
    stains: tuple[str, ...]
    """Stains whose optical density is measured."""


def decide(request: Request) -> Job:
    """Compare what is asked for with what is there.

    Raises
    ------
    FileExistsError
        What is there was made otherwise, or was stopped and is not to be resumed.
    FileNotFoundError, TypeError, ValueError
        What is asked for cannot be: see `cytoseed.segment_slide`.
    """
    options, store, existing = request.options, request.store, request.existing
    check_formats(request.formats)
    require_writable(request.output)
    choose_device(options.device)
    plan = make_plan(request.image, request.model.config, options)
    area = read_area(plan.full_yx, options.region or None, options.mask)
    begun = None if existing == "overwrite" else store.run()
    if existing != "overwrite" and options.tile_size_px is None:
        options = dataclasses.replace(options, tile_size_px=_earlier_tile_size(request, begun))
    grid = tile_grid(plan, request.model.config, options, request.image)
    record = Record.of(request.image.identity(), {**plan.record, **tile_settings(grid, options, area)})
    overwrite = existing == "overwrite"
    goes_on = begun is not None and "normalisation" in begun
    job = Job(plan, grid, area, record, overwrite, goes_on, was_there=False)
    if overwrite:
        return job
    found = compare(request.output, request.stem, record, request.formats)
    has_files = found.state == "same" and not found.missing
    if begun is not None and begun.get("overwrites") and found.state == "different":
        job = job._replace(overwrite=True)
    _refuse_others(request, record, begun, () if job.overwrite else found.differences)
    if not goes_on:
        return job._replace(was_there=begun is None and has_files)
    missing = len(set(store.todo().tolist()) - store.done())
    is_made = not missing and _has_ended(request, begun or {})
    if not is_made and existing != "resume":
        raise FileExistsError(
            f"{store.path} holds a run that was stopped, with {missing} tiles to go: go on with it by --resume "
            f"(existing='resume' in Python), or start anew by --overwrite"
        )
    return job._replace(was_there=is_made and (request.shard is not None or has_files))


def begin(request: Request, job: Job, seen: Survey, batches: list[list[int]]) -> None:
    """Write into the store what is to be done.

    Parameters
    ----------
    request : Request
    job : Job
    seen : Survey
        Of the image.
    batches : list of lists of int
        The tiles that go through the network together; a shard takes whole ones.
    """
    if not job.overwrite:
        request.store.announce(described(request, job))
    chosen = range(len(batches)) if request.shard is None else request.shard.share(len(batches))
    todo = [tile for index in chosen for tile in batches[index]]
    limits = {"low": seen.limits.low.tolist(), "high": seen.limits.high.tolist()}
    run = {**described(request, job), "normalisation": limits, "stains": list(seen.stains), "tiles": len(seen.todo)}
    request.store.begin(run, np.array(todo, np.int64))


def read_begun(store: Store) -> Begun:
    """Read what a run began with."""
    run = store.run() or {}
    low, high = (np.array(run["normalisation"][name], np.float32) for name in ("low", "high"))
    return Begun(Limits(low, high), tuple(run.get("stains", ())))


def drop_damaged(store: Store) -> None:
    """Forget tiles whose files cannot be read, so that they are made again."""
    for tile in sorted(store.done()):
        try:
            store.read(tile)
        except ValueError:
            store.drop(tile)


def described(request: Request, job: Job) -> dict[str, Any]:
    """Give what a run is: what decides it, and how to ask for it again."""
    options = dataclasses.asdict(request.options)
    if request.options.mask is not None:
        options["mask"] = os.path.abspath(request.options.mask)
    folder = request.model.folder
    return {
        "version": job.record.version,
        "input": job.record.input,
        "settings": job.record.settings,
        "grid": job.grid._asdict(),
        "overwrites": job.overwrite,
        "asked": {
            "source": address(request.image),
            "model": "" if folder is None else os.path.abspath(folder),
            "options": options,
            "formats": list(request.formats),
            "shard": list(request.shard or ()),
        },
    }


def _has_ended(request: Request, begun: Mapping[str, Any]) -> bool:
    """Tell whether a run without tiles to go has done all it had to, but for the files."""
    return bool(begun.get("ended")) if request.shard is not None else request.store.kept() is not None


def _refuse_others(
    request: Request, record: Record, begun: Mapping[str, Any] | None, of_files: tuple[str, ...]
) -> None:
    """Refuse to go on with, or write over, what was made otherwise."""
    lines = of_files
    if begun is not None:
        wished = json.loads(json.dumps({"version": record.version, "input": record.input, "settings": record.settings}))
        lines = tuple(differences({name: begun.get(name) for name in wished}, wished)) or lines
    if lines:
        raise FileExistsError(
            f"{request.output} holds a result for {request.stem!r} that was made otherwise ({'; '.join(lines)}); "
            f"choose another folder, or overwrite it (--overwrite, existing='overwrite')"
        )


def _earlier_tile_size(request: Request, begun: Mapping[str, Any] | None) -> int | None:
    """Find the tile size of the run or result that is there: what memory would allow today does not matter then."""
    if begun is None:
        record = read_record(request.output / f"{request.stem}{RECORD_SUFFIX}")
        begun = record.decides if record is not None else {}
    found = begun.get("settings", {}).get("tile_size_px")
    return found if isinstance(found, int) else None
