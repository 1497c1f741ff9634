"""StarDist 2D as its users run it, for benchmarks/speed.py: grid (2, 2), 32 rays, as both published 2D models have.

The network has random weights, on which its time does not depend. Its output is replaced by that of a perfect network,
StarDist's own training targets of the image's true nuclei. Grey images get a network of one channel and the thresholds
of `2D_versatile_fluo`, RGB images a network of three channels and those of `2D_versatile_he`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from speed_adapter import Request, Settings, Stopwatch, serve

GRID = (2, 2)
RAYS = 32
THRESHOLDS = {1: {"prob": 0.479071, "nms": 0.3}, 3: {"prob": 0.692478, "nms": 0.3}}


class _Ideal(NamedTuple):
    probability: NDArray[np.float32]  # (h, w, 1), at the grid
    distance: NDArray[np.float32]  # (h, w, 32), at the grid


class _Watched:
    """A Keras model that runs, is timed, and then returns the ideal output."""

    def __init__(self, model: Any, watch: Stopwatch) -> None:
        self._model, self._watch = model, watch
        self.ideal: _Ideal | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def predict(self, x: NDArray[Any], **options: Any) -> Any:
        self._watch.begin()
        outputs = self._model.predict(x, **options)
        self._watch.end()
        if self.ideal is None:
            return outputs
        for output, ideal in zip(outputs, self.ideal, strict=True):
            output[:] = 0  # the padding has no nuclei
            output[0, : ideal.shape[0], : ideal.shape[1]] = ideal
        return outputs


class StarDist:
    """StarDist 2D with a network for grey and one for RGB images, made when first needed."""

    def __init__(self, settings: Settings) -> None:
        import stardist
        import tensorflow as tf

        if settings.device == "cpu":
            tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
        tf.config.threading.set_inter_op_parallelism_threads(settings.threads)
        tf.keras.utils.set_random_seed(1)
        self.versions = {"stardist": stardist.__version__, "tensorflow": tf.__version__}
        self.watch = Stopwatch()
        self._models: dict[int, Any] = {}

    def prepare(self, request: Request) -> None:
        image = np.load(request.image, mmap_mode="r")
        model = self._model(1 if image.ndim == 2 else image.shape[2])
        cache = request.truth.with_suffix(".stardist.npz")
        if not cache.exists():
            probability, distance = _ideal(np.load(request.truth))
            np.savez(cache, probability=probability, distance=distance)
        with np.load(cache) as arrays:
            model.keras_model.ideal = _Ideal(arrays["probability"], arrays["distance"])

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        from csbdeep.utils import normalize

        model = self._model(1 if image.ndim == 2 else image.shape[2])
        labels: NDArray[Any] = model.predict_instances(normalize(image, 1, 99.8, axis=(0, 1)))[0]
        return labels

    def _model(self, channels: int) -> Any:
        if channels not in self._models:
            from stardist.models import Config2D, StarDist2D

            config = Config2D(n_channel_in=channels, n_rays=RAYS, grid=GRID)
            model = StarDist2D(config, name="speed", basedir=None)
            model.thresholds = THRESHOLDS[channels]
            model.keras_model = _Watched(model.keras_model, self.watch)
            self._models[channels] = model
        return self._models[channels]


def _ideal(truth: NDArray[Any]) -> _Ideal:
    """StarDist's own training targets."""
    from stardist.geometry import star_dist
    from stardist.utils import edt_prob

    probability = edt_prob(truth)[:: GRID[0], :: GRID[1], None]
    return _Ideal(probability.astype(np.float32), star_dist(truth, RAYS, grid=GRID).astype(np.float32))


if __name__ == "__main__":
    serve(StarDist)
