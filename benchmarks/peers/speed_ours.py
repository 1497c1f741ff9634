"""cytoseed as its users run it, for benchmarks/speed.py: `cytoseed.segment` of an array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from speed_adapter import Request, Settings, Stopwatch, serve

import cytoseed
import cytoseed.core.model
from cytoseed.core.pixels import PixelClassifier
from cytoseed.models.weights import load_model
from cytoseed.run.engine import Engine
from cytoseed.settings import SegmentOptions

STAGES = {
    "find_seeds": "seeds",
    "maps": "maps",
    "agreeing_seeds": "merge",
    "paint": "merge",
    "whole_objects": "pieces",
}
"""Functions after the network, and their stages."""


class Ours:
    """One of our models in one precision."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self.versions = {"cytoseed": cytoseed.__version__, "torch": torch.__version__}
        self.watch = Stopwatch(torch.cuda.synchronize if settings.device == "cuda" else lambda: None)
        self._model = load_model(settings.model)
        self._options = SegmentOptions(device=settings.device, precision=settings.precision)
        self._watch_stages()

    def prepare(self, request: Request) -> None:
        """Does nothing: our networks are trained."""

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        return cytoseed.segment(image, self._model, self._options).labels

    def _watch_stages(self) -> None:
        views = Engine.views

        @functools.wraps(views)
        def watched(*arguments: Any, **options: Any) -> Any:
            self.watch.begin()
            result = views(*arguments, **options)
            self.watch.end()
            return result

        Engine.views = watched  # type: ignore[method-assign]
        for name, stage in STAGES.items():
            owner = PixelClassifier if name == "maps" else cytoseed.core.model
            setattr(owner, name, _timed(getattr(owner, name), self.watch, stage))


def _timed(function: Callable[..., Any], watch: Stopwatch, stage: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        with watch.stage(stage):
            return function(*arguments, **options)

    return timed


if __name__ == "__main__":
    serve(Ours)
