"""Work of `cytoseed segment` and `cytoseed demo`: many images, one after the other or several at a time."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

from cytoseed.cli.console import MISTAKES, Notes, plain_console, run_each
from cytoseed.images import Image, choose_series, list_series, open_image
from cytoseed.models.weights import AUTO, load_model
from cytoseed.paths import as_path, display, is_remote, require_writable
from cytoseed.results.writers import check_formats
from cytoseed.run.auto import choose_model
from cytoseed.run.cluster import Cluster
from cytoseed.run.engine import choose_device
from cytoseed.run.resume import Existing, Request, Shard
from cytoseed.run.slide import Callbacks, RunReport, run_to_files
from cytoseed.run.slide import Progress as TileProgress
from cytoseed.settings import SegmentOptions

RequestMaker = Callable[[Image], Request]

_TILED_AT_ONCE, _IMAGES_AT_ONCE = 2, 16  # most large images, and most images, in progress with workers
_SINGULAR = {"nuclei": "nucleus", "cells": "cell"}
_LEFT_OUT = "left out smaller images in the file, which seem to show the same; --series all segments them too"


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


def segment_images(
    requests: RequestMaker,
    paths: Sequence[Path],
    cluster: Cluster | None = None,
    series: str | None = None,
    full_canvas: bool = False,
) -> None:
    """Segment images; failures are reported without stopping the others, and make the exit code `FAILED`.

    `series` chooses images of files that hold several, and `full_canvas` all of a slide, as `list_series` has them.
    """
    threads = 1 if cluster is None else max(_TILED_AT_ONCE, min(2 * cluster.size, _IMAGES_AT_ONCE))
    console = plain_console()
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", TimeRemainingColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stderr=sys.stderr.isatty(),  # a redirected stderr is read apart from the bars
    ) as bars:
        work = _Work(requests, cluster, console, bars, len(paths))
        inputs = work.inputs(paths, series, full_canvas)
        run_each(inputs, lambda item: item.label, work.segment, work.notes, threads)


class _Input(NamedTuple):
    """An image to segment."""

    label: str  # in messages
    number: int  # decides which shard takes it
    open: Callable[[], Image]


class _Work:
    """Segmentation of many images, one or several at a time, with progress bars."""

    def __init__(
        self, requests: RequestMaker, cluster: Cluster | None, console: Console, bars: Progress, images: int
    ) -> None:
        self.notes = Notes()
        self._requests, self._cluster, self._console, self._bars = requests, cluster, console, bars
        self._images = images
        self._images_bar = bars.add_task("images", total=images, rate="", visible=images > 1)
        self._tile_bars: dict[str, TaskID] = {}
        self._tiled_slots = threading.Semaphore(_TILED_AT_ONCE)  # stitching and writing take memory in this process

    def inputs(self, paths: Sequence[Path], series: str | None, full_canvas: bool) -> Iterator[_Input]:
        """Images of all files; one whose images cannot be listed raises its error when it is opened."""
        for number, path in enumerate(paths, start=1):
            try:
                found = list_series(path, full_canvas)
                chosen = choose_series(display(path), found, series)
            except (*MISTAKES, MemoryError):
                yield _Input(path.name, number, partial(open_image, path, series, full_canvas))
                continue
            if series is None and any(one.is_picture and not one.is_named_so for one in found):
                self.notes.add(path.name, _LEFT_OUT)
            self._images += len(chosen) - 1
            self._bars.update(self._images_bar, total=self._images, visible=self._images > 1)
            for place, one in enumerate(chosen, start=number):
                yield _Input(path.name if one.is_main else f"{path.name}, {one.name}", place, one.open)

    def segment(self, item: _Input) -> bool:
        """Segment one of the images and print a line; returns False if a part is missing."""
        try:
            line, is_whole = self._segment(item)
            self._console.print(f"{item.label}: {line}")
            return is_whole
        finally:
            if item.label in self._tile_bars:
                self._bars.remove_task(self._tile_bars.pop(item.label))
            self._bars.advance(self._images_bar)

    def _segment(self, item: _Input) -> tuple[str, bool]:
        """Segment one image; returns a phrase that describes the result, and whether it is complete."""
        request = self._requests(item.open())
        if request.plan.is_tiled:
            with self._tiled_slots:
                return self._run(item.label, request)
        if request.shard is not None and not request.shard.takes(item.number):
            return "left to another shard", True
        return self._run(item.label, replace(request, shard=None))

    def _run(self, label: str, request: Request) -> tuple[str, bool]:
        callbacks = Callbacks(lambda text: self.notes.add(label, text), lambda state: self._show_tiles(label, state))
        executor = None if self._cluster is None else self._cluster.executor(request)
        report = run_to_files(request, callbacks, executor)
        if report.already_done:
            return "already there", True
        what, place = "no result", request.store.path
        if request.shard is not None:
            what = f"shard {request.shard.number} of {request.shard.of}, {report.tiles} tiles"
        elif report.result is not None:
            target, count = report.result.targets[-1], report.result.count
            what = f"{count} {_SINGULAR[target] if count == 1 else target}"
            place = dict(zip(request.formats, report.files, strict=False)).get("overlay", report.files[0])
        return f"{what} in {_time(report)} by {request.model.config.name} -> {place}", not report.failures

    def _show_tiles(self, label: str, progress: TileProgress) -> None:
        if label not in self._tile_bars:
            name = f"tiles of {label}" if self._tile_bars else "tiles"
            self._tile_bars[label] = self._bars.add_task(name, total=progress.total, rate="")
        rate = f"{progress.input_px / progress.seconds / 1e6:.1f} Mpx/s, {progress.objects} objects"
        self._bars.update(self._tile_bars[label], completed=progress.done, rate=rate)


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


def _require_writable(folder: Path) -> None:
    """Make the output folder, or raise an error if it cannot be written to."""
    if is_remote(folder):
        return require_writable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"output folder {str(folder)!r} cannot be written to ({error.strerror}); give another") from error
