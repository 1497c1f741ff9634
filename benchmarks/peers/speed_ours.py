"""cytoseed as its users run it, for benchmarks/speed.py: `cytoseed.segment` of an array."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speed_adapter import Request, Settings, Stopwatch, serve

import cytoseed
import cytoseed.core.model
from cytoseed.core.pixels import PixelClassifier
from cytoseed.core.prepare import fit_channels, normalise
from cytoseed.models.weights import load_model
from cytoseed.run.engine import Engine, choose_device
from cytoseed.settings import SegmentOptions

STAGES = {
    "find_seeds": "seeds",
    "maps": "maps",
    "agreeing_seeds": "merge",
    "paint": "merge",
    "whole_objects": "pieces",
}
"""Functions after the network, and the stage that each belongs to."""


class Ours:
    """One of our models in one precision."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        self.versions = {"cytoseed": cytoseed.__version__, "torch": torch.__version__}
        self.watch = Stopwatch(torch.cuda.synchronize if settings.device == "cuda" else lambda: None)
        self._model = load_model(settings.model)
        self._options = SegmentOptions(device=settings.device, precision=settings.precision)
        self._engine: Engine | None = None
        self._watch_stages()

    def prepare(self, request: Request) -> None:
        """Nothing: our networks are trained."""

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        return cytoseed.segment(image, self._model, self._options).labels

    def segment_batch(self, images: NDArray[Any]) -> NDArray[Any]:
        """Segment a batch on the device, as `segment` does with its tiles, without stitching them."""
        if self._engine is None:
            device = choose_device(self._options.device)
            self._engine = Engine(self._model.segmenter, device, self._options.precision)
        planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        batch = torch.from_numpy(np.ascontiguousarray(planes)).to(self._engine.device)
        channels = self._model.config.channels
        views = self._engine.views(torch.stack([fit_channels(normalise(image), channels) for image in batch]))
        thresholds = self._model.segmenter.thresholds
        labels = [self._engine.labels_of_views(views[:, i : i + 1], thresholds)[0] for i in range(len(batch))]
        return torch.stack(labels).numpy()

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
