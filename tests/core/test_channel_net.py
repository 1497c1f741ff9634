"""Models of any number of channels: the order does not matter, one channel passes, the receptive field is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from cytoseed import load_model
from cytoseed.core.channel_net import CHANNEL_NET_REACH, ChannelNet
from cytoseed.core.model import Segmenter
from cytoseed.learn.widen import widen_model
from cytoseed.settings import ModelConfig


def _random_net(outputs: int = 3) -> ChannelNet:
    """ChannelNet whose weights all take part."""
    torch.manual_seed(0)
    net = ChannelNet(outputs).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return net


@pytest.mark.parametrize("channels", [1, 2, 6, 40])
def test_any_number_of_channels_in_any_order(channels: int) -> None:
    net = _random_net()
    image = torch.rand(2, channels, 32, 48)
    with torch.no_grad():
        mixed = net(image)
        assert mixed.shape == (2, 3, 32, 48)
        assert torch.equal(mixed, net(image[:, torch.randperm(channels)]))
        assert channels == 1 or not torch.equal(mixed, net(image[:, 1:]))


def test_receptive_field() -> None:
    net = _random_net().double()
    image = torch.rand(1, 2, 128, 128, dtype=torch.float64)
    changed = image.clone()
    changed[:, :, 64:72, 64:72] += 1
    with torch.no_grad():
        rows = (net(image) - net(changed)).abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert (64 - int(rows.min()), int(rows.max()) - 71) == (CHANNEL_NET_REACH, CHANNEL_NET_REACH)


def test_a_widened_model_starts_as_the_model_on_one_channel() -> None:
    model = load_model("nuclei")
    wide = widen_model(model, "any", ("nuclei", "cells"))
    image = torch.rand(1, 1, 64, 64) * 1.5 - 0.3
    with torch.no_grad():
        own, both = model.segmenter.fields(image.expand(-1, 3, -1, -1)), wide.segmenter.fields(image)
    assert torch.equal(both[:, :1], own)
    assert torch.equal(both[:, 1:], own)
    assert wide.config.channels == "any"
    with pytest.raises(ValueError, match=r"channels is 2, and model 'nuclei' takes 3; give that, or any"):
        widen_model(model, 2, ("nuclei",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_is_eager() -> None:
    config = ModelConfig("test", channels="any", targets=("nuclei", "cells"))
    torch.manual_seed(1)
    segmenter = Segmenter(config).eval()
    scripted = torch.jit.script(segmenter)
    for channels in (1, 5):
        image = torch.rand(1, channels, 48, 64)
        with torch.no_grad():
            assert torch.equal(scripted(image), segmenter(image))


def test_channels_of_a_configuration() -> None:
    config = ModelConfig("test", channels="any")
    assert config.fixed_channels == 0
    assert ModelConfig.from_dict(config.to_dict()) == config
    for channels in (0, "all", 2.5, True):
        with pytest.raises(ValueError, match="channels is"):
            dataclasses.replace(config, channels=channels)
