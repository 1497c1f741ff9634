"""A model whose objects are known: each bright blob of an image is one."""

import torch

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model
from cytoseed.settings import ModelConfig


def bright_segmenter(channels: int = 1, targets: tuple[str, ...] = ("nuclei",)) -> Segmenter:
    """Segmenter of the `lite` architecture whose weights say: pixels whose mean normalised value is above 0.5.

    The image passes through the finest layer alone; the seed map and the embedding E are the image itself, and phi
    is E - 0.5.
    """
    segmenter = Segmenter(bright_config(channels, targets)).eval()
    network = segmenter.network
    with torch.no_grad():
        network.refine.spread.weight.zero_()
        network.refine.spread.bias.zero_()
        network.refine.last.conv.weight.zero_()
        network.refine.look.conv.weight.zero_()
        network.refine.look.conv.weight[0, :, 1, 1] = 1 / channels
        network.head.weight.zero_()
        network.head.bias.zero_()
        for first in range(0, len(network.head.bias), segmenter.field_count):
            network.head.weight[first + 2, 0] = 1.0  # after Dp = 2: E
            network.head.weight[first + 3, 0] = 15.0  # S = raw / 15 + 0.5
            network.head.bias[first + 3] = -7.5
        for classifier in segmenter.classifiers:
            classifier.first.weight.zero_()
            classifier.first.weight[0, 2] = 1.0
            classifier.first.bias.zero_()
            classifier.layers[0].weight.fill_(1.0)
            classifier.layers[0].bias.fill_(-0.5)
    return segmenter


def bright_config(channels: int = 1, targets: tuple[str, ...] = ("nuclei",)) -> ModelConfig:
    return ModelConfig(
        name="bright",
        channels=channels,
        targets=targets,
        positional_dims=2,
        conditional_dims=1,
        classifier_widths=(1,),
        min_size_px=4,
    )


GREY = Model(bright_config(), bright_segmenter())
RGB = Model(bright_config(3), bright_segmenter(3))
