"""Connections to Dask schedulers: one that runs elsewhere, or one of this process with workers on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

START_S = 120.0
"""Time within which processes on this machine start."""

_LOOPBACK = "127.0.0.1"
_ANY_LOOPBACK_PORT = f"{_LOOPBACK}:0"


def scheduler_address(scheduler: str | os.PathLike[str]) -> str:
    """Address of a scheduler, given as such or by its scheduler file."""
    text = os.fspath(scheduler)
    if "://" in text or (":" in text and not Path(text).exists()):
        return text
    try:
        return str(json.loads(Path(text).read_text(encoding="utf-8"))["address"])
    except FileNotFoundError as error:
        remedy = "an address looks like tcp://10.0.0.5:8786"
        raise FileNotFoundError(f"scheduler file {text!r} does not exist; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{text} is not a scheduler file: it does not name an address ({error})") from error


@contextmanager
def connect(address: str, patience_s: float, security: Security | None = None) -> Iterator[Client]:
    """Connect to a scheduler, with the given keys or those of Dask's configuration."""
    from distributed import Client

    try:
        with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop of its own, as notebooks do
            thread.submit(asyncio.run, _ping(address, patience_s, security)).result()
        client = Client(address, timeout=patience_s, set_as_default=False, security=security)
    except (OSError, ValueError, TimeoutError) as error:
        cause = " ".join(str(error).split()) or "it is silent"
        raise TimeoutError(
            f"no Dask scheduler answered at {address} within {patience_s:g} s ({cause}); check the address, and "
            f"that it can be reached from here"
        ) from error
    with client:
        yield client


async def _ping(address: str, patience_s: float, security: Security | None) -> None:
    """Ask an address for its identity: if it does not answer, Dask's own client would wait forever."""
    from distributed.core import rpc
    from distributed.security import Security

    there = rpc(address, timeout=patience_s, connection_args=(security or Security()).get_connection_args("client"))
    try:
        await asyncio.wait_for(there.identity(), patience_s)
    finally:
        await there.close_rpc()


@contextmanager
def local_cluster(count: int, patience_s: float) -> Iterator[tuple[Client, str]]:
    """Start a scheduler and workers that only this machine reaches, and only with the keys that are made for them.

    Workers are commands of their own: the script that asks for them is not run again. Yields client and address.
    """
    from distributed import LocalCluster
    from distributed.security import Security

    keys, cores = Security.temporary(), max(1, (os.cpu_count() or 1) // count)
    place = {"host": _LOOPBACK, "dashboard_address": _ANY_LOOPBACK_PORT, "protocol": "tls://"}
    with (
        LocalCluster(n_workers=0, processes=True, silence_logs=50, security=keys, **place) as scheduler,
        connect(str(scheduler.scheduler_address), patience_s, keys) as client,
        tempfile.TemporaryDirectory(prefix="cytoseed-workers-", ignore_cleanup_errors=True) as folder,
    ):
        command = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.scheduler_address]
        command += ["--nthreads", str(cores), "--nworkers", str(count), "--memory-limit", "0", "--no-dashboard"]
        command += ["--death-timeout", "30", "--local-directory", folder, "--host", _LOOPBACK]
        command += ["--dashboard-address", _ANY_LOOPBACK_PORT, *key_options(keys, Path(folder))]
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)
        try:
            _await_workers(client, process, count, log)
            yield client, str(scheduler.scheduler_address)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def key_options(security: Security, folder: Path) -> list[str]:
    """Write a worker's keys into a folder that only this user may read, and return the options that name them."""
    options = []
    for option, name in (("ca-file", "tls_ca_file"), ("cert", "tls_worker_cert"), ("key", "tls_worker_key")):
        file = folder / f"{name}.pem"
        file.write_text(getattr(security, name), encoding="ascii")
        options += [f"--tls-{option}", str(file)]
    return options


def _await_workers(client: Client, process: subprocess.Popen[bytes], count: int, log: Path) -> None:
    """Wait until workers have started."""
    deadline = time.monotonic() + START_S
    while len(client.nthreads()) < count:
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise ChildProcessError(f"workers did not start on this machine: {' '.join(tail) or 'no message'}")
        time.sleep(0.1)
