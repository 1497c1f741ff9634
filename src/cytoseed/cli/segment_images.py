"""Work of `cytoseed segment` and `cytoseed demo`: many images, one after the other or several at a time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from cytoseed.cli.console import MISTAKES, Notes, one_line, plain_console, print_error, print_note
from cytoseed.settings import SegmentOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from cytoseed.images import Image
    from cytoseed.models.weights import Model
    from cytoseed.results import Result
    from cytoseed.run.cluster import Cluster
    from cytoseed.run.resume import Existing, Request, Shard
    from cytoseed.run.slide import Progress as TileProgress
    from cytoseed.run.slide import RunReport

_TILED_AT_ONCE, _IMAGES_AT_ONCE = 2, 16  # that workers are given
_SINGULAR = {"nuclei": "nucleus", "cells": "cell"}


class SegmentJob(NamedTuple):
    """Settings of a command, and the place of its results."""

    model: Model
    options: SegmentOptions
    output: Path
    formats: tuple[str, ...]
    existing: Existing
    shard: Shard | None = None
    """Process only this share of the tiles of a large image, and only every n-th small image."""

    def request(self, image: Image) -> Request:
        """Request for one image."""
        from cytoseed.run.resume import Request

        return Request(image, self.output, self.model, self.options, self.formats, self.existing, self.shard)


def make_job(
    model: str,
    options: SegmentOptions,
    output: str | os.PathLike[str],
    formats: Sequence[str],
    existing: Existing,
    shard: str = "",
) -> SegmentJob:
    """Check everything that does not depend on an image, and load the model."""
    from cytoseed.models.weights import load_model
    from cytoseed.paths import as_path
    from cytoseed.results.writers import check_formats
    from cytoseed.run.engine import check_precision, choose_device
    from cytoseed.run.resume import Shard

    names = check_formats([name.strip() for name in formats])
    part = Shard.parse(shard) if shard else None
    check_precision(options.precision, choose_device(options.device))
    loaded = load_model(model)
    folder = as_path(output)
    _require_writable(folder)
    return SegmentJob(loaded, options, folder, names, existing, part)


def segment_images(job: SegmentJob, paths: Sequence[Path], cluster: Cluster | None = None) -> int:
    """Segment images; failures are reported, and the others go on. Returns how many failed or lack a part."""
    console = plain_console()
    with Bars(console, len(paths)) as bars:
        work = _Work(job, cluster, bars, console)
        numbered = list(enumerate(paths, start=1))
        if cluster is None:
            failed = sum(work.fails(number, path) for number, path in numbered)
        else:
            at_once = max(_TILED_AT_ONCE, min(2 * cluster.size, _IMAGES_AT_ONCE))
            with ThreadPoolExecutor(at_once) as threads:
                failed = sum(threads.map(lambda one: work.fails(*one), numbered))
    work.notes.close()
    if failed and len(paths) > 1:
        print_note(f"{failed} of {len(paths)} images failed, as reported above")
    return failed


class _Work:
    """The images of a job, one at a time or several."""

    def __init__(self, job: SegmentJob, cluster: Cluster | None, bars: Bars, console: Console) -> None:
        self.notes = Notes()
        self._job, self._cluster, self._bars, self._console = job, cluster, bars, console
        self._output_lock = threading.Lock()
        self._tiled_slots = threading.Semaphore(_TILED_AT_ONCE)  # stitching and writing take memory here

    def fails(self, number: int, path: Path) -> bool:
        """Segment the `number`th image and report it; True where it failed or lacks a part."""
        try:
            line, is_whole = self._segment(number, path)
        except (*MISTAKES, MemoryError) as error:
            line, is_whole = "", False
            with self._output_lock:
                print_error(_message(path, error))
        with self._output_lock:
            if line:
                self._console.print(line)
            self._bars.next_image(path)
        return not is_whole

    def _segment(self, number: int, path: Path) -> tuple[str, bool]:
        """Segment one image: a line about it, and whether it is complete."""
        from cytoseed.images import open_image
        from cytoseed.run.plan import make_plan

        request = self._job.request(open_image(path))
        shard = request.shard
        if make_plan(request.image, request.model.config, request.options).is_tiled:
            with self._tiled_slots:
                return self._run(path, request)
        if shard is not None and not shard.takes(number):
            return f"{path.name}: left to another shard", True
        return self._run(path, request._replace(shard=None))

    def _run(self, path: Path, request: Request) -> tuple[str, bool]:
        from cytoseed.run.slide import Callbacks, run_to_files

        callbacks = Callbacks(lambda text: self._note(path, text), lambda state: self._bars.tile_done(path, state))
        executor = None if self._cluster is None else self._cluster.executor(request)
        report = run_to_files(request, callbacks, executor)
        if report.already_done:
            return f"{path.name}: already there", True
        if report.result is None and request.shard is not None:
            what = f"shard {request.shard.number} of {request.shard.of}, {report.tiles} tiles"
            place = request.store.path
        else:
            what, place = _count(report.result), self._first_shown(report.files)
        return f"{path.name}: {what} in {_time(report)} -> {place}", not report.failures

    def _first_shown(self, files: Sequence[Path]) -> Path:
        """File to look at first."""
        formats = self._job.formats
        return files[formats.index("overlay")] if "overlay" in formats else files[0]

    def _note(self, path: Path, text: str) -> None:
        with self._output_lock:
            self.notes.add(path.name, text)


class Bars:
    """Progress bars for images and for the tiles of large ones; only on a terminal."""

    def __init__(self, console: Console, images: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        ]
        self._bars = Progress(
            *columns,
            console=console,
            transient=True,
            disable=not console.is_terminal,
            redirect_stderr=sys.stderr.isatty(),  # a redirected stderr is read apart from the bars
        )
        self._images = self._bars.add_task("images", total=images, rate="", visible=images > 1)
        self._tiles: dict[Path, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def next_image(self, path: Path) -> None:
        """Count an image as done."""
        if path in self._tiles:
            self._bars.remove_task(self._tiles.pop(path))
        self._bars.advance(self._images)

    def tile_done(self, path: Path, progress: TileProgress) -> None:
        """Show the progress of a large image."""
        if path not in self._tiles:
            name = f"tiles of {path.name}" if self._tiles else "tiles"
            self._tiles[path] = self._bars.add_task(name, total=progress.total, rate="")
        rate = f"{progress.input_px / progress.seconds / 1e6:.1f} Mpx/s, {progress.objects} objects"
        self._bars.update(self._tiles[path], completed=progress.done, rate=rate)


def _time(report: RunReport) -> str:
    """Time that an image took; for one in tiles also the share of each stage, which run side by side."""
    wall = report.seconds["wall"]
    if not report.is_tiled:
        return f"{wall:.1f} s"
    stages = {"reading": ("read", "prepare", "survey"), "network": ("network",)}
    seconds = {name: sum(report.seconds.get(part, 0.0) for part in parts) for name, parts in stages.items()}
    total = sum(report.seconds.values()) - wall
    shares = [f"{name} {value / total:.0%}" for name, value in seconds.items()]
    shares.append(f"the rest {1 - sum(seconds.values()) / total:.0%}")
    skipped = f", {report.skipped} of {report.tiles + report.skipped} tiles skipped" if report.skipped else ""
    return f"{wall:.0f} s ({', '.join(shares)}{skipped})"


def _count(result: Result | None) -> str:
    if result is None:
        return "no result"
    target = result.targets[-1]
    return f"{result.count} {_SINGULAR[target] if result.count == 1 else target}"


def write_example(folder: Path) -> Path:
    """Write scikit-image's picture of a stained tissue section into a folder, as PNG; nothing is downloaded."""
    import imagecodecs
    from skimage.data import immunohistochemistry

    from cytoseed.paths import write_bytes

    path = folder / "immunohistochemistry.png"
    write_bytes(path, bytes(imagecodecs.png_encode(immunohistochemistry())))
    return path


def _require_writable(folder: Path) -> None:
    """Make the output folder, or raise an error if it cannot be written to."""
    from cytoseed.paths import is_remote, require_writable

    if is_remote(folder):
        require_writable(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"output folder {str(folder)!r} cannot be made ({error.strerror}); give another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"output folder {str(folder)!r} cannot be written to; give another")


def _message(path: Path, error: BaseException) -> str:
    """Message of an error, in one line that names the image."""
    text = str(error)
    if isinstance(error, MemoryError) and not text.startswith("not enough"):
        return f"{path.name}: not enough memory ({text}); segment a part of the image"
    return one_line(error, path.name)
