"""One run at a time in a folder."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytoseed.results.place import is_far

_OWNER = "owner"


@contextmanager
def locked(folder: Path, *, begun: str = "run.json") -> Iterator[None]:
    """Keep other runs out of a folder; the lock goes with the process that holds it, however that ends.

    A folder far away, which a URL names, cannot be locked: nothing is done.

    Parameters
    ----------
    folder : path
        Made if it is not there; removed again if no file of the name `begun` is in it at the end.
    begun : str
        What a run writes that has begun.

    Raises
    ------
    BlockingIOError
        Another run holds the lock.
    OSError
        The folder cannot be made or written to, or its file system has no locks.
    """
    if is_far(folder):
        yield
        return
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    owner = folder / _OWNER
    try:
        with FileLock(folder / "lock", timeout=0):
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
            try:
                yield
            finally:
                owner.unlink(missing_ok=True)
                if not (folder / begun).exists():
                    shutil.rmtree(folder, ignore_errors=True)
    except NotImplementedError as error:
        raise OSError(f"{folder}: files on this disk cannot be locked ({error}); give a folder on another") from error
    except Timeout:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "a process that does not say who it is"
        raise BlockingIOError(
            f"{folder} is being written to by another run ({who}); wait for it, or give another folder"
        ) from None
