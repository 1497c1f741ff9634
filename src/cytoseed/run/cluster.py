"""Dask workers as an executor: they process tiles, this process stitches them and writes the files.

A worker receives the paths of image and model, and returns the objects of its tiles, a few kB each. Tiles of a worker
that dies are processed by others.
"""

from __future__ import annotations

import functools
import os
import pickle
import queue
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cytoseed import __version__
from cytoseed.images import Image, address, open_image
from cytoseed.models.weights import Model, load_model
from cytoseed.run.dask_client import START_S, connect, local_cluster, scheduler_address
from cytoseed.run.engine import choose_device, engine_for
from cytoseed.run.executor import Executor, LocalExecutor, batch_size
from cytoseed.run.resume import Request
from cytoseed.run.tile import Clock, SlideContext, TileResult
from cytoseed.run.tiles import Tile

if TYPE_CHECKING:
    from distributed import Client, Future

_BATCHES = 4  # per call at most: a worker reads one while its network runs on another
_CALLS_PER_WORKER = 2
_POLL_S = 1.0  # between two checks whether there are workers
_FETCH_S = 20.0  # for one result, after which the connection is checked
# Dask evaluates these on a worker: schedulers without cytoseed can handle builtins, and workers without it fail
_CALL, _CHECK = (f"__import__('{__name__}', fromlist=['x']).{name}(data)" for name in ("work", "check_worker"))
_ONE_CALL = threading.Lock()
_SENT = 3  # fields of `SlideContext` from this one on are sent; workers have their own image, regions and clock


class Cluster:
    """Workers that process tiles. A context manager: inside, its methods may be called by several threads.

    Either `workers` is the number of processes to start on this machine, which share its cores, or `scheduler` is the
    address of a Dask scheduler that has workers, such as `tcp://10.0.0.5:8786`, or its scheduler file. `patience_s` are
    seconds to wait for a scheduler that does not answer, or has no workers.

    Raises `FileNotFoundError` if the scheduler file does not exist, `ModuleNotFoundError` if Dask is not installed,
    `ValueError` for impossible numbers, `TimeoutError` if the scheduler has not answered for `patience_s`.
    """

    def __init__(
        self, workers: int | None = None, scheduler: str | os.PathLike[str] | None = None, patience_s: float = 60
    ) -> None:
        if (workers is None) == (scheduler is None):
            raise ValueError("give a number of workers to start here, or the scheduler of workers that run elsewhere")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; it must be 1 or more")
        if patience_s <= 0:
            raise ValueError(f"patience_s is {patience_s}; it must be above 0, in seconds")
        if find_spec("distributed") is None:
            raise ModuleNotFoundError("workers need the package distributed: pip install 'cytoseed[cluster]'")
        self._workers, self._scheduler, self._patience_s = workers, scheduler, patience_s
        self._stack = ExitStack()
        self._devices: dict[tuple[str, ...], str] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._workers is None:
                self._address = scheduler_address(self._scheduler or "")
                self._client = stack.enter_context(connect(self._address, self._patience_s))
            else:
                self._client, self._address = stack.enter_context(local_cluster(self._workers, self._patience_s))
            self._require_workers()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    @property
    def size(self) -> int:
        """Number of workers now."""
        return len(self._client.nthreads())

    def executor(self, request: Request) -> Executor:
        """Executor that processes a request's tiles on the workers, with the objects, ids and files of one process.

        A ValueError for images and models held in memory, where workers cannot see them. While it runs, a worker
        without model or image, or with another version of cytoseed, raises a ValueError too, and too long a time
        without any worker a TimeoutError: finished tiles are kept.
        """
        image, model, options = request.image, request.model, request.options
        if image.path is None or model.folder is None:
            what = "image" if image.path is None else "model"
            raise ValueError(f"the {what} is held in memory, where workers cannot see it: give the path of a file")
        source = (address(image), image.series, image.full_canvas, _identity(image))
        folder = (os.path.abspath(model.folder), model.config.sha256)
        return _ClusterExecutor(self, WorkerTask(*source, *folder, __version__, options.device, options.precision))

    def device_for(self, task: WorkerTask) -> str:
        """Kind of device on which the workers run a model; `cpu` where they differ."""
        key = (task.model, task.device, task.precision)
        if key not in self._devices:
            self._require_workers()
            answers = self._client.run(eval, _CHECK, {"data": pickle.dumps(task)}, on_error="return")
            for name, answer in answers.items():
                if isinstance(answer, ModuleNotFoundError):
                    raise ValueError(f"worker {name} {_lacks_cytoseed(answer)}") from answer
                has_died = isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError)
                if isinstance(answer, Exception) and not has_died:
                    raise ValueError(f"worker {name} {answer}") from answer
            found = {answer for answer in answers.values() if not isinstance(answer, Exception)}
            self._devices[key] = found.pop() if len(found) == 1 else "cpu"
        return self._devices[key]

    def map(self, calls: deque[functools.partial[Any]]) -> Iterator[tuple[functools.partial[Any], Any]]:
        """Run calls on the workers; yields each with its result, or Dask's error where several workers died of it.

        `calls` is emptied; calls added to it meanwhile run as well.
        """
        running: dict[Future[Any], functools.partial[Any]] = {}
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        last_worker_at = time.monotonic()
        try:
            while calls or running:
                size = self.size
                last_worker_at = time.monotonic() if size else last_worker_at
                if time.monotonic() - last_worker_at > self._patience_s:
                    raise TimeoutError(self._no_worker("finished tiles are kept: --resume continues"))
                while calls and len(running) < _CALLS_PER_WORKER * size:
                    call = calls.popleft()
                    future = self._client.submit(eval, _CALL, {"data": pickle.dumps(call)}, pure=False)
                    running[future] = call
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                yield running.pop(future), _result(future, self._client)
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running), force=True)

    def _require_workers(self) -> None:
        patience_s = self._patience_s if self._workers is None else max(self._patience_s, START_S)
        try:
            self._client.wait_for_workers(1, timeout=patience_s)
        except TimeoutError as error:
            raise TimeoutError(self._no_worker(f"start some: dask worker {self._address}")) from error

    def _no_worker(self, remedy: str) -> str:
        return f"the scheduler at {self._address} has had no worker for {self._patience_s:g} s; {remedy}"


class WorkerTask(NamedTuple):
    """Image and model for a worker's tiles: where it finds both, and how it recognises them."""

    source: str  # path or URL of the image
    series: str | None  # its name in a file of several
    full_canvas: bool  # of a slide
    identity: str  # identity of the image
    model: str  # its folder
    sha256: str  # hash of the model's weights
    version: str  # version of cytoseed
    device: str
    precision: str


class _ClusterExecutor(NamedTuple):
    """The workers of a cluster as `cytoseed.run.executor.Executor` for one image."""

    cluster: Cluster
    task: WorkerTask

    @property
    def batch(self) -> int:
        return batch_size(self.cluster.device_for(self.task))

    def run(self, context: SlideContext, batches: Sequence[Sequence[Tile]]) -> Iterator[TileResult]:
        """Send batches to the workers, several per call; those of a call that kills workers, one by one."""
        call = functools.partial(run_batches, self.task, context[_SENT:])
        size = max(1, min(_BATCHES, len(batches) // (_CALLS_PER_WORKER * max(1, self.cluster.size))))
        calls = deque(functools.partial(call, batches[at : at + size]) for at in range(0, len(batches), size))
        for done, answer in self.cluster.map(calls):
            sent = done.args[-1]
            if not isinstance(answer, Exception):
                results, seconds = answer
                context.clock.add(seconds)
                yield from results
            elif len(sent) > 1:
                calls.extend(functools.partial(call, [batch]) for batch in sent)
            else:
                yield from (TileResult.failed(tile, answer) for tile in sent[0])

    def run_single(self, context: SlideContext) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Labels and scores of a small image, from one worker."""
        self.cluster.device_for(self.task)
        call = functools.partial(run_single, self.task, context[_SENT:])
        ((_, answer),) = self.cluster.map(deque([call]))
        if isinstance(answer, Exception):
            raise MemoryError(f"every worker that received it died ({answer}); make sure that they have enough memory")
        labels, scores = answer
        return labels, scores


def _result(future: Future[Any], client: Client) -> Any:
    """Result of a call, or the error where workers died of it."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    gone = "the scheduler has gone; finished tiles are kept: --resume continues"
    try:
        while client.status == "running":  # a client that is closed meanwhile would be waited for without end
            try:
                return pickle.loads(zlib.decompress(future.result(timeout=_FETCH_S)))
            except TimeoutError:
                if future.status == "error":  # the call's own
                    raise
        raise ConnectionError(gone)
    except KilledWorker as error:
        return error
    except CancelledError as error:
        raise ConnectionError(gone) from error
    except ModuleNotFoundError as error:
        raise ValueError(f"a worker {_lacks_cytoseed(error)}") from error


def _lacks_cytoseed(error: ModuleNotFoundError) -> str:
    return f"has no cytoseed that can do this ({error}): install {__version__} there"


# The functions below run on workers


def work(data: bytes) -> bytes:
    """Run a pickled call, one at a time, on as many cores as the worker has threads; the result is compressed."""
    import torch
    from distributed import get_worker

    with _ONE_CALL:
        torch.set_num_threads(get_worker().state.nthreads)
        return zlib.compress(pickle.dumps(pickle.loads(data)()), 1)


def check_worker(data: bytes) -> str:
    """Kind of device for a pickled task; an error where version or model differ, or there is no such device."""
    task = pickle.loads(data)
    _model(task.model, task.sha256, task.version)
    return choose_device(task.device, task.precision).type


def run_batches(
    task: WorkerTask, sent: tuple[Any, ...], batches: Sequence[Sequence[Tile]]
) -> tuple[list[TileResult], Mapping[str, float]]:
    """Results of tiles, and the seconds of each stage."""
    with _context(task, sent) as context:
        return list(_executor(task).run(context, batches)), context.clock.seconds


def run_single(task: WorkerTask, sent: tuple[Any, ...]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Labels (T,H,W) of an image that is one tile, and scores."""
    with _context(task, sent) as context:
        return _executor(task).run_single(context)


@contextmanager
def _context(task: WorkerTask, sent: tuple[Any, ...]) -> Iterator[SlideContext]:
    image = _image(task.source, task.series, task.full_canvas, task.identity)
    if sent[0].record.get("nan") == "zero":  # the plan's
        image = image.finite()
    with image.regions() as regions:
        yield SlideContext(image, regions, Clock(), *sent)


def _executor(task: WorkerTask) -> LocalExecutor:
    model = _model(task.model, task.sha256, task.version)
    return LocalExecutor(engine_for(model, choose_device(task.device), task.precision))


@functools.lru_cache(2)
def _model(folder: str, sha256: str, version: str) -> Model:
    """Model in a folder, unless it or cytoseed differs here."""
    if version != __version__:
        raise ValueError(f"has cytoseed {__version__}, not {version}: install the same version everywhere")
    model = load_model(folder)
    if model.config.sha256 != sha256:
        raise ValueError(f"has another model in {folder}: its weights have the SHA-256 {model.config.sha256}")
    return model


@functools.lru_cache(4)  # a worker may receive tiles of several images in turn
def _image(source: str, series: str | None, full_canvas: bool, identity: str) -> Image:
    """Image at a path or URL, unless it differs here."""
    image = open_image(source, series, full_canvas)
    if _identity(image) != identity:
        raise ValueError(f"sees another image at {source}: the path must lead to the same file everywhere")
    return image


def _identity(image: Image) -> str:
    return repr(sorted(image.identity().items()))
