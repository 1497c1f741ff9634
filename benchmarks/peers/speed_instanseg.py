"""The published InstanSeg as its users run it, for benchmarks/speed.py: `eval_small_image` of instanseg-torch.

That runs the exported TorchScript with its defaults. The network has the published widths, the image's number of
channels, the paper's best embedding (4 + 4 dimensions) and random weights, on which its time does not depend. Its
output is replaced by that of `nuclei-paper`, whose pixel classifier it gets too: it has the same nuclei to find.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from speed_adapter import Request, Settings, Stopwatch, serve
from torch import Tensor, nn

WIDTHS = [256, 128, 64, 32]
POSITIONAL, CONDITIONAL, SEEDS = 4, 4, 1
PHI_WIDTH = 5

WATCH = Stopwatch()
"""One for the process: scripted code calls it by functions without arguments."""


@torch.jit.ignore
def _begin() -> None:
    WATCH.begin()


@torch.jit.ignore
def _end() -> None:
    WATCH.end()


class Watched(nn.Module):
    """A network that runs, is timed, and then returns the given fields."""

    fields: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.fields = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        _begin()
        fields = self.network(x)
        _end()
        if self.fields.shape[0] > 0:
            fields = self.fields
        return fields


class InstanSeg:
    """instanseg-torch with a network for grey and one for RGB images, made when first needed."""

    def __init__(self, settings: Settings) -> None:
        _declare_torchvision_operators()
        torch.set_num_threads(settings.threads)
        self.versions = {"instanseg-torch": version("instanseg-torch"), "torch": torch.__version__}
        self.watch = WATCH
        self._settings = settings
        self._device = torch.device(settings.device)
        if self._device.type == "cuda":
            self.watch.wait = torch.cuda.synchronize
        self._models: dict[int, Any] = {}
        self._fields = torch.zeros(0)

    def prepare(self, request: Request) -> None:
        from instanseg.utils.tiling import _instanseg_padding

        assert request.fields is not None
        fields = torch.from_numpy(np.load(request.fields))[None]
        fields[:, :POSITIONAL] *= 2  # 4 tanh(p) is 8 (sigmoid(2 p) - 0.5)
        self._fields = _instanseg_padding(fields.to(self._device), extra_pad=0, min_dim=16)[0]
        self._model(1 if np.load(request.image, mmap_mode="r").ndim == 2 else 3)

    def segment(self, image: NDArray[Any]) -> NDArray[Any]:
        model = self._model(1 if image.ndim == 2 else 3)
        model.instanseg.fcn.fields = self._fields
        labels = model.eval_small_image(image, return_image_tensor=False)
        return np.asarray(labels[0, 0].cpu().numpy(), dtype=np.int32)

    def _model(self, channels: int) -> Any:
        if channels not in self._models:
            self._models[channels] = self._build(channels)
        return self._models[channels]

    def _build(self, channels: int) -> Any:
        from instanseg.inference_class import InstanSeg as Inference
        from instanseg.utils.loss.instanseg_loss import InstanSeg as Loss
        from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript
        from instanseg.utils.models.InstanSeg_UNet import InstanSeg_UNet

        torch.manual_seed(1)
        dims = {"n_sigma": CONDITIONAL, "dim_coords": POSITIONAL, "dim_seeds": SEEDS}
        network = InstanSeg_UNet(channels, [[POSITIONAL, CONDITIONAL, SEEDS]], layers=WIDTHS).eval()
        method = Loss(window_size=128, device=self._device, **dims)
        network = method.initialize_pixel_classifier(network, MLP_width=PHI_WIDTH)
        with np.load(self._settings.phi) as weights:
            network.pixel_classifier.load_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})
        whole = InstanSeg_Torchscript(network, backbone_dim_in=channels, **dims)
        whole.fcn = Watched(whole.fcn)
        example = torch.rand(1, channels, 256, 256)
        return Inference(torch.jit.script(whole, example), device=self._settings.device, verbosity=0)


def _declare_torchvision_operators() -> None:
    """Let torchvision's CUDA wheel, of which nothing is used, load beside a CPU torch."""
    if torch.version.cuda is None:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


if __name__ == "__main__":
    serve(InstanSeg)
