"""The same tiles on many machines, by Dask: workers make them, this process joins them and writes the files.

A worker is told where the image and the model are, and gives back the objects of its tiles, some kB each; they are
stored here at once. What a worker was at when it died, others make again.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from cytoseed import __version__
from cytoseed.images import Image, ImageLike, Regions, address, as_image
from cytoseed.models.weights import Model, load_model
from cytoseed.paths import as_path
from cytoseed.results import DEFAULT_FORMATS, Result
from cytoseed.results.objects import Objects
from cytoseed.run import worker
from cytoseed.run.connect import START_S, address_of, connected, local_scheduler, local_workers, own_keys, require_dask
from cytoseed.run.crew import batch_on
from cytoseed.run.job import Existing, Request
from cytoseed.run.part import Clock, Subject
from cytoseed.run.pipeline import Made
from cytoseed.run.slide import SlideRun, Watcher, run_slide
from cytoseed.run.tiles import Tile
from cytoseed.settings import SegmentOptions, with_settings

if TYPE_CHECKING:
    from distributed import Future

_BATCHES = 4  # that a worker is sent at a time, at most: it reads one while it looks at another
_WAITING = 2  # tasks for each worker that are on their way
_LOOK_S = 1.0  # between two looks whether there are workers


class Cluster:
    """Workers that make tiles. A context manager: inside, its methods may be called by several threads.

    Parameters
    ----------
    workers : int, optional
        Start so many processes on this machine, which share its cores.
    scheduler : str or path, optional
        Address of a Dask scheduler that has workers, such as `tcp://10.0.0.5:8786`, or its scheduler file.
        One of `workers` and `scheduler` is given.
    patience_s : float
        How long to wait where a scheduler does not answer or there is no worker, in seconds.

    Raises
    ------
    ValueError
        Both or neither are given, or a number below 1.
    ModuleNotFoundError
        Dask is not installed, or cryptography, by which only this process can use the workers that it starts.
    FileNotFoundError
        There is no such scheduler file.
    TimeoutError
        The scheduler does not answer, or has no workers, for so long.
    """

    def __init__(
        self,
        workers: int | None = None,
        scheduler: str | os.PathLike[str] | None = None,
        patience_s: float = 60,
    ) -> None:
        if (workers is None) == (scheduler is None):
            raise ValueError("give a number of workers to start here, or the scheduler of workers that run elsewhere")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be 1 or more")
        if patience_s <= 0:
            raise ValueError(f"patience_s is {patience_s}; it must be above 0, in seconds")
        self._workers, self._scheduler, self._patience_s = workers, scheduler, patience_s
        self._stack = ExitStack()
        self._devices: dict[tuple[str, ...], str] = {}

    def __enter__(self) -> Self:
        require_dask()
        with ExitStack() as stack:
            keys = own_keys() if self._workers is not None else None
            address = stack.enter_context(local_scheduler(keys)) if keys else address_of(self._scheduler or "")
            self._client = stack.enter_context(connected(address, self._patience_s, keys))
            self._address = address
            if self._workers is not None and keys:
                stack.enter_context(local_workers(self._client, address, self._workers, keys))
            self._require_workers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    @property
    def size(self) -> int:
        """How many workers there are now."""
        return len(self._client.nthreads())

    def segment_slide(
        self,
        image: ImageLike,
        output: str | os.PathLike[str],
        model: Model | str | os.PathLike[str] = "nuclei",
        options: SegmentOptions | None = None,
        formats: Sequence[str] = DEFAULT_FORMATS,
        existing: Existing = "refuse",
        watch: Watcher | None = None,
        **settings: Any,
    ) -> SlideRun:
        """Do what `cytoseed.segment_slide` does: the same objects, ids and files.

        Parameters
        ----------
        image, output, model, options, formats, existing, watch, **settings
            As for `cytoseed.segment_slide`, but that image and model must be files that the workers find under the
            same path, or URLs.

        Raises
        ------
        TimeoutError
            There has been no worker for too long: what was done is kept, and `existing='resume'` goes on.
        ValueError
            Also: a worker without the model or the image, or with another version of cytoseed.
        """
        wishes = with_settings(options, settings)
        ready = model if isinstance(model, Model) else load_model(model)
        return self.run(Request(as_image(image), as_path(output), ready, wishes, tuple(formats), existing), watch)

    def run(self, request: Request, watch: Watcher | None = None) -> SlideRun:
        """Do what `cytoseed.run.slide.run_slide` does."""
        errand = self._errand(request.image, request.model, request.options)
        return run_slide(request, watch, _Crew(self, errand))

    def segment(
        self, image: Image, model: Model, options: SegmentOptions, notice: Callable[[str], object] | None = None
    ) -> Result:
        """Do what `cytoseed.segment` does, on a worker.

        Parameters
        ----------
        image : Image
            A file that the workers find under the same path.
        model, options, notice
            As for `cytoseed.segment`.
        """
        errand = self._errand(image, model, options)
        ((_, found),) = self.answers(deque([_Task(worker.make_whole, (errand, options))]))
        if isinstance(found, Exception):
            raise MemoryError(f"each worker that was given it has died ({found}); see that they have memory enough")
        if notice is not None:
            for sentence in found.notices:
                notice(sentence)
        return Result.from_labels(
            labels=np.frombuffer(zlib.decompress(found.labels), np.int32).reshape(found.shape),
            image=image.read(),
            targets=model.config.targets,
            channel_names=image.channel_names,
            pixel_size_um=found.pixel_size_um,
            source=image.source,
            settings=found.settings,
        )

    def device_for(self, errand: worker.Errand) -> str:
        """Tell on which kind of device the workers run a model; where they differ, `cpu`.

        Raises
        ------
        ValueError
            A worker is not fit for the errand: it has not the model, the device or the runtime, or another version.
        """
        key = (errand.model, errand.device, errand.runtime, errand.precision)
        if key not in self._devices:
            self._require_workers()
            self._devices[key] = self._asked(errand)
        return self._devices[key]

    def answers(self, tasks: deque[_Task]) -> Iterator[tuple[_Task, Any]]:
        """Have tasks done by workers.

        Parameters
        ----------
        tasks : deque
            Emptied; what is added to it meanwhile is done as well.

        Yields
        ------
        tuple
            A task and what it gave, in the order in which they are done; or the error of Dask, where each of several
            workers that it was given to has died.

        Raises
        ------
        TimeoutError, ValueError
            As `segment_slide`.
        """
        running: dict[Future[Any], _Task] = {}
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        seen = time.monotonic()
        try:
            while tasks or running:
                size = self.size
                seen = time.monotonic() if size else seen
                if time.monotonic() - seen > self._patience_s:
                    raise TimeoutError(self._nobody("what was done is kept: --resume goes on"))
                while tasks and len(running) < _WAITING * size:
                    task = tasks.popleft()
                    future = self._sent(task)
                    running[future] = task
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_LOOK_S)
                except queue.Empty:
                    continue
                yield running.pop(future), _result(future)
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running), force=True)

    def _sent(self, task: _Task, **where: Any) -> Future[Any]:
        """Send a task, in terms that schedulers and workers without cytoseed understand: the latter fail at it."""
        data = {"data": pickle.dumps((task.function, task.arguments))}
        future: Future[Any] = self._client.submit(eval, _CALL, data, pure=False, **where)
        return future

    def _errand(self, image: Image, model: Model, options: SegmentOptions) -> worker.Errand:
        """Say of which image and by which model, if workers can find both."""
        if image.path is None or model.folder is None:
            what = "image" if image.path is None else "model"
            raise ValueError(f"the {what} is held in memory, where workers cannot see it: give the path of a file")
        source = address(image)
        folder = os.path.abspath(model.folder)
        return worker.Errand(
            source,
            dict(image.identity()),
            folder,
            model.config.sha256,
            __version__,
            options.device,
            options.runtime,
            options.precision,
        )

    def _asked(self, errand: worker.Errand) -> str:
        """Ask every worker whether it is fit for an errand, and for its device."""
        task = _Task(worker.describe, (errand,))
        asked = {name: self._sent(task, workers=[name]) for name in self._client.nthreads()}
        devices = set()
        for name, future in asked.items():
            try:
                answer = _result(future, max(self._patience_s, START_S))
            except (OSError, ValueError) as error:
                raise ValueError(f"worker {name} {error}") from error
            if not isinstance(answer, Exception):  # else it has died since
                devices.add(answer)
        return devices.pop() if len(devices) == 1 else "cpu"

    def _require_workers(self) -> None:
        patience_s = self._patience_s if self._workers is None else max(self._patience_s, START_S)
        try:
            self._client.wait_for_workers(1, timeout=patience_s)
        except TimeoutError as error:
            raise TimeoutError(self._nobody(f"start some: dask worker {self._address}")) from error

    def _nobody(self, remedy: str) -> str:
        return f"the scheduler at {self._address} has had no worker for {self._patience_s:g} s; {remedy}"


class _Task(NamedTuple):
    """A function of `cytoseed.run.worker`, and what it is called with."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class _Crew:
    """The workers of a cluster, as makers of one image's tiles; a `cytoseed.run.crew.Crew`."""

    def __init__(self, cluster: Cluster, errand: worker.Errand) -> None:
        self._cluster = cluster
        self._errand = errand

    @property
    def batch(self) -> int:
        return batch_on(self._cluster.device_for(self._errand))

    def make(
        self, subject: Subject, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[Made]:
        """Send batches to the workers; those in which workers die, one by one."""
        del regions  # open in this process, and so of no use to others
        at_a_time = max(1, min(_BATCHES, len(batches) // (_WAITING * max(1, self._cluster.size))))
        numbers = [[tile.number for tile in batch] for batch in batches]
        tasks = deque(
            self._task(subject, numbers[begin : begin + at_a_time]) for begin in range(0, len(numbers), at_a_time)
        )
        for task, answer in self._cluster.answers(tasks):
            sent = task.arguments[-1]
            if not isinstance(answer, Exception):
                parcels, seconds = answer
                clock.add(seconds)
                yield from (_made(subject, parcel) for parcel in parcels)
            elif len(sent) > 1:
                tasks.extend(self._task(subject, [batch]) for batch in sent)
            else:
                yield from (Made(subject.grid.tile(number), None, answer) for number in sent[0])

    def _task(self, subject: Subject, batches: list[list[int]]) -> _Task:
        return _Task(worker.make, (self._errand, tuple(subject)[1:], batches))


def _made(subject: Subject, parcel: worker.Parcel) -> Made:
    """Unpack what a worker sent."""
    tile = subject.grid.tile(parcel.tile)
    if parcel.objects is None:
        return Made(tile, None, ValueError(parcel.cause))
    return Made(tile, Objects.from_bytes(parcel.objects), None)


_CALL = f"__import__('{__name__}', fromlist=['work']).work(data)"  # evaluated on a worker
_ONE_AT_A_TIME = threading.Lock()


def work(data: bytes) -> bytes:
    """Do a task on a worker: one at a time, on as many cores as it has threads.

    Parameters
    ----------
    data : bytes
        A function of `cytoseed.run.worker` and its arguments, pickled.

    Returns
    -------
    bytes
        What it gave, pickled.
    """
    from distributed import get_worker

    with _ONE_AT_A_TIME:
        worker.use_cores(get_worker().state.nthreads)
        function, arguments = pickle.loads(data)
        return pickle.dumps(function(*arguments))


def _result(future: Future[Any], timeout_s: float | None = None) -> Any:
    """Give what a task gave, or the error where workers died of it."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return pickle.loads(future.result(timeout_s))
    except KilledWorker as error:
        return error
    except CancelledError as error:
        raise ConnectionError("the scheduler has gone; what was done is kept: --resume goes on") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"has no cytoseed that can do this ({error}): install {__version__} there") from error
