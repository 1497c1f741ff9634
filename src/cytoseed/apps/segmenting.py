"""Many images, one after the other: what `cytoseed segment` and `cytoseed demo` do."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from cytoseed.apps.console import MISTAKES, Remarks, complain, remark
from cytoseed.settings import SegmentOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from cytoseed.images import Image
    from cytoseed.images.remote import Place
    from cytoseed.models.weights import Model
    from cytoseed.results import Segmentation
    from cytoseed.results.slide import SlideResult
    from cytoseed.run.cluster import Cluster
    from cytoseed.run.job import Existing, Shard
    from cytoseed.run.slide import SlideRun
    from cytoseed.run.tiled import Progress as TileProgress

_SLIDES_AT_ONCE, _IMAGES_AT_ONCE = 2, 16  # that workers are given
_ONE = {"nuclei": "nucleus", "cells": "cell"}


def prepare_job(
    model: str,
    options: SegmentOptions,
    output: str | os.PathLike[str],
    formats: Sequence[str],
    existing: Existing,
    shard: str = "",
) -> SegmentJob:
    """Check everything that does not depend on an image, and load the model.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError, ValueError
        An unknown format, model, device or runtime; a format or runtime whose package is not installed; no shard such
        as `3/8`.
    OSError
        A folder that cannot be made or written to.
    """
    from cytoseed.models.weights import load_model
    from cytoseed.paths import as_path
    from cytoseed.results.writers import check_formats
    from cytoseed.run.engine import choose_device
    from cytoseed.run.job import Shard
    from cytoseed.run.runtimes import choose_runtime

    names = check_formats([name.strip() for name in formats])
    part = Shard.read(shard) if shard else None
    choose_runtime(options.runtime, choose_device(options.device), options.precision)
    loaded = load_model(model)
    folder = as_path(output)
    _require_writable(folder)
    return SegmentJob(loaded, options, folder, names, existing, part)


class SegmentJob(NamedTuple):
    """How each image is segmented, and where its results go."""

    model: Model
    options: SegmentOptions
    output: Path
    formats: tuple[str, ...]
    existing: Existing
    """What becomes of a result or a run that is there: see `cytoseed.segment_slide`."""
    shard: Shard | None = None
    """Of a large image do only this part of the tiles, and of small ones every so manieth."""

    def run(self, paths: Sequence[Place], cluster: Cluster | None = None) -> int:
        """Segment images; one that fails is reported, and the others go on.

        Parameters
        ----------
        paths : sequence of Path or Remote
        cluster : Cluster, optional
            Whose workers do it, several images at a time.

        Returns
        -------
        int
            How many failed, or lack a part.
        """
        from rich.console import Console

        console = Console(soft_wrap=True, highlight=False, markup=False)
        with Bars(console, len(paths)) as bars:
            work = _Work(self, cluster, Remarks(), bars, console)
            chosen = list(enumerate(paths, start=1))
            if cluster is None:
                failed = sum(work.failed(number, path) for number, path in chosen)
            else:
                at_once = max(_SLIDES_AT_ONCE, min(2 * cluster.size, _IMAGES_AT_ONCE))
                with ThreadPoolExecutor(at_once) as threads:
                    failed = sum(threads.map(lambda one: work.failed(*one), chosen))
        work.remarks.close()
        if failed and len(paths) > 1:
            remark(f"{failed} of {len(paths)} images failed, as told above")
        return failed

    def shown(self, files: Sequence[Path]) -> Path:
        """Choose the file to look at first."""
        return files[self.formats.index("overlay")] if "overlay" in self.formats else files[0]

    def is_done(self, path: Place, image: Image) -> bool:
        """Tell whether the result is there; a different one is refused before the work, not after it."""
        from cytoseed.results import compare, record_of, stem_of
        from cytoseed.run.segment import describe

        record = record_of(image.read(), str(path), describe(image, self.model.config, self.options))
        found = compare(self.output, stem_of(str(path)), record, self.formats)
        if found.state == "different":
            raise FileExistsError(
                f"{self.output} holds a result of that name that was made otherwise "
                f"({'; '.join(found.differences)}); give another folder, or --overwrite"
            )
        return found.state == "same" and not found.missing


class _Work:
    """The images of a job, one at a time or several."""

    def __init__(
        self, job: SegmentJob, cluster: Cluster | None, remarks: Remarks, bars: Bars, console: Console
    ) -> None:
        self.remarks = remarks
        self._job, self._cluster, self._bars, self._console = job, cluster, bars, console
        self._speaking = threading.Lock()
        self._slides = threading.Semaphore(_SLIDES_AT_ONCE)  # joining and writing take memory here

    def failed(self, number: int, path: Place) -> bool:
        """Segment an image, the `number`th of all, and tell of it; True where it failed or lacks a part."""
        try:
            line, is_whole = self._segmented(number, path)
        except (*MISTAKES, MemoryError) as error:
            line, is_whole = "", False
            with self._speaking:
                complain(_with_name(path, error))
        with self._speaking:
            if line:
                self._console.print(line)
            self._bars.next_image(path)
        return not is_whole

    def _segmented(self, number: int, path: Place) -> tuple[str, bool]:
        """Segment one image; tell of it in a line, and whether all of it could be segmented."""
        from cytoseed.images import open_image
        from cytoseed.run.plan import make_plan
        from cytoseed.run.segment import is_large

        job = self._job
        image = open_image(path if isinstance(path, Path) else path.url)
        if is_large(image, make_plan(image, job.model.config, job.options), job.options):
            with self._slides:
                return self._slide(path, image)
        if job.shard is not None and not job.shard.takes(number):
            return f"{path.name}: left to another shard", True
        return self._whole(path, image), True

    def _whole(self, path: Place, image: Image) -> str:
        """Segment one image at once, unless its result is there already and is not to be overwritten."""
        from cytoseed.paths import lock
        from cytoseed.results import stem_of
        from cytoseed.results.store import SUFFIX
        from cytoseed.run.segment import segment

        job = self._job
        started = time.perf_counter()
        with lock(job.output / f"{stem_of(str(path))}{SUFFIX}"):
            held = image.in_memory()  # read once, for the comparison and the run
            if job.existing != "overwrite" and job.is_done(path, held):
                return f"{path.name}: already there"
            find = segment if self._cluster is None else self._cluster.segment
            result = find(held, job.model, job.options, lambda text: self._remark(path, text))
            files = result.save(job.output, job.formats, job.existing == "overwrite")
        seconds = time.perf_counter() - started
        return f"{path.name}: {_counted(result)} in {seconds:.1f} s -> {job.shown(files)}"

    def _slide(self, path: Place, image: Image) -> tuple[str, bool]:
        """Segment one image tile by tile."""
        from cytoseed.run.job import Request
        from cytoseed.run.slide import Watcher, run_slide

        job = self._job
        watch = Watcher(lambda text: self._remark(path, text), lambda progress: self._bars.tile_done(path, progress))
        request = Request(image, job.output, job.model, job.options, job.formats, job.existing, job.shard)
        run = run_slide(request, watch) if self._cluster is None else self._cluster.run(request, watch)
        if run.was_there:
            return f"{path.name}: already there", True
        if run.result is None:
            part = f"shard {request.shard.number} of {request.shard.of}" if request.shard is not None else ""
            return f"{path.name}: {part}, {run.tiles} tiles in {_pace(run)} -> {request.store.path}", not run.failures
        return f"{path.name}: {_counted(run.result)} in {_pace(run)} -> {job.shown(run.files)}", not run.failures

    def _remark(self, path: Place, text: str) -> None:
        with self._speaking:
            self.remarks.add(path.name, text)


class Bars:
    """Progress bars for images, and for the tiles of a large one: only where somebody looks at them."""

    def __init__(self, console: Console, images: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        shared = sys.stderr.isatty()  # else it is read elsewhere, apart from the bars
        columns = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        ]
        self._bars = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal, redirect_stderr=shared
        )
        self._images = self._bars.add_task("images", total=images, rate="", visible=images > 1)
        self._tiles: dict[Place, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def next_image(self, path: Place) -> None:
        """Count an image as done."""
        if path in self._tiles:
            self._bars.remove_task(self._tiles.pop(path))
        self._bars.advance(self._images)

    def tile_done(self, path: Place, progress: TileProgress) -> None:
        """Show how far a large image is."""
        if path not in self._tiles:
            name = f"tiles of {path.name}" if self._tiles else "tiles"
            self._tiles[path] = self._bars.add_task(name, total=progress.total, rate="")
        rate = f"{progress.input_px / progress.seconds / 1e6:.1f} Mpx/s, {progress.objects} objects"
        self._bars.update(self._tiles[path], completed=progress.done, rate=rate)


def _pace(run: SlideRun) -> str:
    """Tell how long a slide took, and what took it: its parts run side by side, so that their sum is more."""
    parts = {"reading": ("read", "prepare", "survey"), "network": ("network",)}
    seconds = {name: sum(run.seconds.get(part, 0.0) for part in of_name) for name, of_name in parts.items()}
    wall, every = run.seconds["wall"], sum(run.seconds.values()) - run.seconds["wall"]
    shares = [f"{name} {value / every:.0%}" for name, value in seconds.items()]
    shares.append(f"the rest {1 - sum(seconds.values()) / every:.0%}")
    skipped = f", {run.skipped} of {run.tiles + run.skipped} tiles left out" if run.skipped else ""
    return f"{wall:.0f} s ({', '.join(shares)}{skipped})"


def _counted(result: Segmentation | SlideResult) -> str:
    target = result.targets[-1]
    return f"{result.count} {_ONE[target] if result.count == 1 else target}"


def write_example(folder: Path) -> Path:
    """Write scikit-image's picture of a stained tissue section into a folder, as PNG; nothing is downloaded."""
    import imagecodecs
    from skimage.data import immunohistochemistry

    from cytoseed.paths import write_bytes

    path = folder / "immunohistochemistry.png"
    write_bytes(path, bytes(imagecodecs.png_encode(immunohistochemistry())))
    return path


def _require_writable(folder: Path) -> None:
    """Make the folder; refuse one that takes no files."""
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


def _with_name(path: Place, error: BaseException) -> str:
    """Give an error's message, in one line that names the image."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        text = text if text.startswith("not enough") else f"not enough memory ({text}); segment a part of the image"
    return text if path.name in text else f"{path.name}: {text}"
