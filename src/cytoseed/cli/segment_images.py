"""Work of `cytoseed segment` and `cytoseed demo`: many images, one after the other or several at a time."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cytoseed.cli.console import (
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
from cytoseed.images import Image
from cytoseed.models.weights import AUTO, load_model
from cytoseed.paths import as_path, display, is_remote, require_writable
from cytoseed.results.writers import check_formats
from cytoseed.run.auto import choose_model
from cytoseed.run.cluster import Cluster
from cytoseed.run.engine import choose_device
from cytoseed.run.resume import Existing, Request, Shard
from cytoseed.run.slide import Callbacks, run_to_files
from cytoseed.run.slide import Progress as TileProgress
from cytoseed.settings import SegmentOptions

RequestMaker = Callable[[Image], Request]

_TILED_AT_ONCE, _IMAGES_AT_ONCE = 2, 16  # most large images, and most images, in progress with workers


def prepare_requests(
    model: str,
    options: SegmentOptions,
    output: str | os.PathLike[str],
    formats: Sequence[str],
    existing: Existing,
    shard: str = "",
) -> RequestMaker:
    """Check all settings that do not depend on an image, and load the model; returns a function that makes requests."""
    names = check_formats([name.strip() for name in formats])
    part = Shard.parse(shard) if shard else None
    choose_device(options.device, options.precision)
    loaded, folder = model if model == AUTO else load_model(model), as_path(output)
    _require_writable(folder)

    def make_request(image: Image) -> Request:
        chosen, opened = choose_model(loaded, image, options)
        return Request(opened, folder, chosen, options, names, existing, part)

    return make_request


def segment_images(requests: RequestMaker, paths: Sequence[Path], cluster: Cluster | None = None) -> None:
    """Segment images; failures are reported without stopping the others, and make the exit code `FAILED`."""
    threads = 1 if cluster is None else max(_TILED_AT_ONCE, min(2 * cluster.size, _IMAGES_AT_ONCE))
    name, rate = (TextColumn(each, markup=False) for each in ("{task.description}", "{task.fields[rate]}"))
    with Progress(
        *(name, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn()),
        console=bar_console(),
        transient=True,
        disable=not shows_bars(),
        redirect_stderr=sys.stderr.isatty(),  # a redirected stderr is read apart from the bars
    ) as bars:
        work = _Work(requests, cluster, bars, len(paths))
        items = enumerate(paths, start=1)
        run_each(items, lambda item: item[1].name, work.segment, work.notes, threads, work.report_error, work.close)


class _Work:
    """Segmentation of many images, one or several at a time, with progress bars."""

    def __init__(self, requests: RequestMaker, cluster: Cluster | None, bars: Progress, images: int) -> None:
        self.notes = Notes()
        self._requests, self._cluster, self._bars = requests, cluster, bars
        self._pace, self._tile_paces, self._begin = Pace(), dict[Path, Pace](), time.monotonic()
        self._images, self._done, self._objects = images, 0, 0
        self._images_bar = bars.add_task("images", total=images, rate="", visible=images > 1)
        self._tile_bars: dict[Path, TaskID] = {}
        self._tiled_slots = threading.Semaphore(_TILED_AT_ONCE)  # stitching and writing take memory in this process

    def segment(self, item: tuple[int, Path]) -> bool:
        """Segment one of the numbered images and print a line; returns False if a part is missing."""
        number, path = item
        try:
            outcome = self._segment(number, path)
            print_line(f"{path.name}: {outcome.line}")
            if wants_json():
                print_json({"image": display(path), **outcome.facts, "notes": self.notes.on(path.name)})
            return outcome.is_whole
        finally:
            self._done += 1
            self._pace.print("images:", self._done, self._images)
            if path in self._tile_bars:
                self._bars.remove_task(self._tile_bars.pop(path))
            self._bars.advance(self._images_bar)

    def report_error(self, item: tuple[int, Path], message: str) -> None:
        """Report an image that failed, in JSON; the line is printed already."""
        if wants_json():
            print_json({"image": display(item[1]), "status": "failed", "error": message})

    def close(self, tally: Tally) -> None:
        """Print the line that ends a run of several images."""
        failures = f"; {tally.failures()}" if tally.failed else ""
        seconds = as_time(time.monotonic() - self._begin)
        print_line(f"{tally.total} images: {self._objects} objects found in {seconds}{failures}")

    def _segment(self, number: int, path: Path) -> Outcome:
        """Segment one image."""
        from cytoseed.images import open_image

        request = self._requests(open_image(path))
        if request.plan.is_tiled:
            with self._tiled_slots:
                return self._run(path, request)
        if request.shard is not None and not request.shard.takes(number):
            return Outcome("left to another shard", {"status": "left to another shard"})
        return self._run(path, replace(request, shard=None))

    def _run(self, path: Path, request: Request) -> Outcome:
        callbacks = Callbacks(lambda text: self.notes.add(path.name, text), lambda state: self._show_tiles(path, state))
        executor = None if self._cluster is None else self._cluster.executor(request)
        print_detail(describe_plan(path, request))
        report = run_to_files(request, callbacks, executor)
        self._objects += report.result.count if report.result is not None else 0
        print_detail(f"{path.name}: " + ", ".join(f"{name} {time:.2f} s" for name, time in report.seconds.items()))
        return outcome_of(request, report)

    def _show_tiles(self, path: Path, progress: TileProgress) -> None:
        if path not in self._tile_bars:
            name = f"tiles of {printable(path.name)}" if self._tile_bars else "tiles"
            self._tile_bars[path] = self._bars.add_task(name, total=progress.total, rate="")
            self._tile_paces[path] = Pace()
        rate = f"{progress.input_px / progress.seconds / 1e6:.1f} Mpx/s, {progress.objects} objects"
        self._tile_paces[path].print(f"{path.name}: tile", progress.done, progress.total, f", {rate}")
        self._bars.update(self._tile_bars[path], completed=progress.done, rate=rate)


def _require_writable(folder: Path) -> None:
    """Make the output folder, or raise an error if it cannot be written to."""
    if is_remote(folder):
        return require_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"output folder {str(folder)!r} cannot be written to ({error.strerror}); give another") from error
