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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from cytoseed import __version__
from cytoseed.images import Image, Regions, address, open_image
from cytoseed.models.weights import Model, load_model
from cytoseed.results.objects import Objects
from cytoseed.run.dask_client import START_S, connect, local_scheduler, local_workers, scheduler_address, temporary_keys
from cytoseed.run.engine import check_precision, choose_device, engine_for
from cytoseed.run.executor import Executor, LocalExecutor, batch_size
from cytoseed.run.resume import Request
from cytoseed.run.tile import Clock, SlideContext, TileResult
from cytoseed.run.tiles import Tile

if TYPE_CHECKING:
    from distributed import Future

_BATCHES = 4  # per task at most: a worker reads one while its network runs on another
_TASKS_PER_WORKER = 2
_POLL_S = 1.0  # between two checks whether there are workers
_OPEN_IMAGES = 4  # a worker may receive tiles of several images in turn


class Cluster:
    """Workers that process tiles. A context manager: inside, its methods may be called by several threads.

    Parameters
    ----------
    workers : int, optional
        Number of processes to start on this machine; they share its cores.
    scheduler : str or path, optional
        Address of a Dask scheduler that has workers, such as `tcp://10.0.0.5:8786`, or its scheduler file.
        Exactly one of `workers` and `scheduler` is given.
    patience_s : float
        Seconds to wait for a scheduler that does not answer, or has no worker.

    Raises
    ------
    FileNotFoundError, ModuleNotFoundError, ValueError
        The scheduler file does not exist; Dask is not installed; impossible numbers.
    TimeoutError
        The scheduler does not answer, or has no workers, for `patience_s`.
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
        with ExitStack() as stack:
            keys = temporary_keys() if self._workers is not None else None
            address = stack.enter_context(local_scheduler(keys)) if keys else scheduler_address(self._scheduler or "")
            self._client = stack.enter_context(connect(address, self._patience_s, keys))
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
        of_model = (os.path.abspath(model.folder), model.config.sha256)
        task = WorkerTask(
            address(image), dict(image.identity()), *of_model, __version__, options.device, options.precision
        )
        return _ClusterExecutor(self, task)

    def device_for(self, task: WorkerTask) -> str:
        """Kind of device on which the workers run a model; `cpu` where they differ."""
        key = (task.model, task.device, task.precision)
        if key in self._devices:
            return self._devices[key]
        self._require_workers()
        call = WorkerCall(check_worker, (task,))
        futures = {name: self._submit(call, workers=[name]) for name in self._client.nthreads()}
        found = set()
        for name, future in futures.items():
            try:
                answer = _result(future, max(self._patience_s, START_S))
            except (OSError, ValueError) as error:
                raise ValueError(f"worker {name} {error}") from error
            if not isinstance(answer, Exception):  # else it has died since
                found.add(answer)
        self._devices[key] = found.pop() if len(found) == 1 else "cpu"
        return self._devices[key]

    def map(self, calls: deque[WorkerCall]) -> Iterator[tuple[WorkerCall, Any]]:
        """Run calls on the workers; yields each with its result, or Dask's error where several workers died of it.

        `calls` is emptied; calls added to it meanwhile run as well.
        """
        running: dict[Future[Any], WorkerCall] = {}
        done: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        last_worker_at = time.monotonic()
        try:
            while calls or running:
                size = self.size
                last_worker_at = time.monotonic() if size else last_worker_at
                if time.monotonic() - last_worker_at > self._patience_s:
                    raise TimeoutError(self._no_worker("finished tiles are kept: --resume continues"))
                while calls and len(running) < _TASKS_PER_WORKER * size:
                    call = calls.popleft()
                    future = self._submit(call)
                    running[future] = call
                    future.add_done_callback(done.put)
                try:
                    future = done.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                yield running.pop(future), _result(future)
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running), force=True)

    def _submit(self, call: WorkerCall, **where: Any) -> Future[Any]:
        """Send a call as builtins, so that schedulers without cytoseed can handle it, and workers without it fail."""
        data = {"data": pickle.dumps((call.function, call.arguments))}
        future: Future[Any] = self._client.submit(eval, _CALL, data, pure=False, **where)
        return future

    def _require_workers(self) -> None:
        patience_s = self._patience_s if self._workers is None else max(self._patience_s, START_S)
        try:
            self._client.wait_for_workers(1, timeout=patience_s)
        except TimeoutError as error:
            raise TimeoutError(self._no_worker(f"start some: dask worker {self._address}")) from error

    def _no_worker(self, remedy: str) -> str:
        return f"the scheduler at {self._address} has had no worker for {self._patience_s:g} s; {remedy}"


class WorkerCall(NamedTuple):
    """One of the functions that workers run, below, and its arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class WorkerTask(NamedTuple):
    """Image and model that tiles are made from: how a worker finds both, and recognises them."""

    source: str  # path or URL of the image
    identity: Mapping[str, Any]  # `Image.identity`
    model: str  # its folder
    sha256: str  # of the model's weights
    version: str  # of cytoseed
    device: str
    precision: str


class _ClusterExecutor:
    """The workers of a cluster as `cytoseed.run.executor.Executor` for one image."""

    def __init__(self, cluster: Cluster, task: WorkerTask) -> None:
        self._cluster = cluster
        self._task = task

    @property
    def batch(self) -> int:
        return batch_size(self._cluster.device_for(self._task))

    def run(
        self, context: SlideContext, regions: Regions, batches: Sequence[Sequence[Tile]], clock: Clock
    ) -> Iterator[TileResult]:
        """Send batches to the workers, several per call; those of a call that kills workers, one by one."""
        del regions  # of this process
        per_call = max(1, min(_BATCHES, len(batches) // (_TASKS_PER_WORKER * max(1, self._cluster.size))))
        numbers = [[tile.number for tile in batch] for batch in batches]
        calls = deque(self._call(context, numbers[at : at + per_call]) for at in range(0, len(numbers), per_call))
        for call, answer in self._cluster.map(calls):
            sent = call.arguments[-1]
            if not isinstance(answer, Exception):
                packed, seconds = answer
                clock.add(seconds)
                for number, data, cause in packed:
                    objects = None if data is None else Objects.from_bytes(data)
                    yield TileResult(context.plan.grid.tile(number), objects, ValueError(cause) if cause else None)
            elif len(sent) > 1:
                calls.extend(self._call(context, [batch]) for batch in sent)
            else:
                yield from (TileResult(context.plan.grid.tile(number), None, answer) for number in sent[0])

    def run_single(self, context: SlideContext, regions: Regions, clock: Clock) -> NDArray[np.int32]:
        """Labels of a small image, from one worker."""
        del regions, clock
        self._cluster.device_for(self._task)
        call = WorkerCall(run_single, (self._task, tuple(context)[1:]))
        ((_, answer),) = self._cluster.map(deque([call]))
        if isinstance(answer, Exception):
            raise MemoryError(f"every worker that received it died ({answer}); make sure that they have enough memory")
        data, shape = answer
        return np.frombuffer(zlib.decompress(data), np.int32).reshape(shape)

    def _call(self, context: SlideContext, batches: list[list[int]]) -> WorkerCall:
        return WorkerCall(run_batches, (self._task, tuple(context)[1:], batches))


_CALL = f"__import__('{__name__}', fromlist=['work']).work(data)"  # evaluated on a worker
_ONE_CALL = threading.Lock()


def work(data: bytes) -> bytes:
    """Run a pickled call on a worker, one at a time, on as many cores as it has threads; returns a pickled result."""
    import torch
    from distributed import get_worker

    with _ONE_CALL:
        torch.set_num_threads(get_worker().state.nthreads)
        function, arguments = pickle.loads(data)
        return pickle.dumps(function(*arguments))


def _result(future: Future[Any], timeout_s: float | None = None) -> Any:
    """Result of a call, or the error where workers died of it."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        return pickle.loads(future.result(timeout_s))
    except KilledWorker as error:
        return error
    except CancelledError as error:
        raise ConnectionError("the scheduler has gone; finished tiles are kept: --resume continues") from error
    except ModuleNotFoundError as error:
        raise ValueError(f"has no cytoseed that can do this ({error}): install {__version__} there") from error


def check_worker(task: WorkerTask) -> str:
    """Kind of device that this worker would use; an error where it has another version or model, or no such device."""
    _model(task)
    device = choose_device(task.device)
    check_precision(task.precision, device)
    return device.type


def run_batches(
    task: WorkerTask, context: tuple[Any, ...], batches: Sequence[Sequence[int]]
) -> tuple[list[tuple[int, bytes | None, str]], Mapping[str, float]]:
    """Process tiles, given by the fields of `SlideContext` after the image and the tiles' numbers.

    Returns each tile's number with its packed objects, or None and the cause of its failure; and timings.
    """
    full_context, clock = SlideContext(_image(task), *context), Clock()
    tiles = [[full_context.plan.grid.tile(number) for number in batch] for batch in batches]
    packed = []
    with full_context.image.regions() as regions:
        for result in _executor(task).run(full_context, regions, tiles, clock):
            data = None if result.objects is None else result.objects.to_bytes()
            cause = "" if result.error is None else " ".join(str(result.error).split()) or type(result.error).__name__
            packed.append((result.tile.number, data, cause))
    return packed, clock.seconds


def run_single(task: WorkerTask, context: tuple[Any, ...]) -> tuple[bytes, tuple[int, ...]]:
    """Labels of an image that is one tile: int32 compressed by zlib, and their shape (T,H,W)."""
    full_context = SlideContext(_image(task), *context)
    with full_context.image.regions() as regions:
        labels = _executor(task).run_single(full_context, regions, Clock())
    return zlib.compress(labels.tobytes(), 1), labels.shape


def _executor(task: WorkerTask) -> LocalExecutor:
    return LocalExecutor(engine_for(_model(task), choose_device(task.device), task.precision))


def _model(task: WorkerTask) -> Model:
    """Model of a task, unless it or cytoseed differs here."""
    if task.version != __version__:
        raise ValueError(f"has cytoseed {__version__}, not {task.version}: install the same version everywhere")
    model = _loaded(task.model)
    if model.config.sha256 != task.sha256:
        raise ValueError(f"has another model in {task.model}: its weights have the SHA-256 {model.config.sha256}")
    return model


@functools.lru_cache(2)
def _loaded(folder: str) -> Model:
    return load_model(folder)


def _image(task: WorkerTask) -> Image:
    """Image of a task, unless it differs here."""
    return _opened(task.source, repr(sorted(task.identity.items())))


@functools.lru_cache(_OPEN_IMAGES)
def _opened(source: str, identity: str) -> Image:
    image = open_image(source)
    if repr(sorted(image.identity().items())) != identity:
        raise ValueError(f"sees another image at {source}: the path must lead to the same file everywhere")
    return image
