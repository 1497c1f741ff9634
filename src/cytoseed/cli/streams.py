"""Standard streams on which printing never stops the work: any encoding, closed, full, or with a reader that left."""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Any, TextIO

_PLAIN = {"µ": "u", "×": "x"}


class Stopped(KeyboardInterrupt):
    """A signal that asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def stop_on_signals() -> None:
    """Let SIGINT, SIGTERM, and SIGHUP, unless ignored, end the work by `Stopped`, so that temporary files are removed.

    Python's own KeyboardInterrupt, raised while text is compiled and run (as for a dataclass), would end `python -m` by
    the signal even after it was caught, instead of by its exit code.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    if number != signal.SIGINT:  # a second Ctrl-C is meant
        signal.signal(number, signal.SIG_IGN)  # a second one would stop the removal of temporary files
    raise Stopped(number)


class _Descriptor(io.FileIO):
    """A file descriptor whose first failure is kept instead of raised."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            self.failure = self.failure or error
            return memoryview(data).nbytes


def guard_streams() -> None:
    """Replace stdout and stderr by streams that take every text and never fail."""
    codecs.register_error("cytoseed", _spell)
    if os.name == "posix":  # else the next file that is opened would be written to by everything that prints
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)
    sys.stdout, sys.stderr = _guarded(sys.stdout), _guarded(sys.stderr)


def close_streams() -> OSError | None:
    """Flush stdout; returns why it lost text, unless its reader had seen enough."""
    sys.stdout.flush()
    descriptor = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    failure = descriptor.failure if isinstance(descriptor, _Descriptor) else None
    return None if failure is None or failure.errno in (errno.EPIPE, errno.EBADF) else failure


def _guarded(stream: TextIO | None) -> TextIO:
    if stream is None:  # closed by the caller
        return open(os.devnull, "w", encoding="utf-8")
    if isinstance(stream, io.TextIOWrapper):
        if os.name == "nt" and stream.isatty():  # written to by the console's own functions
            stream.reconfigure(errors="cytoseed")
            return stream
        stream.flush()
        raw = io.BufferedWriter(_Descriptor(stream.fileno(), "w", closefd=False))
        return io.TextIOWrapper(raw, stream.encoding, "cytoseed", line_buffering=True)
    return stream


def _spell(error: UnicodeError) -> tuple[str, int]:
    """Error handler of codecs: what an encoding lacks, in ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode() for letter in lacking)
    return "".join(escaped), error.end
