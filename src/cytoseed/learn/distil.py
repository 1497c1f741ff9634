"""Distillation: a light network starts from the strongest channels of a heavier one and is trained on its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cytoseed.core.model import Segmenter
from cytoseed.core.network import UNet
from cytoseed.models.weights import Model

_CELL_PX = 4  # cells in which distance to objects is measured
_NEAR_CELLS = 2
_FAR_WEIGHT = 0.1  # weight of pixels further than _NEAR_CELLS from every object
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


def teacher_loss(teacher: Segmenter, fields: Tensor, target: Tensor, labels: Tensor) -> Tensor:
    """Difference of fields from the teacher's `target`, as far as the teacher's pixel classifier depends on it.

    Weighted mean of the differences of the seed map, times 15, and of the output of the classifier's first layer for P
    and E of each pixel and for P of likely seeds. Fields are (N, T, F, H, W), `labels` (N, T, H, W); -1 is ignored.
    """
    near = F.max_pool2d((labels > 0).float(), _CELL_PX, ceil_mode=True)
    near = F.max_pool2d(near, 2 * _NEAR_CELLS + 1, 1, _NEAR_CELLS)
    near = F.interpolate(near, scale_factor=_CELL_PX)[..., : labels.shape[-2], : labels.shape[-1]]
    weight = (_FAR_WEIGHT + (1 - _FAR_WEIGHT) * near) * (labels >= 0)
    errors = []
    for index, classifier in enumerate(teacher.classifiers):
        first: Tensor = classifier.first.weight.detach()  # type: ignore[operator, union-attr]
        dims = teacher.positional_dims
        difference = (fields[:, index] - target[:, index]).transpose(0, 1)  # (F, N, H, W)
        of_seed = torch.tensordot(first[:, :dims], difference[:dims], 1)
        of_pixel = of_seed + torch.tensordot(first[:, dims:], difference[dims:-1], 1)
        is_seed = target[:, index, -1].clamp(0, 1)
        errors.append(of_pixel.abs().mean(0) + is_seed * of_seed.abs().mean(0) + 15 * difference[-1].abs())
    total = weight.sum().clamp(min=1)
    return (torch.stack(errors, 1) * weight).sum() / total


def narrow_model(model: Model, network: str) -> Model:
    """Untrained model with a lighter network of the same build, filled with the strongest channels of `model`."""
    config = dataclasses.replace(model.config, network=network, sha256="")
    segmenter = Segmenter(config).eval()
    copy_strongest_channels(model.segmenter.network, segmenter.network)
    segmenter.classifiers.load_state_dict(model.segmenter.classifiers.state_dict())
    return Model(config, segmenter)


def copy_strongest_channels(wide: UNet, narrow: UNet) -> None:
    """Fill a network with the strongest channels of a wider, not folded one of the same build.

    A channel is strong if its values and the weights it meets are large. Channels that are summed are kept together.
    """
    before, after = wide.state_dict(), narrow.state_dict()
    if before.keys() != after.keys():
        raise ValueError("the networks are built differently; choose one with the same layers and fewer channels")
    layers = list(_layers(wide))
    kept: dict[str, Tensor] = {}
    for group in dict.fromkeys(name for layer in layers for name in (layer.inputs, layer.outputs)):
        strength, size = _strength(before, layers, group), len(_strength(after, layers, group))
        if size > len(strength):
            raise ValueError(f"network has {size} channels where the other has {len(strength)}; choose a narrower one")
        kept[group] = strength.topk(size).indices.sort().values
    for layer in layers:
        rows = (kept[layer.outputs][:, None] * layer.times + torch.arange(layer.times)).flatten()
        weight = before[f"{layer.conv}.weight"][rows][:, kept[layer.inputs]]
        after[f"{layer.conv}.weight"].copy_(weight)
        for name in [f"{layer.conv}.bias", *(f"{layer.norm}.{of}" for of in _STATISTICS)]:
            if name in before:
                after[name].copy_(before[name][rows])


class _Layer(NamedTuple):
    """Names of a convolution and its normalisation, and the groups of channels that it connects."""

    conv: str
    norm: str
    inputs: str
    outputs: str
    times: int = 1  # kernel rows per output channel: more than one if they are unfolded into pixels


def _layers(network: UNet) -> Iterator[_Layer]:
    """All convolutions of a network; channels of one group are the same channels, or are summed."""
    group = "image" if network.shuffle == 1 else "folded"
    for level in range(len(network.down)):
        yield from _block(network, f"down.{level}", group, f"down.{level}.inner")
        group = f"down.{level}"
    for step in range(len(network.up)):
        yield from _block(network, f"up.{step}", group, f"down.{len(network.up) - 1 - step}")  # where the skip is added
        group = f"up.{step}"
    if network.shuffle > 1:
        yield _Layer("refine.spread", "", group, "detail", network.shuffle**2)
        yield _Layer("refine.look.conv", "refine.look.norm", "image", "detail")
        yield _Layer("refine.last.conv", "refine.last.norm", "detail", "detail")
        group = "detail"
    yield _Layer("head", "", group, "fields")


def _block(network: UNet, name: str, inputs: str, inner: str) -> Iterator[_Layer]:
    links = [("project", inputs, name), ("first", inputs, inner), ("second", inner, name)]
    rest = network.convolutions - 2
    groups = [name, *(f"{name}.rest.{depth}" for depth in range(1, rest)), name]
    links += [(f"rest.{depth}", groups[depth], groups[depth + 1]) for depth in range(rest)]
    for layer, into, out in links:
        yield _Layer(f"{name}.{layer}.conv", f"{name}.{layer}.norm", into, out)


def _strength(state: dict[str, Tensor], layers: list[_Layer], group: str) -> Tensor:
    """Strength of each channel of a group: the size of its values times that of the weights it meets."""
    values = weights = torch.zeros(1)
    for layer in layers:
        weight = state[f"{layer.conv}.weight"]
        if layer.inputs == group:
            weights = weights + weight.square().sum([0, 2, 3])
        if layer.outputs == group and layer.norm:
            values = values + state[f"{layer.norm}.weight"].square() + state[f"{layer.norm}.bias"].square()
        elif layer.outputs == group:
            values = values + weight.square().sum([1, 2, 3]).view(-1, layer.times).sum(1)
    return values * weights if bool(values.any()) else weights + torch.zeros_like(values)
