"""The door for images of any size: objects to files, in bounded memory, through kills and full disks."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from cytoseed.images import Image, ImageFileError
from cytoseed.models.weights import Model, load_model
from cytoseed.results.record import SUFFIX as RECORD_SUFFIX
from cytoseed.results.record import Record, compare, differences, read_record, stem_of
from cytoseed.results.save import save
from cytoseed.results.segmentation import DEFAULT_FORMATS
from cytoseed.results.slide import KeptObjects, SlideResult
from cytoseed.results.store import SUFFIX, Store, write_durably
from cytoseed.results.writers import paths_of
from cytoseed.run.area import Area, read_area
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.lock import locked
from cytoseed.run.part import WIDE_MARGIN_PX, Clock, Subject
from cytoseed.run.picture import Picture, opened
from cytoseed.run.plan import Plan, make_plan, scale_notice
from cytoseed.run.survey import Limits, Survey, survey, tile_grid, tile_settings
from cytoseed.run.tiled import Failure, Progress, join_tiles, make_missing
from cytoseed.run.tiles import Grid
from cytoseed.run.tissue import overview
from cytoseed.settings import SegmentOptions, with_settings

Existing = Literal["refuse", "resume", "overwrite"]
"""What becomes of a run that is there already: see `segment_slide`."""

_NAMED = 3  # places that a message names at most


class Watcher(NamedTuple):
    """Who is told how it goes."""

    notice: Callable[[str], object]
    """Called with a sentence when the result may not be what was meant."""
    progress: Callable[[Progress], object]
    """Called after every tile."""


class SlideRun(NamedTuple):
    """What `segment_slide` did."""

    result: SlideResult | None
    """None where everything was there already."""
    files: tuple[Path, ...]
    """The files of the formats asked for, and the record, last."""
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
    image: Picture,
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
        Folder for the results, called as by `Segmentation.save`; made if it is not there.
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
    FileNotFoundError, TypeError, ValueError
        As `segment`; a region or mask that does not suit the image; an image none of whose tiles can be read.
    """
    wishes = with_settings(options, settings)
    ready = model if isinstance(model, Model) else load_model(model)
    place = _Place(Path(output), opened(image), tuple(formats))
    told = watch or Watcher(_ignore, _ignore)
    with _told_full(place.store), locked(place.store.path):
        job = _job(place, ready, wishes, existing)
        if job.was_there:
            return SlideRun(None, _files(place), was_there=True)
        notice = scale_notice(job.plan)
        if notice is not None:
            told.notice(notice)
        return _made(place, job, ready, wishes, told)


def _ignore(_: object) -> None:
    pass


class _Place(NamedTuple):
    """Which image, and where its results go."""

    output: Path
    image: Image
    formats: tuple[str, ...]

    @property
    def source(self) -> str:
        return "array" if self.image.path is None else str(self.image.path)

    @property
    def stem(self) -> str:
        return stem_of(self.source)

    @property
    def store(self) -> Store:
        return Store(self.output / f"{self.stem}{SUFFIX}")


class _Job(NamedTuple):
    """What is to be done."""

    plan: Plan
    grid: Grid
    area: Area
    record: Record
    targets: tuple[str, ...]
    overwrite: bool
    """Whatever is there does not count."""
    goes_on: bool
    """A run was begun, and is gone on with."""
    was_there: bool
    """Its files are complete."""


def _job(place: _Place, model: Model, options: SegmentOptions, existing: Existing) -> _Job:
    """Compare what is wished for with what is there; refuse what must not be mixed."""
    choose_device(options.device)
    plan = make_plan(place.image, model.config, options)
    area = read_area(plan.full_yx, options.region or None, options.mask)
    begun = None if existing == "overwrite" else place.store.run()
    if existing != "overwrite" and options.tile_size_px is None:
        options = dataclasses.replace(options, tile_size_px=_earlier_tile_size(place, begun))
    grid = tile_grid(plan, model.config, options, place.image)
    record = Record.of(place.image.identity(), {**plan.record, **tile_settings(grid, options, area)})
    overwrite = existing == "overwrite"
    goes_on = begun is not None and "normalisation" in begun
    job = _Job(plan, grid, area, record, model.config.targets, overwrite, goes_on, was_there=False)
    if overwrite:
        return job
    found = compare(place.output, place.stem, record, place.formats)
    if begun is not None and begun.get("overwrites") and found.state == "different":
        job = job._replace(overwrite=True)
    _refuse_others(place, record, begun, () if job.overwrite else found.differences)
    if not goes_on:
        return job._replace(was_there=begun is None and found.state == "same" and not found.missing)
    missing = len(set(place.store.todo().tolist()) - place.store.done())
    is_done = not missing and place.store.kept() is not None
    if not is_done and existing != "resume":
        raise FileExistsError(
            f"{place.store.path} holds a run that was stopped, with {missing} tiles to go: go on with it by --resume "
            f"(existing='resume' in Python), or start anew by --overwrite"
        )
    return job._replace(was_there=is_done and found.state == "same" and not found.missing)


def _refuse_others(place: _Place, record: Record, begun: Mapping[str, Any] | None, of_files: tuple[str, ...]) -> None:
    """Refuse to go on with, or write over, what was made otherwise."""
    lines = of_files
    if begun is not None:
        wished = json.loads(json.dumps({"version": record.version, "input": record.input, "settings": record.settings}))
        lines = tuple(differences({name: begun.get(name) for name in wished}, wished)) or lines
    if lines:
        raise FileExistsError(
            f"{place.output} holds a result for {place.stem!r} that was made otherwise ({'; '.join(lines)}); "
            f"choose another folder, or overwrite it (--overwrite, existing='overwrite')"
        )


def _made(place: _Place, job: _Job, model: Model, options: SegmentOptions, told: Watcher) -> SlideRun:
    """Make the tiles that are missing, join them, and write the files."""
    clock = Clock()
    with place.image.regions() as regions, clock("wall"):
        if job.goes_on:
            _drop_damaged(place.store)
            limits = _limits(place.store)
        else:
            if job.overwrite:  # from here on what was there is gone, and this run is the one to resume
                place.store.announce(_described(job))
            with clock("survey"):
                seen = survey(place.image, regions, job.plan, job.grid, job.area, options.skip_background)
            _begin(place.store, job, seen)
            limits = seen.limits
        subject = Subject(
            place.image, job.plan, job.grid, limits, job.area, model.config.channels, bool(job.plan.record["tta"])
        )
        engine = engine_for(model, choose_device(options.device))
        failures = make_missing(subject, regions, engine, place.store, clock, told.progress)
        if failures and len(failures) == len(place.store.todo()):
            raise ImageFileError(
                f"{place.source}: none of its {len(failures)} tiles could be made: {failures[0].cause}"
            )
        if place.store.kept() is None:
            join_tiles(subject, regions, place.store, clock)
        with clock("write"):
            run = _written(place, job, failures)
        if job.overwrite:
            place.store.change(overwrites=False)  # its files are written: what comes beside them now is not its own
    run = run._replace(seconds={part: round(seconds, 3) for part, seconds in clock.seconds.items()})
    with contextlib.suppress(OSError):  # no part of the result
        write_durably(place.store.path / "timings.json", _times(run).encode())
    for sentence in _notices(place, run, job.grid.margin_px):
        told.notice(sentence)
    return run


def _described(job: _Job) -> dict[str, Any]:
    return {
        "version": job.record.version,
        "input": job.record.input,
        "settings": job.record.settings,
        "grid": job.grid._asdict(),
        "overwrites": job.overwrite,
    }


def _begin(store: Store, job: _Job, seen: Survey) -> None:
    if not job.overwrite:
        store.announce(_described(job))
    limits = {"low": seen.limits.low.tolist(), "high": seen.limits.high.tolist()}
    store.begin({**_described(job), "normalisation": limits}, seen.todo)


def _earlier_tile_size(place: _Place, begun: Mapping[str, Any] | None) -> int | None:
    """Find the tile size of the run or result that is there: what memory would allow today does not matter then."""
    if begun is None:
        record = read_record(place.output / f"{place.stem}{RECORD_SUFFIX}")
        begun = record.decides if record is not None else {}
    found = begun.get("settings", {}).get("tile_size_px")
    return found if isinstance(found, int) else None


def _files(place: _Place) -> tuple[Path, ...]:
    record = place.output / f"{place.stem}{RECORD_SUFFIX}"
    return (*paths_of(place.output, place.stem, place.formats).values(), record)


def _limits(store: Store) -> Limits:
    """Read the normalisation that a run began with."""
    kept = (store.run() or {})["normalisation"]
    return Limits(np.array(kept["low"], np.float32), np.array(kept["high"], np.float32))


def _drop_damaged(store: Store) -> None:
    """Forget tiles whose files cannot be read, so that they are made again."""
    for tile in sorted(store.done()):
        try:
            store.read(tile)
        except ValueError:
            store.drop(tile)


def _written(place: _Place, job: _Job, failures: Sequence[Failure]) -> SlideRun:
    """Write the files that are not there yet."""
    kept = place.store.kept()
    if kept is None:
        raise ValueError(f"{place.store.path}: what its tiles were joined to is damaged; --resume makes it again")
    result = SlideResult(
        found=KeptObjects(place.store, kept),
        shape=place.image.shape,
        targets=job.targets,
        channel_names=place.image.channel_names,
        pixel_size_um=job.plan.pixel_size_um,
        source=place.source,
        input=job.record.input,
        settings=job.record.settings,
        look=lambda largest_px: _look(place.image, largest_px),
        failed=tuple(f"{_words(failure.box_yxhw)}: {failure.cause}" for failure in failures),
    )
    files = save(result, place.output, place.formats, job.overwrite, staging=place.store.path / "staging")
    todo = place.store.todo().tolist()
    cores = [job.grid.tile(index).core_yxhw for index in todo]
    return SlideRun(
        result=result,
        files=files,
        was_there=False,
        failures=tuple(failures),
        seconds={},
        tiles=len(todo),
        skipped=job.grid.tiles - len(todo),
        input_px=sum(height * width for _, _, height, width in map(job.plan.full_box, cores)),
        network_px=sum(height * width for _, _, height, width in cores),
    )


def _look(image: Image, largest_px: int) -> tuple[Any, float]:
    many = max(1.0, image.shape[0] / 4)  # channels; all of them are held at once
    with image.regions() as regions:
        seen = overview(regions, image, range(image.shape[0]), int(largest_px / math.sqrt(many)))
    pixels = np.rint(seen.pixels) if image.dtype.kind in "iu" else seen.pixels
    return pixels.astype(image.dtype), seen.step


def _notices(place: _Place, run: SlideRun, margin_px: int) -> Iterator[str]:
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
    boxes = run.result.found.kept.left_out_yxhw if run.result is not None else np.zeros((0, 4), np.int64)
    if len(boxes):
        named = "; ".join(_words(box) for box in boxes[:_NAMED].tolist())
        yield (
            f"{len(boxes)} objects reach further than {max(margin_px, WIDE_MARGIN_PX)} px (at the model's pixel size) "
            f"from their tile and were left out rather than cut ({named}): if they are objects, state a "
            f"larger --margin (margin_px in Python)"
        )
    if place.image.damage:
        yield f"the file is damaged: {place.image.damage}"


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
