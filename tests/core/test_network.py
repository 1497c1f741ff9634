"""The backbones: size, cost, and what they may not depend on."""

import copy

import pytest
import torch
from torch import nn

from cytoseed.core.network import REACH, STRIDE, UNet, build_network, count_flops

NAMES = list(STRIDE)


def settled(network: nn.Module) -> nn.Module:
    """The network in eval mode, with random statistics and factors in each normalisation, as after training."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            module.weight.data = 0.5 + torch.rand(shape, generator=generator)
            module.bias.data = 0.2 * torch.randn(shape, generator=generator)
            module.running_mean = 0.2 * torch.randn(shape, generator=generator)
            module.running_var = 0.5 + torch.rand(shape, generator=generator)
    return network.eval()


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return settled(build_network(name, 3, 5))


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_paper_network_has_the_size_of_the_paper():
    network = build_network("paper", 3, 9)
    assert 3.7e6 <= parameters(network) <= 3.9e6
    growing = zip((32, 64, 128), (256, 128, 64), (128, 64, 32), strict=True)  # coarse side, channels in and out
    spared = sum(3 * 2 * side**2 * ins * outs for side, ins, outs in growing)  # the paper enlarges before 1x1
    assert 35e9 <= count_flops(network, 3) + spared <= 37e9


def test_the_lite_network_is_cheap():
    network = build_network("lite", 3, 9)
    assert parameters(network) < 1.5e6
    assert 0.5e9 < count_flops(network, 3) <= 2.5e9


def test_counting_leaves_the_network_as_it_was():
    network = build_network("lite", 3, 9).train()
    network.down[0].eval()
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    count_flops(network, 3, 32)
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="network is 'huge'; it must be one of paper, lite, slim"):
        build_network("huge", 3, 9)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("step", [UNet.fold, UNet.fuse_upsampling])
def test_folding_and_fusing_change_nothing_but_rounding(name, step):
    """Edges too: an image of one stride holds little else."""
    network = built(name)
    images = [torch.rand(2, 3, *size) for size in ((64, 48), (STRIDE[name], STRIDE[name]))]
    before = [network(image) for image in images]
    network.requires_grad_(False)
    random_state = torch.get_rng_state()
    step(network)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    transposed = [module for module in network.modules() if isinstance(module, nn.ConvTranspose2d)]
    assert len(transposed) == (len(network.up) if step is UNet.fuse_upsampling else 0)
    for image, fields in zip(images, before, strict=True):
        torch.testing.assert_close(network(image), fields, atol=1e-4, rtol=0)
    once = network(images[0])
    step(network)  # a second time there is nothing to do
    assert torch.equal(network(images[0]), once)


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_images_one_by_one(name):
    network = built(name)
    images = torch.rand(2, 3, 48, 64)
    given = images.clone()
    singles = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), singles, atol=1e-5, rtol=1e-4)
    assert torch.equal(images, given), "they are not changed"


@torch.no_grad()
@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("name", NAMES)
def test_reach_is_how_far_an_input_pixel_goes(name, turned):
    """Not-a-number in one row spreads to every field that the row enters, at each phase of the stride."""
    stride, middle = STRIDE[name], 128
    images = torch.rand(stride, 3, middle + stride + 128, 16, generator=torch.Generator().manual_seed(4))
    for phase, image in enumerate(images):
        image[:, middle + phase] = float("nan")
    fields = built(name)(images.mT if turned else images)
    touched = (fields.mT if turned else fields).isnan().any(3).any(1)  # (phases, rows)
    furthest = 0
    for phase, rows in enumerate(touched):
        reached = rows.nonzero()[:, 0] - (middle + phase)
        furthest = max(furthest, -int(reached.min()), int(reached.max()))
    assert not touched[:, 0].any()  # the edges are too far away to hide anything
    assert not touched[:, -1].any()
    assert furthest == REACH[name]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("band_px", [16, 48, 1000])
def test_bands_change_nothing_but_rounding(name, fused, band_px):
    network = built(name)
    if fused:
        network.fuse_upsampling()
    image = torch.randn(2, 3, 112, 64)
    whole = network(image)
    network.band_px = band_px
    torch.testing.assert_close(network(image), whole, rtol=0, atol=1e-5)
