"""Small models whose objects are known, for export."""

import dataclasses

import torch

from bright import bright_config, bright_segmenter
from cytoseed.core.model import Segmenter, Thresholds
from cytoseed.models.weights import Model


def small_model(channels: int = 1, targets: tuple[str, ...] = ("nuclei",), **changed: object) -> Model:
    """A bright model (`bright.py`) whose windows do not grow, with other settings where given."""
    config = dataclasses.replace(bright_config(channels, targets), max_window_px=32, **changed)
    segmenter = Segmenter(config).eval()
    segmenter.load_state_dict(bright_segmenter(channels, targets).state_dict())
    return Model(config, segmenter)


def discs(height: int, width: int, *places: tuple[float, ...]) -> torch.Tensor:
    """An image (1, 1, H, W) of discs given as row, column, radius and brightness; the brightest counts."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.zeros(height, width)
    for row, column, radius, value in places:
        image = torch.maximum(image, value * ((rows - row) ** 2 + (columns - column) ** 2 < radius**2).float())
    return image[None, None]


def wanted(model: Model, image: torch.Tensor, **changed: object) -> torch.Tensor:
    """Labels by the segmenter itself, with other thresholds and options where given."""
    segmenter = model.segmenter
    thresholds = {name: value for name, value in changed.items() if name in Thresholds._fields}
    options = {name: value for name, value in changed.items() if name not in thresholds}
    with torch.inference_mode():
        fields = segmenter.fields(image)
        chosen = segmenter.default_options._replace(**options)
        return segmenter.labels(fields, segmenter.thresholds._replace(**thresholds), chosen)


def args(**options: object) -> dict[str, torch.Tensor]:
    """Options as the extension passes them: whole numbers int32, others float32, with a batch axis."""
    kinds = {bool: torch.bool, int: torch.int32, float: torch.float32}
    return {
        name: value if isinstance(value, torch.Tensor) else torch.tensor([value], dtype=kinds[type(value)])
        for name, value in options.items()
    }


def count(labels: torch.Tensor) -> int:
    """Objects, after checking that ids are 1 to K."""
    ids = labels.unique()
    assert torch.equal(ids[ids > 0], torch.arange(1, len(ids[ids > 0]) + 1).to(ids))
    return int(labels.max())
