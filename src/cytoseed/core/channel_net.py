"""ChannelNet: from any number of image channels to the few that the backbone takes, equal for every order of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cytoseed.core.layers import Conv, Upsample

CHANNEL_NET_REACH = 44
"""Receptive field: radius in px beyond which an input pixel does not change the result."""

_WIDTHS = (8, 16, 32)


class ChannelNet(nn.Module):
    """A small U-Net that every channel passes on its own; after each stage channels learn of each other by a maximum.

    Pixels are first folded 2x2 into features. Of the last stage only the maximum over channels remains, so neither the
    number of channels nor their order matters. The result is the maximum of the channels, each weighted pixel by pixel,
    plus a correction: new weights give the maximum itself, so one channel passes unchanged.
    """

    def __init__(self, outputs: int) -> None:
        super().__init__()
        fine, middle, coarse = _WIDTHS
        self.outputs = outputs
        self.down = nn.ModuleList([_Stage(4, fine), _Stage(fine, middle), _Stage(middle, coarse)])
        self.up = nn.ModuleList([_Stage(coarse + middle, middle), _Stage(middle + fine, 2 * fine)])
        self.weight = nn.Conv2d(2 * fine, outputs, 1)
        self.correct = nn.Conv2d(2 * fine, 4 * outputs, 1)
        self.enlarge = Upsample()
        with torch.no_grad():
            for parameter in (*self.weight.parameters(), *self.correct.parameters()):
                parameter.zero_()

    def forward(self, image: Tensor) -> Tensor:
        """Image (N, outputs, H, W) from one of any number of channels, (N, C, H, W); H and W are multiples of 8."""
        count, channels, height, width = image.shape[0], image.shape[1], image.shape[2], image.shape[3]
        x = F.pixel_unshuffle(image.reshape(count * channels, 1, height, width), 2)
        first = self.down[0](x, channels)
        second = self.down[1](F.max_pool2d(first, 2), channels)
        x = self.down[2](F.max_pool2d(second, 2), channels)
        x = self.up[0](torch.cat([self.enlarge(x), second], 1), channels)
        x = self.up[1](torch.cat([self.enlarge(x), first], 1), channels)
        weights = self.enlarge(2 * torch.sigmoid(self.weight(x))).view(count, channels, self.outputs, height, width)
        best = (image[:, :, None] * weights).amax(1)
        correction: Tensor = self.correct(_maximum(x, channels))
        result: Tensor = best + F.pixel_shuffle(correction, 2)
        return result


class _Stage(nn.Module):
    """A convolution of each channel, then one of its features beside their maximum over all channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own = Conv(inputs, outputs, 3)
        self.joined = Conv(outputs, outputs, 3, active=False)
        self.shared = nn.Conv2d(outputs, outputs, 3, padding=1)  # of the maximum: once per image, not per channel

    def forward(self, x: Tensor, channels: int) -> Tensor:
        own = self.own(x)
        shared = self.shared(_maximum(own, channels))
        joined = self.joined(own)
        size = [shared.shape[0], channels, shared.shape[1], shared.shape[2], shared.shape[3]]
        result: Tensor = F.relu((joined.view(size) + shared[:, None]).view(joined.shape))
        return result


def _maximum(x: Tensor, channels: int) -> Tensor:
    """Maximum over the channels of each image: (N * C, F, H, W) to (N, F, H, W)."""
    return x.view(x.shape[0] // channels, channels, x.shape[1], x.shape[2], x.shape[3]).amax(1)
