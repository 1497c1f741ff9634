"""A lighter network out of a heavier one: which channels it keeps, and what a teacher's fields pull at."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from cytoseed.core.model import Segmenter
from cytoseed.core.network import UNet
from cytoseed.learn.distil import copy_strongest_channels, narrow_model, teacher_loss
from cytoseed.models.weights import Model
from cytoseed.settings import ModelConfig

BUILDS = {
    "ours": {"convolutions": 2, "shuffle": 2},
    "paper": {"convolutions": 4, "shuffle": 1},
}


def unet(build: str, widths: tuple[int, ...], detail: int = 4) -> UNet:
    torch.manual_seed(sum(widths))
    network = UNet(3, 5, widths, detail=detail, **BUILDS[build])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.2)
    return network.eval()


def silence(network: UNet, widths: tuple[int, ...], detail: int) -> None:
    """Make some channels of every level give 0, wherever they come from: all but so many."""
    generator = torch.Generator().manual_seed(4)
    silent: dict[tuple[str, int], torch.Tensor] = {}

    def chosen(group: str, size: int, kept: int) -> torch.Tensor:
        """The same channels for all that are summed."""
        return silent.setdefault((group, size), torch.randperm(size, generator=generator)[kept:])

    steps = len(network.up)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            part, layer = name.split(".")[:2], name.split(".")[2]
            if part[0] == "refine":
                group, kept = "detail", detail
            elif part[0] == "up" and layer == "first":  # where the skip is added
                level = steps - 1 - int(part[1])
                group, kept = f"down.{level}", widths[level]
            else:
                level = int(part[1]) if part[0] == "down" else steps - 1 - int(part[1])
                inner = layer == "first" or (layer == "rest" and name.split(".")[3] == "0")
                group, kept = f"{part[0]}.{part[1]}{layer if inner else ''}", widths[level]
            gone = chosen(group, module.weight.shape[0], kept)
            module.weight.data[gone] = 0
            module.bias.data[gone] = 0
    if network.shuffle > 1:
        spread = network.refine.spread
        rows = (4 * chosen("detail", spread.weight.shape[0] // 4, detail)[:, None] + torch.arange(4)).flatten()
        spread.weight.data[rows] = 0
        spread.bias.data[rows] = 0


@torch.no_grad()
@pytest.mark.parametrize("build", BUILDS)
def test_channels_that_tell_nothing_are_left_out(build):
    wide, slim = unet(build, (6, 9, 12), detail=5), unet(build, (4, 6, 8), detail=3)
    silence(wide, (4, 6, 8), 3)
    before = copy.deepcopy(wide.state_dict())
    image = torch.rand(1, 3, 32, 16)
    wanted = wide(image)
    copy_strongest_channels(wide, slim)
    torch.testing.assert_close(slim(image), wanted, atol=1e-5, rtol=1e-5)
    for name, value in wide.state_dict().items():
        assert torch.equal(value, before[name])


def test_what_cannot_be_narrowed_is_refused():
    with pytest.raises(ValueError, match="has 6 channels where the other has 4; choose a narrower one"):
        copy_strongest_channels(unet("ours", (4, 6)), unet("ours", (6, 6)))
    for other in (unet("paper", (4, 6)), unet("ours", (4, 6, 8))):
        with pytest.raises(ValueError, match="networks are built differently"):
            copy_strongest_channels(unet("ours", (4, 6)), other)


def test_a_narrowed_model_keeps_its_classifiers():
    torch.manual_seed(0)
    config = ModelConfig("wide", positional_dims=2, conditional_dims=1, classifier_widths=(3,), sha256="1" * 64)
    wide = Model(config, Segmenter(config).eval())
    slim = narrow_model(wide, "slim")
    assert slim.config == dataclasses.replace(config, network="slim", sha256="")  # the weights are others
    pairs = zip(*(model.segmenter.classifiers.parameters() for model in (slim, wide)), strict=True)
    assert all(torch.equal(own, other) for own, other in pairs)
    counts = [sum(p.numel() for p in model.segmenter.network.parameters()) for model in (slim, wide)]
    assert counts[0] < 0.85 * counts[1]


@pytest.fixture
def teacher() -> Segmenter:
    torch.manual_seed(1)
    config = ModelConfig("teacher", positional_dims=2, conditional_dims=2, classifier_widths=(3,))
    return Segmenter(config).eval().requires_grad_(False)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Fields of one target with an object in a corner of 40 x 40 px; below it, nothing is annotated."""
    fields = torch.rand(1, 1, 5, 40, 40, generator=torch.Generator().manual_seed(2))
    labels = torch.zeros(1, 1, 40, 40, dtype=torch.int64)
    labels[..., :6, :6] = 1
    labels[..., 20:, :20] = -1
    return fields, labels


def test_the_teachers_own_fields_cost_nothing(teacher):
    fields, labels = scene()
    assert float(teacher_loss(teacher, fields, fields, labels)) == 0


def test_the_seed_map_counts_on_its_scale(teacher):
    fields, labels = scene()
    other = fields.clone()
    other[:, :, -1] += 0.1
    assert float(teacher_loss(teacher, other, fields, labels)) == pytest.approx(1.5, rel=1e-4)


@pytest.mark.parametrize(("channel", "seeded"), [(0, True), (2, False)])
def test_embeddings_count_as_the_classifier_sees_them(teacher, channel, seeded):
    fields, labels = scene()
    labels[labels < 0] = 0
    fields[:, :, -1] = 0.5
    other = fields.clone()
    other[:, :, channel] += 0.1
    seen = 0.1 * teacher.classifiers[0].first.weight[:, channel].abs().mean()
    wanted = float(seen * 1.5 if seeded else seen)  # P also as the P of a seed, half of one here
    assert float(teacher_loss(teacher, other, fields, labels)) == pytest.approx(wanted, rel=1e-4)


def test_what_is_far_counts_less_and_what_is_unknown_not_at_all(teacher):
    fields, labels = scene()

    def cost(row: int, column: int) -> float:
        other = fields.clone()
        other[0, 0, -1, row, column] += 0.1
        return float(teacher_loss(teacher, other, fields, labels))

    near, beside, far, unknown = cost(2, 2), cost(12, 2), cost(2, 30), cost(30, 2)
    assert near == pytest.approx(beside, rel=1e-4)
    assert far == pytest.approx(0.1 * near, rel=1e-3)
    assert unknown == 0


def test_it_pulls_at_the_learner_alone(teacher):
    fields, labels = scene()
    teacher.requires_grad_(True)
    learner = (fields + 0.1).requires_grad_()
    teacher_loss(teacher, learner, fields, labels).backward()
    assert bool((learner.grad[0, 0, :, :6, :6] != 0).all())
    assert all(parameter.grad is None for parameter in teacher.parameters())
