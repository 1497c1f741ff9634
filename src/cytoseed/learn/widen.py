"""A trained model made to take any number of channels, or to find cells as well, before it is trained on."""

from __future__ import annotations

import dataclasses

import torch

from cytoseed.core.model import Segmenter
from cytoseed.models.weights import Model


def widen_model(model: Model, channels: int | str, targets: tuple[str, ...]) -> Model:
    """Copy of `model` with other channels and targets; `ValueError` where its weights do not fit.

    A new ChannelNet passes a single channel unchanged, and each target starts as what the model finds: the first
    results for a grey image are those of `model`.
    """
    config = dataclasses.replace(model.config, channels=channels, targets=targets, sha256="", score_calibration=())
    old, new = model.config, Segmenter(config).eval()
    if old.fixed_channels != config.fixed_channels and (old.fixed_channels != 3 or config.fixed_channels != 0):
        raise ValueError(f"channels is {channels!r}, and model {old.name!r} takes {old.channels}; give that, or any")
    if len(old.targets) > len(targets):
        raise ValueError(f"targets is {targets!r}, and model {old.name!r} finds {old.targets!r}; give a new network")
    times = len(targets) // len(old.targets)
    state = new.state_dict()
    for name, values in model.segmenter.state_dict().items():
        if name.startswith("network.head."):
            values = torch.cat([values] * times)  # noqa: PLW2901
        for target in range(times):
            state[name.replace("classifiers.0.", f"classifiers.{target}.")] = values
    new.load_state_dict(state)
    return Model(config, new)
