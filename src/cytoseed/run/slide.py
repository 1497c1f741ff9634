"""The door for images of any size: objects to files, in bounded memory, through kills and full disks."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cytoseed.images import Image, ImageFileError, ImageLike, Regions, as_image
from cytoseed.models.weights import Model, load_model
from cytoseed.paths import as_path, is_remote, lock, write_bytes
from cytoseed.results import DEFAULT_FORMATS, Result
from cytoseed.results.save import save
from cytoseed.results.store import Store
from cytoseed.run.crew import Crew, Here
from cytoseed.run.engine import Engine, choose_device, engine_for
from cytoseed.run.job import Begun, Existing, Job, Request, begin, decide, described, drop_damaged, read_begun
from cytoseed.run.part import WIDE_MARGIN_PX, Clock, Subject
from cytoseed.run.plan import scale_notice
from cytoseed.run.runtimes import precision_notice
from cytoseed.run.survey import survey
from cytoseed.run.tiled import Failure, Progress, batches_of, join_tiles, make_missing
from cytoseed.run.tissue import overview
from cytoseed.settings import SegmentOptions, with_settings

_NAMED = 3  # places that a message names at most


class Watcher(NamedTuple):
    """Who is told how it goes."""

    notice: Callable[[str], object]
    """Called with a sentence when the result may not be what was meant."""
    progress: Callable[[Progress], object]
    """Called after every tile."""


class SlideRun(NamedTuple):
    """What `segment_slide` did."""

    result: Result | None
    """None where everything was there already, and of a shard."""
    files: tuple[Path, ...]
    """The files of the formats asked for, and the record, last; none of a shard."""
    was_there: bool
    """True where everything was there already, and nothing was done."""
    failures: tuple[Failure, ...] = ()
    """Tiles that could not be made: `existing="resume"` tries them again."""
    seconds: Mapping[str, float] = MappingProxyType({})
    """Seconds that each part of the work took; parts run side by side, `wall` is all of it."""
    tiles: int = 0
    """Tiles that there are, but for those left out as background or not wanted."""
    skipped: int = 0
    """Tiles left out."""
    input_px: int = 0
    """Pixels of the image, at full resolution, in the tiles that there are."""
    network_px: int = 0
    """The same in the px that the network sees."""


def segment_slide(
    image: ImageLike,
    output: str | os.PathLike[str],
    model: Model | str | os.PathLike[str] = "nuclei",
    options: SegmentOptions | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    existing: Existing = "refuse",
    watch: Watcher | None = None,
    **settings: Any,
) -> SlideRun:
    """Find every object in an image of any size and write the results, in bounded memory.

    The image is read in tiles with a margin, and all objects come out whole and once, as from the whole image
    (the paper's section 2.7; docs/slides.md). Every tile that is done lies in the folder `STEM.cytoseed` beside the
    results, and survives whatever stops the run.

    Parameters
    ----------
    image : path, Image or array
        As for `segment`; also a dask or Zarr array.
    output : str or path
        Folder for the results, called as by `Result.save`; made if it is not there; also a URL.
    model, options, **settings
        As for `segment`.
    formats : sequence of str
        Names from `cytoseed.results.WRITERS`.
    existing : {'refuse', 'resume', 'overwrite'}
        What becomes of a run of this name that is there. Where it is complete and was made from the same image with
        the same settings, only the formats that are missing are written, in any case. One that was stopped goes on
        with `resume`, which begins a new one where there is none. One made otherwise is refused, unless `overwrite`.
    watch : Watcher, optional
        Who is told of notices and of progress.

    Returns
    -------
    SlideRun

    Raises
    ------
    FileExistsError
        The folder holds a run or result that was made otherwise, or one that was stopped and is not to be resumed.
    BlockingIOError
        Another run writes to it now.
    OSError
        The folder cannot be written to, or its disk is full: what was done is kept, and `resume` goes on.
    FileNotFoundError, ModuleNotFoundError, TypeError, ValueError
        As `segment`; a region or mask that does not suit the image; an image none of whose tiles can be read.
    """
    wishes = with_settings(options, settings)
    ready = model if isinstance(model, Model) else load_model(model)
    return run_slide(Request(as_image(image), as_path(output), ready, wishes, tuple(formats), existing), watch)


def run_slide(request: Request, watch: Watcher | None = None, crew: Crew | None = None) -> SlideRun:
    """Do what `segment_slide` does.

    Parameters
    ----------
    request : Request
        What is asked for. Of a shard only the tiles are made, no files.
    watch : Watcher, optional
        Who is told of notices and of progress.
    crew : Crew, optional
        Who makes the tiles; without one, this process.

    Returns
    -------
    SlideRun

    Raises
    ------
    FileExistsError, BlockingIOError, OSError, FileNotFoundError, TypeError, ValueError
        As `segment_slide`.
    """
    told = watch or Watcher(_ignore, _ignore)
    with _told_full(request.store), lock(request.store.path):
        job = decide(request)
        if job.was_there:
            return SlideRun(None, () if request.shard else request.files, was_there=True)
        wishes = request.options
        slow = precision_notice(wishes.precision, choose_device(wishes.device)) if crew is None else None
        for notice in (scale_notice(job.plan), slow):
            if notice is not None:
                told.notice(notice)
        return _made(request, job, told, crew)


def _ignore(_: object) -> None:
    pass


def _made(request: Request, job: Job, told: Watcher, crew: Crew | None) -> SlideRun:
    """Make the tiles that are missing, join them, and write the files."""
    clock, store = Clock(), request.store
    makers = crew or Here(_engine(request))
    with request.image.regions() as regions, clock("wall"):
        if job.goes_on:
            drop_damaged(store)
        else:
            _begin(request, job, regions, clock, makers.batch)
        begun, config = read_begun(store), request.model.config
        subject = Subject(
            request.image,
            job.plan,
            job.grid,
            begun.limits,
            job.area,
            config.channels,
            request.options.tta,
            begun.stains,
        )
        failures = make_missing(subject, regions, makers, store, clock, told.progress)
        if failures and len(failures) == len(store.todo()):
            raise ImageFileError(
                f"{request.source}: none of its {len(failures)} tiles could be made: {failures[0].cause}"
            )
        if request.shard is not None:
            store.change(ended=True)
            run = _counted(request, job, failures)
        else:
            if store.kept() is None:
                join_tiles(subject, regions, store, clock)
            with clock("write"):
                run = _written(request, job, begun, failures)
            if job.overwrite:
                store.change(overwrites=False)  # its files are written: what comes beside them now is not its own
    run = run._replace(seconds={part: round(seconds, 3) for part, seconds in clock.seconds.items()})
    with contextlib.suppress(OSError):  # no part of the result
        write_bytes(store.path / "timings.json", _times(run).encode())
    for sentence in _notices(request, run, job.grid.margin_px):
        told.notice(sentence)
    return run


def _engine(request: Request) -> Engine:
    """Give what makes the tiles in this process."""
    wishes = request.options
    return engine_for(request.model, choose_device(wishes.device), wishes.runtime, wishes.precision)


def _begin(request: Request, job: Job, regions: Regions, clock: Clock, batch: int) -> None:
    """Look at the whole of the image at low resolution, and write down what is to be done."""
    if job.overwrite:  # from here on what was there is gone, and this run is the one to resume
        request.store.announce(described(request, job))
    with clock("survey"):
        seen = survey(request.image, regions, job.plan, job.grid, job.area, request.options.skip_background)
    batches = batches_of(job.grid, seen.todo.tolist(), batch)
    begin(request, job, seen, [[tile.number for tile in tiles] for tiles in batches])


def _written(request: Request, job: Job, begun: Begun, failures: Sequence[Failure]) -> SlideRun:
    """Write the files that are not there yet."""
    kept = request.store.kept()
    if kept is None:
        raise ValueError(f"{request.store.path}: what its tiles were joined to is damaged; --resume makes it again")
    result = Result.from_store(
        request.store,
        kept,
        shape=request.image.shape,
        targets=request.model.config.targets,
        channel_names=request.image.channel_names,
        pixel_size_um=job.plan.pixel_size_um,
        source=request.source,
        input=job.record.input,
        settings=job.record.settings,
        stains=begun.stains,
        thumbnail=lambda largest_px: look(request.image, largest_px),
        failed=tuple(f"{_words(failure.box_yxhw)}: {failure.cause}" for failure in failures),
    )
    staging = None if is_remote(request.output) else request.store.path / "staging"
    files = save(result, request.output, request.formats, job.overwrite, staging=staging)
    return _counted(request, job, failures)._replace(result=result, files=files)


def _counted(request: Request, job: Job, failures: Sequence[Failure]) -> SlideRun:
    """Tell how much was looked at."""
    todo = request.store.todo().tolist()
    cores = [job.grid.tile(index).core_yxhw for index in todo]
    return SlideRun(
        result=None,
        files=(),
        was_there=False,
        failures=tuple(failures),
        tiles=len(todo),
        skipped=job.grid.tiles - (request.store.run() or {}).get("tiles", len(todo)),
        input_px=sum(height * width for _, _, height, width in map(job.plan.full_box, cores)),
        network_px=sum(height * width for _, _, height, width in cores),
    )


def look(image: Image, largest_px: int) -> tuple[NDArray[Any], float]:
    """Show an image of any size.

    Parameters
    ----------
    image : Image
    largest_px : int
        A side of what is shown, at most; less where there are many channels.

    Returns
    -------
    tuple
        The image (C,h,w) in its own type, and how many px of full resolution one px of it is wide.
    """
    many = max(1.0, image.shape[0] / 4)  # channels; all of them are held at once
    with image.regions() as regions:
        seen = overview(regions, image, range(image.shape[0]), int(largest_px / math.sqrt(many)))
    pixels = np.rint(seen.pixels) if image.dtype.kind in "iu" else seen.pixels
    return pixels.astype(image.dtype), seen.step


def _notices(request: Request, run: SlideRun, margin_px: int) -> Iterator[str]:
    """Say what is not as it should be."""
    if len(run.failures):
        named = "; ".join(f"{_words(one.box_yxhw)}: {one.cause}" for one in run.failures[:_NAMED])
        more = f"; and {len(run.failures) - _NAMED} more" if len(run.failures) > _NAMED else ""
        yield f"{len(run.failures)} tiles could not be made, and are empty ({named}{more}); --resume tries them again"
    if not run.tiles:
        yield (
            "nothing was looked at: all of it was taken for background; if it is not, state --no-skip-background "
            "(skip_background=False in Python)"
        )
    kept = None if run.result is None else request.store.kept()
    boxes = np.zeros((0, 4), np.int64) if kept is None else kept.left_out_yxhw
    if len(boxes):
        named = "; ".join(_words(box) for box in boxes[:_NAMED].tolist())
        yield (
            f"{len(boxes)} objects reach further than {max(margin_px, WIDE_MARGIN_PX)} px (at the model's pixel size) "
            f"from their tile and were left out rather than cut ({named}): if they are objects, state a "
            f"larger --margin (margin_px in Python)"
        )


def _words(box_yxhw: Sequence[int]) -> str:
    top, left, height, width = box_yxhw
    return f"x {left} to {left + width}, y {top} to {top + height}"


def _times(run: SlideRun) -> str:
    """Give what took how long as JSON."""
    counts = {name: getattr(run, name) for name in ("tiles", "skipped", "input_px", "network_px")}
    return json.dumps({**run.seconds, **counts}, indent=2) + "\n"


@contextlib.contextmanager
def _told_full(store: Store) -> Iterator[None]:
    """Say what to do where a disk is full."""
    try:
        yield
    except OSError as error:
        says_so = os.strerror(errno.ENOSPC) in str(error)  # libraries raise errors without a number, too
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) and not says_so:
            raise
        raise OSError(
            f"{store.path}: no room left on its disk; all tiles that are done are kept: make room, then --resume "
            f"(existing='resume' in Python)",
        ) from error
