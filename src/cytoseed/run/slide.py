"""Segmentation of one image of any size: tiles that survive kills, stitching, and files."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from cytoseed.images import ImageFileError, Regions
from cytoseed.images.overview import thumbnail
from cytoseed.paths import lock, write_bytes
from cytoseed.results import Result
from cytoseed.results.save import save
from cytoseed.results.store import Store
from cytoseed.run.engine import choose_device, engine_for, precision_notice
from cytoseed.run.executor import Executor, LocalExecutor
from cytoseed.run.memory import trim
from cytoseed.run.plan import Plan, make_plan, scale_notice
from cytoseed.run.resume import Job, Request, compare_with_output, describe_run, new_job, read_start, record_start
from cytoseed.run.stitch import stitch_tiles
from cytoseed.run.survey import survey
from cytoseed.run.tile import WIDE_MARGIN_PX, Clock, SlideContext
from cytoseed.run.tiles import Box

_NAMED = 3  # places that a message names at most


class Progress(NamedTuple):
    """Progress of a run in tiles."""

    done: int
    """Tiles that are done or have failed."""
    total: int
    """Tiles to process."""
    objects: int
    """Objects found in this run; at borders some count twice."""
    input_px: int
    """Pixels of the image, at full resolution, processed in this run."""
    seconds: float
    """Seconds since the first tile of this run."""


class Failure(NamedTuple):
    """A tile that could not be processed: its core in the image, and why."""

    box_yxhw: Box
    cause: str


class Callbacks(NamedTuple):
    """Callbacks for warnings and progress."""

    notice: Callable[[str], object] = lambda _: None
    """Called with a sentence when the result may not be what was meant."""
    progress: Callable[[Progress], object] = lambda _: None
    """Called after every tile."""


class RunReport(NamedTuple):
    """Outcome of a run."""

    result: Result | None  # None where everything existed already, and for a shard
    files: tuple[Path, ...] = ()  # of the formats asked for, and the record, last; none for a shard
    already_done: bool = False  # everything existed already, and nothing was done
    failures: tuple[Failure, ...] = ()  # tiles that could not be processed: `existing="resume"` tries them again
    seconds: Mapping[str, float] = MappingProxyType({})  # per stage; stages run side by side, `wall` is the whole
    is_tiled: bool = False  # False for an image that was segmented as one tile in memory
    tiles: int = 1  # tiles to be processed
    skipped: int = 0  # tiles left out as background, or outside the area
    input_px: int = 0  # pixels of the image, at full resolution, in the tiles
    network_px: int = 0  # the same at the network's resolution


def run_to_files(request: Request, callbacks: Callbacks | None = None, executor: Executor | None = None) -> RunReport:
    """Segment an image and write its files, or only the tiles of a shard; errors as `cytoseed.segment` raises them."""
    calls = callbacks or Callbacks()
    with _full_disk_errors(request.store), lock(request.store.path):
        job = compare_with_output(request)
        if job.is_done:
            return RunReport(None, () if request.shard else request.files, already_done=True)
        _notify(request, job.plan, calls, executor)
        run = _run_tiles if job.plan.is_tiled else _run_single
        return run(request, job, calls, executor or _local_executor(request))


def run_in_memory(request: Request, callbacks: Callbacks | None = None, executor: Executor | None = None) -> Result:
    """Segment an image without an output folder; tiles of a large one live in a temporary folder."""
    calls = callbacks or Callbacks()
    plan = make_plan(request.image, request.model.config, request.options)
    _notify(request, plan, calls, executor)
    executor = executor or _local_executor(request)
    if not plan.is_tiled:
        return _single_result(request, plan, executor, Clock())
    folder, job = _TemporaryFolder(), new_job(request, plan)
    report = _run_tiles(request._replace(output=folder.path, formats=()), job, calls, executor, keep_alive=folder)
    if report.failures or report.result is None:
        cause = report.failures[0].cause if report.failures else "no result"
        raise ImageFileError(f"{request.image.source}: a part of it cannot be segmented: {cause}")
    return report.result


class _TemporaryFolder:
    """A folder that lasts as long as this object; without the warning of `tempfile.TemporaryDirectory`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="cytoseed-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _notify(request: Request, plan: Plan, calls: Callbacks, executor: Executor | None) -> None:
    """Send the warnings that are known before the run."""
    options = request.options
    is_slow = None if executor is not None else precision_notice(options.precision, choose_device(options.device))
    for sentence in filter(None, (scale_notice(plan), is_slow)):
        calls.notice(sentence)


def _local_executor(request: Request) -> LocalExecutor:
    options = request.options
    return LocalExecutor(engine_for(request.model, choose_device(options.device), options.precision))


def _run_single(request: Request, job: Job, calls: Callbacks, executor: Executor) -> RunReport:
    """Segment an image that is one tile, and write its files."""
    del calls  # a single tile has no progress
    clock = Clock()
    with clock("wall"):
        result = _single_result(request, job.plan, executor, clock)
        with clock("write"):
            files = save(result, request.output, request.formats, job.overwrite)
            if job.overwrite:
                request.store.clear()  # tiles of an earlier run with other settings
    px = job.plan.size_yx[0] * job.plan.size_yx[1]
    return RunReport(result, files, seconds=clock.seconds, input_px=result.shape[1] * result.shape[2], network_px=px)


def _single_result(request: Request, plan: Plan, executor: Executor, clock: Clock) -> Result:
    """Result of an image that is one tile."""
    with clock("read"):
        image = request.image.in_memory()
    config = request.model.config
    context = SlideContext(image, plan, None, config.channels, request.options.tta)
    with image.regions() as regions:
        labels = executor.run_single(context, regions, clock)
    return Result.from_labels(
        labels[0] if len(labels) == 1 else labels,
        image.read(),
        targets=config.targets,
        channel_names=image.channel_names,
        pixel_size_um=plan.pixel_size_um,
        source=request.image.source,
        settings=plan.record,
        find_input=request.image.identity,
    )


def _run_tiles(
    request: Request, job: Job, calls: Callbacks, executor: Executor, keep_alive: object = None
) -> RunReport:
    """Process the missing tiles of an image, stitch them, and write the files."""
    clock, store = Clock(), request.store
    with request.image.regions() as regions, clock("wall"):
        _start(request, job, regions, clock, executor.batch)
        (limits, stains), config = read_start(store), request.model.config
        context = SlideContext(request.image, job.plan, limits, config.channels, request.options.tta, stains)
        failures = process_missing(context, regions, executor, store, clock, calls)
        if failures and len(failures) == len(store.todo()):
            raise ImageFileError(
                f"{request.image.source}: none of its {len(failures)} tiles could be made: {failures[0].cause}"
            )
        report = _counts(request, job, failures)
        if request.shard is not None:
            store.change(ended=True)
        else:
            if store.kept() is None:
                stitch_tiles(context, regions, store, clock)
            with clock("write"):
                report = _write(request, job, stains, report, keep_alive)
            if job.overwrite:
                store.change(overwrites=False)  # from now on files beside it belong to others
    report = report._replace(seconds={stage: round(seconds, 3) for stage, seconds in clock.seconds.items()})
    counts = {name: getattr(report, name) for name in ("tiles", "skipped", "input_px", "network_px")}
    with contextlib.suppress(OSError):  # not part of the result
        write_bytes(store.path / "timings.json", f"{json.dumps({**report.seconds, **counts}, indent=2)}\n".encode())
    for sentence in _warnings(request, report, job.plan.grid.margin_px):
        calls.notice(sentence)
    return report


def process_missing(
    context: SlideContext, regions: Regions, executor: Executor, store: Store, clock: Clock, calls: Callbacks
) -> tuple[Failure, ...]:
    """Process the tiles that are not in the store yet; tiles that failed twice are returned."""
    grid, plan = context.plan.grid, context.plan
    todo, done = store.todo().tolist(), store.done()
    batches = grid.batches(todo, executor.batch)  # always of all tiles: companions decide the rounding
    batches = [batch for batch in batches if any(tile.number not in done for tile in batch)]
    failures: dict[int, Failure] = {}
    objects, input_px, number = 0, 0, len(done)
    started = time.perf_counter()
    if batches:
        store.drop_kept()
    for result in executor.run(context, regions, batches, clock):
        tile = result.tile
        if tile.number in done:  # processed again only as a companion in its batch
            continue
        box = plan.full_box(tile.core_yxhw)
        if result.objects is None:
            cause = " ".join(str(result.error).split()) or type(result.error).__name__
            failures[tile.number] = Failure(box, cause)
        else:
            with clock("store"):
                store.write(tile.number, result.objects)
            objects += int(result.objects.is_owned.sum())
        trim()
        number, input_px = number + 1, input_px + box[2] * box[3]
        calls.progress(Progress(number, len(todo), objects, input_px, time.perf_counter() - started))
    return tuple(failures[tile] for tile in sorted(failures))


def _start(request: Request, job: Job, regions: Regions, clock: Clock, batch: int) -> None:
    """Survey the image, and record what the run is going to do; a resumed run drops tiles that cannot be read."""
    store = request.store
    for tile in sorted(store.done()) if job.resumes else ():
        try:
            store.read(tile)
        except ValueError:
            store.drop(tile)
    if job.resumes:
        return
    if job.overwrite:  # from here on the earlier run is gone, and this one can be resumed
        store.announce(describe_run(request, job))
    with clock("survey"):
        found = survey(request.image, regions, job.plan, request.options.skip_background)
    record_start(request, job, found, batch)


def _counts(request: Request, job: Job, failures: Sequence[Failure]) -> RunReport:
    """Report with the numbers of tiles and pixels."""
    plan, todo = job.plan, request.store.todo().tolist()
    cores = [plan.grid.tile(index).core_yxhw for index in todo]
    return RunReport(
        result=None,
        failures=tuple(failures),
        is_tiled=True,
        tiles=len(todo),
        skipped=plan.grid.tiles - (request.store.run() or {}).get("tiles", len(todo)),
        input_px=sum(height * width for _, _, height, width in map(plan.full_box, cores)),
        network_px=sum(height * width for _, _, height, width in cores),
    )


def _write(request: Request, job: Job, stains: tuple[str, ...], report: RunReport, keep_alive: object) -> RunReport:
    """Write the files that do not exist yet."""
    kept = request.store.kept()
    if kept is None:
        raise ValueError(f"{request.store.path}: its stitching is damaged; --resume makes it again")
    result = Result.from_store(
        request.store,
        kept,
        shape=request.image.shape,
        targets=request.model.config.targets,
        channel_names=request.image.channel_names,
        pixel_size_um=job.plan.pixel_size_um,
        source=request.image.source,
        find_input=lambda: job.record.input,
        settings=job.record.settings,
        find_stains=lambda: stains,
        thumbnail=lambda largest_px: thumbnail(request.image, largest_px),
        failed=tuple(f"{_place(failure.box_yxhw)}: {failure.cause}" for failure in report.failures),
        keep_alive=keep_alive,
    )
    files = save(result, request.output, request.formats, job.overwrite) if request.formats else ()
    return report._replace(result=result, files=files)


def _warnings(request: Request, report: RunReport, margin_px: int) -> Iterator[str]:
    """Warnings about a finished run in tiles."""
    if report.failures:
        named = "; ".join(f"{_place(one.box_yxhw)}: {one.cause}" for one in report.failures[:_NAMED])
        more = f"; and {len(report.failures) - _NAMED} more" if len(report.failures) > _NAMED else ""
        yield f"{len(report.failures)} tiles could not be made and are empty ({named}{more}); --resume tries them again"
    if not report.tiles:
        yield (
            "nothing was segmented: all of it was taken for background; if it is not, state --no-skip-background "
            "(skip_background=False in Python)"
        )
    kept = request.store.kept() if report.result is not None else None
    boxes = kept.left_out_yxhw if kept is not None else np.zeros((0, 4), np.int64)
    if len(boxes):
        named = "; ".join(_place(box) for box in boxes[:_NAMED].tolist())
        yield (
            f"{len(boxes)} objects reach further than {max(margin_px, WIDE_MARGIN_PX)} px (at the model's pixel size) "
            f"from their tile and were left out rather than cut ({named}): if they are objects, state a "
            f"larger --margin (margin_px in Python)"
        )


def _place(box_yxhw: Sequence[int]) -> str:
    top, left, height, width = box_yxhw
    return f"x {left} to {left + width}, y {top} to {top + height}"


@contextlib.contextmanager
def _full_disk_errors(store: Store) -> Iterator[None]:
    """Add the remedy to errors of a full disk."""
    try:
        yield
    except OSError as error:
        says_so = os.strerror(errno.ENOSPC) in str(error)  # some libraries raise errors without a number
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not says_so:
            raise
        raise OSError(
            f"{store.path}: no room left on its disk; finished tiles are kept: make room, then --resume "
            f"(existing='resume' in Python)"
        ) from error
