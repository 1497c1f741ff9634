"""A lighter network from a heavier one: start from its most telling channels, and learn from its fields."""

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
from cytoseed.settings import ModelConfig

_CELL_PX = 4  # nearness is told in cells of so many pixels
_NEAR_CELLS = 2  # a pixel further than this from every object hardly matters to any of them
_FAR_WEIGHT = 0.1


class Taught(NamedTuple):
    """A model to train, and the one that teaches it."""

    model: ModelConfig | Model
    """A configuration starts from random weights and its teacher's pixel classifiers, a model from its own weights."""
    teacher: Model
    """Its fields are what to come close to as well: they must mean the same to both pixel classifiers."""


def teacher_loss(teacher: Segmenter, fields: Tensor, taught: Tensor, labels: Tensor) -> Tensor:
    """How far fields are from a teacher's, as far as its pixel classifier can tell.

    Compared are the seed map, on the scale of 15 (d - 0.5), and what the classifier's first layer makes of P and E: of
    a pixel's, and of the P of those that could be seeds.

    Parameters
    ----------
    teacher : Segmenter
        Its classifiers are used, and not changed.
    fields, taught : Tensor, shape (N, T, F, H, W), float32
        What `Segmenter.fields` of the learner and of the teacher returned.
    labels : Tensor, shape (N, T, H, W), int
        Ids of objects, 0 for background, -1 for pixels that count in no term.

    Returns
    -------
    Tensor
        Scalar, a weighted mean over pixels and targets.
    """
    near = F.max_pool2d((labels > 0).float(), _CELL_PX, ceil_mode=True)
    near = F.max_pool2d(near, 2 * _NEAR_CELLS + 1, 1, _NEAR_CELLS)
    near = F.interpolate(near, scale_factor=_CELL_PX)[..., : labels.shape[-2], : labels.shape[-1]]
    weight = (_FAR_WEIGHT + (1 - _FAR_WEIGHT) * near) * (labels >= 0)
    errors = []
    for target, classifier in enumerate(teacher.classifiers):
        first: Tensor = classifier.first.weight.detach()  # type: ignore[operator, union-attr]
        dims = teacher.positional_dims
        apart = (fields[:, target] - taught[:, target]).transpose(0, 1)  # (F, N, H, W)
        of_seed = torch.tensordot(first[:, :dims], apart[:dims], 1)
        of_pixel = of_seed + torch.tensordot(first[:, dims:], apart[dims:-1], 1)
        is_seed = taught[:, target, -1].clamp(0, 1)
        errors.append(of_pixel.abs().mean(0) + is_seed * of_seed.abs().mean(0) + 15 * apart[-1].abs())
    total = weight.sum().clamp(min=1)
    return (torch.stack(errors, 1) * weight).sum() / total


def narrowed(model: Model, network: str) -> Model:
    """Make a model with a lighter network out of another one; it has yet to be trained.

    Parameters
    ----------
    model : Model
    network : str
        Name of a network of the same build (`core.network.build_network`).

    Returns
    -------
    Model
        With the same pixel classifiers.

    Raises
    ------
    ValueError
        As `narrow`, or if the name is unknown.
    """
    config = dataclasses.replace(model.config, network=network, sha256="")
    segmenter = Segmenter(config).eval()
    narrow(model.segmenter.network, segmenter.network)
    segmenter.classifiers.load_state_dict(model.segmenter.classifiers.state_dict())
    return Model(config, segmenter)


def narrow(wide: UNet, network: UNet) -> None:
    """Fill a network with the most telling channels of a wider one of the same build.

    Channels that are summed are kept or left out together. A channel tells the more, the larger the values that it
    takes and the weights that they meet.

    Parameters
    ----------
    wide : UNet
        Not folded; it stays as it is.
    network : UNet
        Its weights and statistics are replaced: by the same ones where it is as wide.

    Raises
    ------
    ValueError
        If the two are built differently, or the one to fill is the wider one somewhere.
    """
    before, after = wide.state_dict(), network.state_dict()
    if before.keys() != after.keys():
        raise ValueError("the networks are built differently: one can be narrowed only to one with the same layers")
    layers = list(_layers(wide))
    kept: dict[str, Tensor] = {}
    for group in dict.fromkeys(name for layer in layers for name in (layer.inputs, layer.outputs)):
        score, size = _telling(before, layers, group), _size(after, layers, group)
        if size > score.shape[0]:
            raise ValueError(f"the network to fill has {size} channels where the other has {score.shape[0]}")
        kept[group] = score.topk(size).indices.sort().values
    for layer in layers:
        rows = (kept[layer.outputs][:, None] * layer.times + torch.arange(layer.times)).flatten()
        weight = before[f"{layer.conv}.weight"][rows][:, kept[layer.inputs]]
        after[f"{layer.conv}.weight"].copy_(weight)
        for name in [f"{layer.conv}.bias", *(f"{layer.norm}.{of}" for of in _STATISTICS)]:
            if name in before:
                after[name].copy_(before[name][rows])


_STATISTICS = ("weight", "bias", "running_mean", "running_var")


class _Layer(NamedTuple):
    """A convolution and the normalisation behind it, by their names, and the groups of channels they join."""

    conv: str
    norm: str
    inputs: str
    outputs: str
    times: int = 1
    """Rows of the kernel to an output channel: those that are unfolded into pixels."""


def _layers(network: UNet) -> Iterator[_Layer]:
    """Every convolution of a network; channels of one group are the same channels, or summed."""
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


def _size(state: dict[str, Tensor], layers: list[_Layer], group: str) -> int:
    for layer in layers:
        if layer.outputs == group:
            return state[f"{layer.conv}.weight"].shape[0] // layer.times
    return next(state[f"{layer.conv}.weight"].shape[1] for layer in layers if layer.inputs == group)


def _telling(state: dict[str, Tensor], layers: list[_Layer], group: str) -> Tensor:
    """How much each channel of a group tells: how large it is times how large what it meets is."""
    large = torch.zeros(_size(state, layers, group))
    met = torch.zeros_like(large)
    for layer in layers:
        weight = state[f"{layer.conv}.weight"]
        if layer.inputs == group:
            met += weight.square().sum([0, 2, 3])
        if layer.outputs == group:
            if f"{layer.norm}.weight" in state:
                large += state[f"{layer.norm}.weight"].square() + state[f"{layer.norm}.bias"].square()
            else:
                large += weight.square().sum([1, 2, 3]).view(-1, layer.times).sum(1)
    return large * met if bool(large.any()) else met
