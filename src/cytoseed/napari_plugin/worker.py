"""Segmentation in a thread, with progress, that can be cancelled between tiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari.qt.threading import WorkerBase, WorkerBaseSignals
from qtpy.QtCore import Signal

from cytoseed.images import Image
from cytoseed.results import Result


class _Signals(WorkerBaseSignals):  # type: ignore[misc]
    notice = Signal(str)
    advanced = Signal(int, int, int)  # tiles that are done, all tiles, objects found


class _Cancelled(Exception):  # noqa: N818 - not an error
    """Ends a segmentation whose user does not want it any more."""


class SegmentWorker(WorkerBase):  # type: ignore[misc]
    """Segments an image; the signal `returned` has the result, and is not sent where it was cancelled."""

    def __init__(self, image: Image, model: str, settings: Mapping[str, Any]) -> None:
        super().__init__(SignalsClass=_Signals)
        self._image, self._model, self._settings = image, model, settings

    def work(self) -> Result | None:
        """Segment, in the worker's thread; None where it was cancelled."""
        from cytoseed.run.api import segment
        from cytoseed.run.slide import Callbacks, Progress

        def advance(progress: Progress) -> None:
            if self.abort_requested:
                raise _Cancelled
            self.advanced.emit(progress.done, progress.total, progress.objects)

        try:
            calls = Callbacks(self.notice.emit, advance)
            result = segment(self._image, self._model, callbacks=calls, **self._settings)
        except _Cancelled:
            return None
        return None if self.abort_requested else result
