"""Fields as a perfect network would make them, and a classifier that reads them exactly."""

import torch
from torch import Tensor

from cytoseed.core.model import Segmenter
from cytoseed.settings import ModelConfig


def ideal_segmenter(**settings: object) -> Segmenter:
    """A segmenter whose classifier says: |Q_ij - Q^k| < 0.5 units in the L1 norm."""
    values: dict = {
        "name": "ideal",
        "positional_dims": 2,
        "conditional_dims": 0,
        "classifier_widths": (4,),
        "offset_limit": 100.0,
        "min_size_px": 1,
        **settings,
    }
    model = Segmenter(ModelConfig(**values)).eval()
    for classifier in model.classifiers:
        with torch.no_grad():
            classifier.first.weight.copy_(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]))
            classifier.first.bias.zero_()
            classifier.layers[0].weight.fill_(-1.0)
            classifier.layers[0].bias.fill_(0.5)
    return model


def ideal_fields(labels: Tensor, model: Segmenter) -> Tensor:
    """Fields (1, 1, 3, H, W) in which each object's pixels point to its mean, and S peaks once in each object."""
    step = model.classifiers[0].grid_step
    height, width = labels.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    fields = torch.zeros(3, height, width)
    fields[0] = 1000.0 + 7 * columns  # background: far from everything
    fields[2] = 0.0
    for value in labels.unique().tolist():
        if value == 0:
            continue
        mask = labels == value
        y, x = rows[mask].float(), columns[mask].float()
        fields[0][mask] = (x.mean() + 3 * value - x) * step  # 3 * value keeps touching objects apart
        fields[1][mask] = (y.mean() + 5 * value - y) * step
        nearest = ((y - y.mean()) ** 2 + (x - x.mean()) ** 2).argmin()
        seed_map = torch.full_like(y, 0.4)
        seed_map[nearest] = 1.0
        fields[2][mask] = seed_map
    return fields[None, None]
