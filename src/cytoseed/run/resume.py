"""Request for one image, compared with the results and interrupted runs in its output folder."""

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
from cytoseed.results.record import SUFFIX as RECORD_SUFFIX
from cytoseed.results.record import compare, differences, read_record
from cytoseed.results.store import SUFFIX, Store
from cytoseed.results.view import Record, stem_of
from cytoseed.results.writers import check_formats, paths_of
from cytoseed.run.engine import check_precision, choose_device
from cytoseed.run.plan import Plan, make_plan
from cytoseed.run.survey import Limits, Survey
from cytoseed.settings import SegmentOptions

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


class Request(NamedTuple):
    """One image to segment: how, and where its results go."""

    image: Image
    output: Path
    model: Model
    options: SegmentOptions
    formats: tuple[str, ...]
    existing: Existing = "refuse"
    shard: Shard | None = None  # process only this part of the tiles; `cytoseed.run.shards.merge` joins them later

    @property
    def stem(self) -> str:
        """Beginning of the results' file names."""
        return stem_of(self.image.source)

    @property
    def store(self) -> Store:
        """Store of the tiles' objects."""
        part = "" if self.shard is None else f".shard-{self.shard.number}-of-{self.shard.of}"
        return Store(self.output / f"{self.stem}{part}{SUFFIX}")

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the formats asked for, and the record, last."""
        record = self.output / f"{self.stem}{RECORD_SUFFIX}"
        return (*paths_of(self.output, self.stem, self.formats).values(), record)


class Job(NamedTuple):
    """Work that a request leaves to do."""

    plan: Plan
    record: Record
    overwrite: bool  # ignores existing results
    resumes: bool  # continues an interrupted run
    is_done: bool  # everything exists already


def new_job(request: Request, plan: Plan | None = None) -> Job:
    """Job that ignores everything in the output folder."""
    plan = plan or make_plan(request.image, request.model.config, request.options)
    record = Record.of(request.image.identity(), plan.record)
    return Job(plan, record, overwrite=True, resumes=False, is_done=False)


def compare_with_output(request: Request) -> Job:
    """Job that remains, given what the output folder already holds; errors as `cytoseed.segment` raises them."""
    store, existing = request.store, request.existing
    check_formats(request.formats)
    require_writable(request.output)
    check_precision(request.options.precision, choose_device(request.options.device))
    if existing == "overwrite":
        return new_job(request)
    started = store.run()
    tile_size_px = request.options.tile_size_px or _earlier_tile_size(request, started)  # memory may differ today
    options = dataclasses.replace(request.options, tile_size_px=tile_size_px)
    job = new_job(request._replace(options=options))._replace(overwrite=False)
    resumes = job.plan.is_tiled and started is not None and "normalisation" in started
    found = compare(request.output, request.stem, job.record, request.formats)
    has_files = found.state == "same" and not found.missing
    if started is not None and started.get("overwrites") and found.state == "different":
        job = job._replace(overwrite=True)
    _refuse_others(request, job.record, started, () if job.overwrite else found.differences)
    if not resumes:
        return job._replace(is_done=started is None and has_files)
    missing = len(set(store.todo().tolist()) - store.done())
    has_ended = request.store.kept() is not None if request.shard is None else bool((started or {}).get("ended"))
    is_complete = not missing and has_ended
    if not is_complete and existing != "resume":
        raise FileExistsError(
            f"{store.path} holds a run that was stopped, with {missing} tiles to go: continue it with --resume "
            f"(existing='resume' in Python), or start anew with --overwrite"
        )
    return job._replace(resumes=True, is_done=is_complete and (request.shard is not None or has_files))


def record_start(request: Request, job: Job, found: Survey, batch: int) -> None:
    """Write the plan of the run into the store; a shard takes whole batches of `batch` tiles."""
    if not job.overwrite:
        request.store.announce(describe_run(request, job))
    batches = job.plan.grid.batches(found.todo.tolist(), batch)
    chosen = range(len(batches)) if request.shard is None else request.shard.share(len(batches))
    todo = [tile.number for index in chosen for tile in batches[index]]
    limits = {"low": found.limits.low.tolist(), "high": found.limits.high.tolist()}
    run = {**describe_run(request, job), "normalisation": limits, "stains": list(found.stains)}
    request.store.begin({**run, "tiles": len(found.todo)}, np.array(todo, np.int64))


def read_start(store: Store) -> tuple[Limits, tuple[str, ...]]:
    """Normalisation and stains that `record_start` wrote."""
    run = store.run() or {}
    low, high = (np.array(run["normalisation"][name], np.float32) for name in ("low", "high"))
    return Limits(low, high), tuple(run.get("stains", ()))


def describe_run(request: Request, job: Job) -> dict[str, Any]:
    """Description of a run: everything that decides its result, and how to ask for it again."""
    folder, mask = request.model.folder, request.options.mask
    options = dataclasses.asdict(request.options) | {"mask": None if mask is None else os.path.abspath(mask)}
    return {
        "version": job.record.version,
        "input": job.record.input,
        "settings": job.record.settings,
        "grid": job.plan.grid._asdict(),
        "overwrites": job.overwrite,
        "asked": {
            "source": address(request.image),
            "model": "" if folder is None else os.path.abspath(folder),
            "options": options,
            "formats": list(request.formats),
            "shard": list(request.shard or ()),
        },
    }


def _refuse_others(
    request: Request, record: Record, started: Mapping[str, Any] | None, of_files: tuple[str, ...]
) -> None:
    """Refuse to continue, or overwrite, results that were made differently."""
    lines = of_files
    if started is not None:
        wanted = json.loads(json.dumps({"version": record.version, "input": record.input, "settings": record.settings}))
        lines = tuple(differences({name: started.get(name) for name in wanted}, wanted)) or lines
    if lines:
        raise FileExistsError(
            f"{request.output} holds a result for {request.stem!r} that was made otherwise ({'; '.join(lines)}); "
            f"choose another folder, or overwrite it (--overwrite, existing='overwrite')"
        )


def _earlier_tile_size(request: Request, started: Mapping[str, Any] | None) -> int | None:
    """Tile size of the run or result in the output folder."""
    if started is None:
        record = read_record(request.files[-1])
        started = record.decides if record is not None else {}
    found = started.get("settings", {}).get("tile_size_px")
    return found if isinstance(found, int) else None
