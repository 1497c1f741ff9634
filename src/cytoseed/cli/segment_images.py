"""Work of `cytoseed segment` and `cytoseed demo`: many images, one after the other or several at a time."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cytoseed.cli.console import (
    MISTAKES,
    Notes,
    Pace,
    Tally,
    as_time,
    bar_console,
    print_detail,
    print_json,
    print_line,
    printable,
    run_each,
    shows_bars,
    wants_json,
)
from cytoseed.cli.outcome import Outcome, describe_plan, outcome_of
from cytoseed.images import Image, Series, choose_frames, choose_series, list_series, open_image
from cytoseed.models.weights import AUTO, load_model
from cytoseed.paths import as_path, display, is_remote, require_writable
from cytoseed.results.run_table import SUFFIXES, ImageTable, write_run_table
from cytoseed.results.stacked import write_stacked
from cytoseed.results.writers import check_formats, paths_of
from cytoseed.run.auto import choose_model
from cytoseed.run.cluster import Cluster
from cytoseed.run.engine import choose_device
from cytoseed.run.resume import Existing, Request, Shard
from cytoseed.run.slide import Callbacks, run_to_files
from cytoseed.run.slide import Progress as TileProgress
from cytoseed.settings import SegmentOptions

RequestMaker = Callable[[Image, Path], Request]

_TILED_AT_ONCE, _IMAGES_AT_ONCE = 2, 16  # most large images, and most images, in progress with workers
_LEFT_OUT = "left out smaller images in the file, which seem to show the same; --series all segments them too"


def prepare_requests(
    model: str,
    options: SegmentOptions,
    output: str | os.PathLike[str],
    formats: Sequence[str],
    existing: Existing,
    shard: str = "",
) -> RequestMaker:
    """Check all settings that do not depend on an image, and load the model; returns a function that makes requests.

    The function takes an image and the folder below `output` for its results.
    """
    names = check_formats([name.strip() for name in formats])
    part = Shard.parse(shard) if shard else None
    choose_device(options.device, options.precision)
    loaded, folder = model if model == AUTO else load_model(model), as_path(output)
    _require_writable(folder)

    def make_request(image: Image, below: Path) -> Request:
        chosen = choose_model(loaded, image, options)
        place = folder / below if below.parts else folder
        if below.parts:
            _require_writable(place)
        return Request(chosen.image, place, chosen.model, chosen.options, names, existing, part)

    return make_request


def segment_images(
    requests: RequestMaker,
    paths: Mapping[Path, Path],
    cluster: Cluster | None = None,
    choice: Choice | None = None,
    table: Path | None = None,
) -> None:
    """Segment images; failures are reported without stopping the others, and make the exit code `FAILED`.

    `paths` are files, each with its folder below the output; `choice` is of images in files that hold several, and of
    planes; `table` is one of all images.
    """
    threads = 1 if cluster is None else max(_TILED_AT_ONCE, min(2 * cluster.size, _IMAGES_AT_ONCE))
    name, rate = (TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[rate]}"))
    with Progress(
        *(name, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()),
        console=bar_console(),
        transient=True,
        disable=not shows_bars(),
        redirect_stderr=sys.stderr.isatty(),  # a redirected stderr is read apart from the bars
    ) as bars:
        work = _Work(requests, cluster, bars, len(paths), table)
        inputs = work.inputs(paths, choice or Choice())
        try:
            run_each(inputs, lambda item: item.label, work.segment, work.notes, threads, work.report_error, work.close)
        finally:
            work.write_table()


class Choice(NamedTuple):
    """Choice of images of files that hold several; the names are those of the flags."""

    series: str | None = None
    full_canvas: bool = False
    z: str | None = None
    time: str | None = None


class _Stack:
    """Planes of a stack that are still to be segmented."""

    def __init__(self, planes: Sequence[Image]) -> None:
        self.names = [plane.series or "" for plane in planes]
        self._left, self._lock = len(planes), threading.Lock()

    def is_last(self) -> bool:
        """Count one more plane as done; whether it was the last."""
        with self._lock:
            self._left -= 1
            return self._left == 0


class _Input(NamedTuple):
    """An image to segment."""

    label: str  # in messages
    source: str  # path or URL of its file
    number: int  # decides which shard takes it
    open: Callable[[], Image]
    below: Path  # folder of its results, below the output
    order: int  # among all images of the run
    stack: _Stack | None = None  # the stack that it is a plane of


class _Work:
    """Segmentation of many images, one or several at a time, with progress bars."""

    def __init__(
        self, requests: RequestMaker, cluster: Cluster | None, bars: Progress, images: int, table: Path | None
    ) -> None:
        self.notes = Notes()
        self._table, self._tables = table, dict[int, ImageTable]()
        self._requests, self._cluster, self._bars = requests, cluster, bars
        self._pace, self._tile_paces, self._begin = Pace(), dict[str, Pace](), time.monotonic()
        self._images, self._done, self._objects = images, 0, 0
        self._images_bar = bars.add_task("images", total=images, rate="", visible=images > 1)
        self._tile_bars: dict[str, TaskID] = {}
        self._tiled_slots = threading.Semaphore(_TILED_AT_ONCE)  # stitching and writing take memory in this process

    def inputs(self, paths: Mapping[Path, Path], choice: Choice) -> Iterator[_Input]:
        """Images of all files; one whose images cannot be listed raises its error when it is opened."""
        total = 0
        for number, (path, below) in enumerate(paths.items(), start=1):
            try:
                found = list_series(path, choice.full_canvas)
                chosen = choose_series(display(path), found, choice.series)
                opened = [planes for one in chosen for planes in _planes(one, choice)]
            except (*MISTAKES, MemoryError):
                open_it = partial(open_image, path, choice.series, choice.full_canvas, z=choice.z, time=choice.time)
                yield _Input(path.name, display(path), number, open_it, below, (total := total + 1))
                continue
            if choice.series is None and any(one.is_picture and not one.is_named_so for one in found):
                self.notes.add(path.name, _LEFT_OUT)
            self._images += len(opened) - 1
            self._bars.update(self._images_bar, total=self._images, visible=self._images > 1)
            for place, (one, frame, stack) in enumerate(opened, start=number):
                name = one.name if frame is None else frame.series
                is_alone = name is None or (frame is None and one.is_main)
                label = path.name if is_alone else f"{path.name}, {name}"
                open_it = partial(_open, one, frame)
                yield _Input(label, display(path), place, open_it, below, (total := total + 1), stack)

    def segment(self, item: _Input) -> bool:
        """Segment one of the images and print a line; returns False if a part is missing."""
        try:
            outcome = self._segment(item)
            print_line(f"{item.label}: {outcome.line}")
            if wants_json():
                print_json({"image": item.source, **outcome.facts, "notes": self.notes.on(item.label)})
            return outcome.is_whole
        finally:
            self._done += 1
            self._pace.print("images:", self._done, self._images)
            if item.label in self._tile_bars:
                self._bars.remove_task(self._tile_bars.pop(item.label))
            self._bars.advance(self._images_bar)

    def report_error(self, item: _Input, message: str) -> None:
        """Report an image that failed, in JSON; the line is printed already."""
        if wants_json():
            print_json({"image": item.source, "status": "failed", "error": message})

    def close(self, tally: Tally) -> None:
        """Print the line that ends a run of several images."""
        failures = f"; {tally.failures()}" if tally.failed else ""
        seconds = as_time(time.monotonic() - self._begin)
        print_line(f"{tally.total} images: {self._objects} objects found in {seconds}{failures}")

    def write_table(self) -> None:
        """Write the table of all images that are done, if one was asked for."""
        tables = [one for _, one in sorted(self._tables.items()) if one.path.is_file()]
        if self._table is not None and tables:
            write_run_table(self._table, tables)
            images = "1 image" if len(tables) == 1 else f"{len(tables)} images"
            print_line(f"table of {images} -> {display(self._table)}")

    def _segment(self, item: _Input) -> Outcome:
        """Segment one image."""
        request = self._requests(item.open(), item.below)
        outcome = self._segment_request(item, request)
        if self._table is not None and outcome.is_whole:
            kind = SUFFIXES[self._table.suffix.lower()]
            path = paths_of(request.output, request.stem, [kind])[kind]
            name = (item.below / Path(item.source).name).as_posix()
            self._tables[item.order] = ImageTable(path, name, request.image.series)
        if item.stack is not None and item.stack.is_last():
            for path in write_stacked(request.output, item.source, item.stack.names, request.formats):
                print_line(f"{Path(item.source).name}: {len(item.stack.names)} planes -> {display(path)}")
        return outcome

    def _segment_request(self, item: _Input, request: Request) -> Outcome:
        if request.plan.is_tiled:
            with self._tiled_slots:
                return self._run(item.label, request)
        if request.shard is not None and not request.shard.takes(item.number):
            return Outcome("left to another shard", {"status": "left to another shard"})
        return self._run(item.label, replace(request, shard=None))

    def _run(self, label: str, request: Request) -> Outcome:
        callbacks = Callbacks(lambda text: self.notes.add(label, text), lambda state: self._show_tiles(label, state))
        executor = None if self._cluster is None else self._cluster.executor(request)
        print_detail(describe_plan(label, request))
        report = run_to_files(request, callbacks, executor)
        self._objects += report.result.count if report.result is not None else 0
        print_detail(f"{label}: " + ", ".join(f"{name} {time:.2f} s" for name, time in report.seconds.items()))
        return outcome_of(request, report)

    def _show_tiles(self, label: str, progress: TileProgress) -> None:
        if label not in self._tile_bars:
            name = f"tiles of {printable(label)}" if self._tile_bars else "tiles"
            self._tile_bars[label] = self._bars.add_task(name, total=progress.total, rate="")
            self._tile_paces[label] = Pace()
        rate = f"{progress.input_px / progress.seconds / 1e6:.1f} Mpx/s, {progress.objects} objects"
        self._tile_paces[label].print(f"{label}: tile", progress.done, progress.total, f", {rate}")
        self._bars.update(self._tile_bars[label], completed=progress.done, rate=rate)


def _planes(one: Series, choice: Choice) -> list[tuple[Series, Image | None, _Stack | None]]:
    """The planes that are chosen of an image; the image itself, not yet opened, without a choice."""
    if choice.z is None and choice.time is None:
        return [(one, None, None)]
    frames = choose_frames(one.open(), choice.z, choice.time)
    stack = _Stack(frames) if len(frames) > 1 else None
    return [(one, frame, stack) for frame in frames]


def _open(one: Series, frame: Image | None) -> Image:
    """An image of a file; a stack of which no plane was chosen is refused."""
    return frame or choose_frames(one.open())[0]


def _require_writable(folder: Path) -> None:
    """Make the output folder, or raise an error if it cannot be written to."""
    if is_remote(folder):
        return require_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"output folder {str(folder)!r} cannot be written to ({error.strerror}); give another") from error
