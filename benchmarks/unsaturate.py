"""Brings a model's positional embedding back from the limits of its tanh, where it has no gradient.

python benchmarks/unsaturate.py runs/model/best runs/start --datasets nuinsseg tnbc

The limit of offsets doubles. Channel 0 keeps its values; the others are centred, with a small standard deviation over
the pixels of objects. The model is to be trained on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from cytoseed.core.model import Segmenter
from cytoseed.core.scale import rescale_labels
from cytoseed.learn.samples import Sample, find_samples
from cytoseed.models.weights import Model, load_model, save_model
from cytoseed.run.api import network_image
from cytoseed.settings import SegmentOptions
from places import DATA

EVERY = 24  # of the training images, one is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name or folder")
    parser.add_argument("output", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--datasets", nargs="+")
    parser.add_argument("--std", type=float, default=0.5, help="standard deviation of the channels but the first")
    arguments = parser.parse_args()
    model, samples = load_model(arguments.model), find_samples(arguments.data, ["train"], arguments.datasets)
    raw = torch.cat([raw_positions(model, sample) for sample in samples[::EVERY]], dim=1)
    limit = model.config.offset_limit
    saturated = (raw.tanh().abs() > 0.9).float().mean(1).tolist()
    print("share of pixels beyond 0.9 of the limit:", ", ".join(f"{share:.2f}" for share in saturated))
    config = dataclasses.replace(model.config, offset_limit=2 * limit)
    state = model.segmenter.state_dict()
    weight, bias = state["network.head.weight"], state["network.head.bias"]
    for channel, (mean, std) in enumerate(zip(raw.mean(1).tolist(), raw.std(1).tolist(), strict=True)):
        scale, shift = (0.5, 0.0) if channel == 0 else (arguments.std / (2 * limit) / std, mean)
        bias[channel] = (bias[channel] - shift) * scale
        weight[channel] *= scale
    segmenter = Segmenter(config)
    segmenter.load_state_dict(state)
    print(save_model(segmenter, config, arguments.output))


@torch.inference_mode()
def raw_positions(model: Model, sample: Sample) -> torch.Tensor:
    """Channels of the positional embedding before the tanh, (Dp, pixels of objects)."""
    pixels, mask = sample.read()
    options = SegmentOptions(pixel_size_um=sample.find_pixel_size_um())
    image = network_image(pixels, model.config, options)
    height, width = image.shape[1:]
    inside = rescale_labels(torch.from_numpy(mask)[None], height, width)[0] > 0
    fields = model.segmenter.fields(image[None])[0, 0, : model.config.positional_dims]
    return (fields[:, inside] / model.config.offset_limit).clamp(-1 + 1e-6, 1 - 1e-6).atanh()


if __name__ == "__main__":
    main()
