"""Cellpose 3 as its users run it, for benchmarks/speed.py: `CellposeModel.eval` with its defaults.

The network is that of `cyto3` and `nuclei`, with random weights, on which its time does not depend. Its output is
replaced by that of a perfect network, the flows that Cellpose makes of the true masks for its training. The diameter is
that of the training, so that no image is resized: at the 17 px of these nuclei `cyto3` would enlarge the image to three
times its pixels, and an estimated diameter takes one more pass.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speed_adapter import Request, Settings, Stopwatch, serve

FLOW_SCALE = 5.0  # the network is trained on five times the flow
INSIDE_LOGIT = 6.0  # of the probability that a pixel is in a cell


class Cellpose:
    """Cellpose's model with its network timed."""

    def __init__(self, settings: Settings) -> None:
        import torch
        from cellpose import models

        torch.set_num_threads(settings.threads)
        torch.manual_seed(1)
        self.versions = {"cellpose": version("cellpose"), "torch": torch.__version__}
        self.watch = Stopwatch()
        self._ideal: NDArray[Any] | None = None
        self._model = models.CellposeModel(gpu=settings.device != "cpu", pretrained_model=False)
        run_net = models.run_net

        def watched(*arguments: Any, **options: Any) -> Any:
            self.watch.begin()
            outputs, styles = run_net(*arguments, **options)
            self.watch.end()
            if self._ideal is not None:
                outputs[0] = self._ideal  # (H, W, 3)
            return outputs, styles

        models.run_net = watched

    def prepare(self, request: Request) -> None:
        cache = request.truth.with_suffix(".cellpose.npy")
        if not cache.exists():
            np.save(cache, _ideal(np.load(request.truth), self._model.device))
        self._ideal = np.load(cache)

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        labels: NDArray[Any] = self._model.eval(image, channels=[0, 0])[0]
        return labels


def _ideal(truth: NDArray[Any], device: Any) -> NDArray[np.float32]:
    """Training targets of the network, (H, W, 3): flow down, flow right, logit of being inside."""
    from cellpose import dynamics

    if truth.max() > 0:
        flow = dynamics.labels_to_flows([truth.astype(np.int32)], device=device)[0][2:4]
    else:
        flow = np.zeros((2, *truth.shape))
    inside = np.where(truth > 0, INSIDE_LOGIT, -INSIDE_LOGIT)
    return np.stack([FLOW_SCALE * flow[0], FLOW_SCALE * flow[1], inside], axis=-1).astype(np.float32)


if __name__ == "__main__":
    serve(Cellpose)
