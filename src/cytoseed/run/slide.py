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
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cytoseed.images import ImageFileError, Regions
from cytoseed.images.image import RGB_NAMES
from cytoseed.images.overview import thumbnail
from cytoseed.images.pixel_size import sides_um
from cytoseed.paths import lock, write_bytes
from cytoseed.results import Result
from cytoseed.results.save import save
from cytoseed.results.store import StitchedObjects, Store
from cytoseed.run.auto import is_merged_fluorescence
from cytoseed.run.engine import bfloat16_is_fast, choose_device, engine_for
from cytoseed.run.executor import Executor, LocalExecutor
from cytoseed.run.memory import trim
from cytoseed.run.plan import Plan
from cytoseed.run.resume import Job, Request, compare_with_output, describe_run, new_job, require_unchanged
from cytoseed.run.stitch import stitch_tiles
from cytoseed.run.survey import Limits, survey
from cytoseed.run.tile import Clock, SlideContext

_UNKNOWN_SCALE = (  # 8 to 40 px: there, images at native scale and at the nominal scale score alike
    "pixel size unknown, so segmented as it is, which suits nuclei 8 to 40 px wide; for others state --diameter in px "
    "or --pixel-size in µm (diameter_px, pixel_size_um in Python)"
)
_NOT_SQUARE = (
    "pixels are {x:g} x {y:g} µm (width x height, from {source}), so the network sees square ones; results are in the "
    "image's own pixels. If they are square, state --pixel-size in µm (pixel_size_um in Python)"
)
_ENLARGED = (
    "pixel size {size:g} µm (from {source}) enlarges the image {factor:.1f} times per side; if it is that of the "
    "camera and not of the sample, state the right one with --pixel-size in µm (pixel_size_um in Python)"
)
_NUCLEAR = "channel {number} ({name}) is segmented, as its name is that of a nuclear stain; --channels takes others"
_MERGED = (
    "red, green and blue look like fluorescence channels merged in one picture, and all were segmented together; if "
    "one shows the nuclei, choose it, such as --channels blue (channels='blue' in Python)"
)
_MOST_ENLARGED = 4.0  # times per side
_KEPT = "finished tiles are kept: make room, then --resume (existing='resume' in Python)"
_SLOW = "bfloat16 is fast on NVIDIA GPUs since Ampere and on CPUs with AMX or AVX-512 BF16; float32 may be faster here"


class Progress(NamedTuple):
    """Progress of a run in tiles."""

    done: int  # tiles that are done or have failed
    total: int  # tiles to process
    objects: int  # found in this run; at borders some count twice
    input_px: int  # pixels of the image, at full resolution, processed in this run
    seconds: float  # since the first tile of this run


class Callbacks(NamedTuple):
    """Callbacks for warnings and progress."""

    notice: Callable[[str], object] = lambda _: None
    """Called with a sentence when the result may not be what the user intended."""
    progress: Callable[[Progress], object] = lambda _: None
    """Called after every tile."""


class RunReport(NamedTuple):
    """Outcome of a run."""

    result: Result | None  # None where everything existed already, and for a shard
    files: tuple[Path, ...] = ()  # files of the requested formats, then the record; none for a shard
    already_done: bool = False  # everything existed already, and nothing was done
    failures: tuple[str, ...] = ()  # place and cause of tiles that failed: `existing="resume"` tries them again
    seconds: Mapping[str, float] = MappingProxyType({})  # per stage; stages run side by side, `wall` is the whole
    is_tiled: bool = False  # False for an image that was segmented as one tile in memory
    tiles: int = 1  # tiles to be processed
    skipped: int = 0  # tiles left out as background, or outside the area


def run_to_files(request: Request, callbacks: Callbacks | None = None, executor: Executor | None = None) -> RunReport:
    """Segment an image and write its files, or only the tiles of a shard; errors as `cytoseed.segment` raises them."""
    calls = callbacks or Callbacks()
    request.check_names()
    with full_disk_errors(request.store.path, _KEPT), lock(request.store.path):
        job = compare_with_output(request)
        if job.is_done:
            return RunReport(None, () if request.shard else request.files, already_done=True)
        executor = _announce(request, calls, executor)
        if job.plan.is_tiled:
            return _run_tiles(request, job, calls, executor)
        return _run_single(request, job, executor)


def run_in_memory(request: Request, callbacks: Callbacks | None = None, executor: Executor | None = None) -> Result:
    """Segment an image without an output folder; tiles of a large one live in a temporary folder."""
    calls = callbacks or Callbacks()
    executor = _announce(request, calls, executor)
    if not request.plan.is_tiled:
        return _single_result(request, request.plan, executor, Clock())
    folder, job = _TemporaryFolder(), new_job(request)
    report = _run_tiles(replace(request, output=folder.path, formats=()), job, calls, executor, keep_alive=folder)
    if report.result is None or report.failures:
        raise ImageFileError(f"{request.image.source}: cannot be segmented at {_listed(report.failures)}")
    return report.result


class _TemporaryFolder:
    """A folder that lasts as long as this object; without the warning of `tempfile.TemporaryDirectory`."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="cytoseed-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _announce(request: Request, calls: Callbacks, executor: Executor | None) -> Executor:
    """Send the warnings that are known before the run; returns the given executor, or one in this process."""
    options = request.options
    notices = _notices(request)
    if executor is None:
        device = choose_device(options.device, options.precision)
        if options.precision == "bfloat16" and not bfloat16_is_fast(device):
            notices.append(_SLOW)
        executor = LocalExecutor(engine_for(request.model, device, options.precision))
    for sentence in notices:
        calls.notice(sentence)
    return executor


def _notices(request: Request) -> list[str]:
    """Warnings about the scale and the channels of an image."""
    plan, options = request.plan, request.options
    source, factor = plan.record["pixel_size_source"], max(np.divide(plan.size_yx, plan.full_yx))
    notices = []
    if plan.pixel_size_um is None and options.diameter_px is None:
        notices.append(_UNKNOWN_SCALE)
    if isinstance(plan.pixel_size_um, tuple):
        y, x = plan.pixel_size_um
        notices.append(_NOT_SQUARE.format(x=x, y=y, source=source))
    if plan.pixel_size_um is not None and source != "given" and not options.diameter_px and factor > _MOST_ENLARGED:
        notices.append(_ENLARGED.format(size=max(sides_um(plan.pixel_size_um)), source=source, factor=factor))
    if len(plan.channels) == len(RGB_NAMES) and options.stain is None and is_merged_fluorescence(request.image):
        notices.append(_MERGED)
    if not options.channels and len(plan.channels) < len(request.image.channel_names):
        (number,) = plan.channels
        notices.append(_NUCLEAR.format(number=number, name=request.image.channel_names[number]))
    return notices


def _run_single(request: Request, job: Job, executor: Executor) -> RunReport:
    """Segment an image that is one tile, and write its files."""
    clock = Clock()
    with clock("wall"):
        result = _single_result(request, job.plan, executor, clock)
        require_unchanged(request.image, job.record.input)
        with clock("write"):
            files = save(result, request.output, request.formats, job.overwrite)
            if job.overwrite:
                request.store.clear()  # tiles of an earlier run with other settings
    return RunReport(result, files, seconds=clock.seconds)


def _single_result(request: Request, plan: Plan, executor: Executor, clock: Clock) -> Result:
    """Result of an image that is one tile."""
    with clock("read"):
        image = request.image.in_memory()
    config = request.model.config
    with image.regions() as regions:
        context = SlideContext(image, regions, clock, plan, None, config.fixed_channels, request.options.tta)
        labels, scores = executor.run_single(context)
    facts = _facts(request, plan) | {"settings": plan.record, "find_input": request.image.identity, "scores": scores}
    return Result.from_labels(labels[0] if len(labels) == 1 else labels, image.read(), **facts)


def _facts(request: Request, plan: Plan) -> dict[str, Any]:
    """Fields of every result."""
    return {
        "targets": plan.targets,
        "channel_names": request.image.channel_names,
        "pixel_size_um": plan.pixel_size_um,
        "source": request.image.source,
    }


def _run_tiles(
    request: Request, job: Job, calls: Callbacks, executor: Executor, keep_alive: object = None
) -> RunReport:
    """Process the missing tiles of an image, stitch them, and write the files."""
    clock, store, plan = Clock(), request.store, job.plan
    with request.image.regions() as regions, clock("wall"):
        limits, stains = _start(request, job, regions, clock, executor.batch)
        of_model = request.model.config.fixed_channels, request.options.tta
        context = SlideContext(request.image, regions, clock, plan, limits, *of_model, stains)
        failures = process_missing(context, executor, store, calls)
        try:
            require_unchanged(request.image, job.record.input)
        except ImageFileError:
            store.clear()  # its tiles are of two images
            raise
        todo = store.todo().tolist()
        if failures and len(failures) == len(todo):
            raise ImageFileError(f"{request.image.source}: all {len(todo)} tiles failed ({_listed(failures)})")
        kept, result = None, None
        files: tuple[Path, ...] = ()
        if request.shard is not None:
            store.change(ended=True)
        else:
            kept = store.kept() or stitch_tiles(context, store)
            with clock("write"):
                result = Result.from_store(
                    store,
                    kept,
                    **_facts(request, plan),
                    shape=request.image.shape,
                    find_input=lambda: job.record.input,
                    settings=job.record.settings,
                    find_stains=lambda: stains,
                    thumbnail=lambda largest_px: thumbnail(request.image, largest_px),
                    find_image=lambda: request.image,
                    failed=failures,
                    keep_alive=keep_alive,
                )
                if request.formats:
                    files = save(result, request.output, request.formats, job.overwrite)
            if job.overwrite:
                store.change(overwrites=False)  # from now on files beside it belong to others
    skipped = plan.grid.tiles - (store.run() or {}).get("tiles", len(todo))
    seconds = {stage: round(seconds, 3) for stage, seconds in clock.seconds.items()}
    cores = [plan.grid.tile(index).core_yxhw for index in todo]
    timings = seconds | {
        "tiles": len(todo),
        "skipped": skipped,
        "input_px": sum(height * width for _, _, height, width in map(plan.full_box, cores)),
        "network_px": sum(height * width for _, _, height, width in cores),
    }
    with contextlib.suppress(OSError):  # not part of the result
        write_bytes(store.path / "timings.json", f"{json.dumps(timings, indent=2)}\n".encode())
    for sentence in _warnings(failures, len(todo), kept, plan.wide_margin_px):
        calls.notice(sentence)
    return RunReport(result, files, False, failures, seconds, True, len(todo), skipped)


def process_missing(context: SlideContext, executor: Executor, store: Store, calls: Callbacks) -> tuple[str, ...]:
    """Process the tiles that are not in the store yet; returns place and cause of those that failed twice."""
    grid, plan = context.plan.grid, context.plan
    todo, done = store.todo().tolist(), store.done()
    batches = grid.batches(todo, executor.batch)  # always of all tiles: companions decide the rounding
    batches = [batch for batch in batches if any(tile.number not in done for tile in batch)]
    failures: dict[int, str] = {}
    objects, input_px, number = 0, 0, len(done)
    started = time.perf_counter()
    if batches:
        store.drop_kept()
    for result in executor.run(context, batches):
        tile = result.tile
        if tile.number in done:  # processed again only as a companion in its batch
            continue
        box = plan.full_box(tile.core_yxhw)
        if result.objects is None:
            failures[tile.number] = f"{_place(box)}: {result.cause}"
        else:
            with context.clock("store"):
                store.write(tile.number, result.objects)
            objects += int(result.objects.is_owned.sum())
        trim()
        number, input_px = number + 1, input_px + box[2] * box[3]
        calls.progress(Progress(number, len(todo), objects, input_px, time.perf_counter() - started))
    return tuple(failures[tile] for tile in sorted(failures))


def _start(request: Request, job: Job, regions: Regions, clock: Clock, batch: int) -> tuple[Limits, tuple[str, ...]]:
    """Survey the image and record what the run is going to do, or read what an interrupted run recorded.

    Returns normalisation and stains. A resumed run drops tiles that cannot be read; a shard takes whole batches.
    """
    store, run = request.store, describe_run(request, job)
    if job.resumes:
        for tile in sorted(store.done()):
            try:
                store.read(tile)
            except ValueError:
                store.drop(tile)
        started = store.run() or {}
        low, high = (np.array(started["normalisation"][name], np.float32) for name in ("low", "high"))
        channels = 1 if request.options.stain is not None else len(job.plan.channels)
        if not len(low) == len(high) == channels:
            raise ValueError(f"{store.path}: its run.json is damaged; start again with --overwrite")
        return Limits(low, high), tuple(started.get("stains", ()))
    if job.overwrite:  # from here on the earlier run is gone, and this one can be resumed
        store.announce(run)
    with clock("survey"):
        limits, numbers, stains = survey(request.image, regions, job.plan, request.options.skip_background)
    if not job.overwrite:
        store.announce(run)
    batches = job.plan.grid.batches(numbers, batch)
    if request.shard is not None:
        batches = [batches[index] for index in request.shard.share(len(batches))]
    todo = np.array([tile.number for tiles in batches for tile in tiles], np.int64)
    normalisation = {"low": limits.low.tolist(), "high": limits.high.tolist()}
    run |= {"normalisation": normalisation, "stains": list(stains), "tiles": len(numbers)}
    store.begin(run, todo)
    return limits, stains


def _warnings(failures: Sequence[str], tiles: int, kept: StitchedObjects | None, margin_px: int) -> Iterator[str]:
    """Warnings about a finished run in tiles."""
    if failures:
        yield f"{len(failures)} tiles failed and are empty ({_listed(failures)}); --resume tries them again"
    if not tiles:
        yield (
            "nothing was segmented: all of it was taken for background; if it is not, state --no-skip-background "
            "(skip_background=False in Python)"
        )
    if kept is not None and len(kept.left_out_yxhw):
        yield (
            f"{len(kept.left_out_yxhw)} objects reach further than {margin_px} px (at the model's "
            f"pixel size) from their tile and were left out rather than cut "
            f"({_listed([_place(box) for box in kept.left_out_yxhw.tolist()])}): if they are objects, state a larger "
            f"--margin (margin_px in Python)"
        )


def _listed(places: Sequence[str]) -> str:
    """The first three, and the number of the others."""
    return "; ".join([*places[:3], *([f"and {len(places) - 3} more"] if len(places) > 3 else [])])


def _place(box_yxhw: Sequence[int]) -> str:
    top, left, height, width = box_yxhw
    return f"x {left} to {left + width}, y {top} to {top + height}"


@contextlib.contextmanager
def full_disk_errors(place: Path, remedy: str) -> Iterator[None]:
    """Add the place and the remedy to errors of a full disk."""
    try:
        yield
    except OSError as error:
        texts = os.strerror(errno.ENOSPC), " requested and "  # of libraries that give no number; of NumPy
        says_so = any(text in str(error) for text in texts)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not says_so:
            raise
        raise OSError(f"{place}: no room left on its disk; {remedy}") from error
