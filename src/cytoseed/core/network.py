"""The backbone: a U-Net from an image to dense fields, in three sizes (the paper's section 2.4)."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cytoseed.core.channel_net import CHANNEL_NET_REACH, ChannelNet
from cytoseed.core.layers import Conv

STRIDE = {"paper": 8, "lite": 16, "slim": 16}
"""Height and width of images for `UNet.forward` are multiples of this."""

REACH = {"paper": 95, "lite": 104, "slim": 104}
"""Receptive field: radius in px beyond which an input pixel does not change the fields."""

_MIXED_CHANNELS = 3


class _Block(nn.Module):
    """Residual block of two or four 3x3 convolutions; a skip connection is summed after the first.

    x -> c0 (+ skip) -> c1, + 1x1(x); with four: -> c2 -> c3, + its input. With `upsample`, x is enlarged by 2 first.
    """

    def __init__(self, inputs: int, outputs: int, convolutions: int, upsample: bool = False) -> None:
        super().__init__()
        self.project = Conv(inputs, outputs, 1, active=False, upsample=upsample)
        self.first = Conv(inputs, outputs, 3, upsample=upsample)
        self.second = Conv(outputs, outputs, 3)
        more = [Conv(outputs, outputs, 3) for _ in range(convolutions - 2)]
        self.rest = nn.Sequential(*more)
        self.deep = len(more) > 0

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        result = self._first_half(x, skip)
        if self.deep:
            result = result + self.rest(result)
        return result

    def _first_half(self, x: Tensor, skip: Tensor | None) -> Tensor:
        """Compute the first two convolutions, in a function so that the memory of intermediates is freed."""
        inner = self.first(x)
        if skip is not None:
            inner = inner + skip
        result: Tensor = self.project(x) + self.second(inner)
        return result


class UNet(nn.Module):
    """U-Net with residual blocks, max-pooling down, nearest neighbour up, and summed skips.

    `widths` are the channels at each level, finest first; blocks have `convolutions` 3x3 convolutions, 2 or 4. With a
    `shuffle` of 1, the first level is at full resolution (the paper). With 2, pixels are first folded 2x2 into
    channels, and a last thin layer of `detail` channels at full resolution takes the unfolded result and the image (our
    `lite` and `slim`).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        convolutions: int,
        shuffle: int = 1,
        detail: int = 16,
    ) -> None:
        super().__init__()
        self.mix_channels: nn.Module = nn.Identity() if inputs > 0 else ChannelNet(_MIXED_CHANNELS)
        inputs = inputs if inputs > 0 else _MIXED_CHANNELS
        self.fold_pixels: nn.Module = nn.PixelUnshuffle(shuffle) if shuffle > 1 else nn.Identity()
        ins = [inputs * shuffle**2, *widths[:-1]]
        self.down = nn.ModuleList([_Block(i, o, convolutions) for i, o in zip(ins, widths, strict=True)])
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList([_Block(i, o, convolutions, upsample=True) for i, o in coarse_to_fine])
        self.pool = nn.MaxPool2d(2)
        self.refine: nn.Module = _Refine(inputs, widths[0], detail, shuffle) if shuffle > 1 else _NoRefinement()
        self.head = nn.Conv2d(detail if shuffle > 1 else widths[0], outputs, 1)
        self.widths, self.convolutions, self.shuffle = list(widths), convolutions, shuffle
        self.band_px = 0  # rows computed at a time at the first level of encoder and decoder; 0: all

    def forward(self, image: Tensor) -> Tensor:
        """Fields (N, outputs, H, W), unbounded; height and width of the image are multiples of `STRIDE`."""
        image = self.mix_channels(image)
        x = self._first_level(self.fold_pixels(image))
        skips = [x]
        for level, block in enumerate(self.down):
            if level > 0:
                x = block(self.pool(x))
                skips.append(x)
        skips.pop()
        for level, block in enumerate(self.up):
            if level + 1 < len(self.up):
                x = block(x, skips.pop())
        return self._last_level(x, skips.pop(), image)

    def _first_level(self, x: Tensor) -> Tensor:
        """Compute the first level of the encoder, band by band."""
        height = x.shape[2]
        if self.band_px == 0:
            whole: Tensor = self.down[0](x)
            return whole
        size = [x.shape[0], self.widths[0], height, x.shape[3]]
        level = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        for top in range(0, height, self.band_px):
            bottom = min(height, top + self.band_px)
            first, last = max(0, top - self.convolutions), min(height, bottom + self.convolutions)
            level[:, :, top:bottom] = self.down[0](x[:, :, first:last])[:, :, top - first : bottom - first]
        return level

    def _last_level(self, x: Tensor, skip: Tensor, image: Tensor) -> Tensor:
        """Compute the last level of the decoder and the head, band by band: they use most of the memory."""
        height = image.shape[2]
        if self.band_px == 0:
            all_fields: Tensor = self.head(self.refine(self.up[-1](x, skip), image))
            return all_fields
        size = [image.shape[0], self.head.out_channels, height, image.shape[3]]
        fields = torch.empty(size, dtype=x.dtype, device=x.device)
        coarse, fine = height // x.shape[2], height // skip.shape[2]
        halo = 2 + fine * self.convolutions  # receptive field of `refine` and of the block before it
        halo += -halo % coarse
        for top in range(0, height, self.band_px):
            bottom = min(height, top + self.band_px)
            first, last = max(0, top - halo), min(height, bottom + halo)
            y = self.up[-1](x[:, :, first // coarse : last // coarse], skip[:, :, first // fine : last // fine])
            y = self.refine(y, image[:, :, first:last])
            fields[:, :, top:bottom] = self.head(y[:, :, top - first : bottom - first])
        return fields

    def fold(self) -> None:
        """Fold every batch normalisation into its convolution: the same results within rounding, faster.

        For inference only: the network must be in eval mode, else `AssertionError` is raised.
        """
        for module in list(self.modules()):
            if isinstance(module, Conv):
                module.fold()

    def fuse_upsampling(self) -> None:
        """Fold, and fuse every upsampling with the convolution after it: the same within rounding, faster.

        For inference in PyTorch; other runtimes can be slower on transposed convolutions.
        """
        self.fold()
        for module in list(self.modules()):
            if isinstance(module, Conv):
                module.fuse_upsampling()


class _Refine(nn.Module):
    """Return to full resolution: unfold channels into pixels, add a convolution of the image, one 3x3 layer."""

    def __init__(self, inputs: int, width: int, detail: int, shuffle: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, detail * shuffle**2, 1)
        self.unfold = nn.PixelShuffle(shuffle)
        self.look = Conv(inputs, detail, 3)
        self.last = Conv(detail, detail, 3)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        fine = self.unfold(self.spread(x)) + self.look(image)
        result: Tensor = fine + self.last(fine)
        return result


class _NoRefinement(nn.Module):
    """Identity: the paper's network already ends at full resolution."""

    def forward(self, x: Tensor, image: Tensor) -> Tensor:  # noqa: ARG002
        return x


def reach(name: str, inputs: int) -> int:
    """Receptive field of `build_network(name, inputs, ...)`: radius in px."""
    return REACH[name] + (0 if inputs > 0 else CHANNEL_NET_REACH)


def build_network(name: str, inputs: int, outputs: int) -> UNet:
    """Build a backbone by name; `ValueError` if the name is unknown.

    `paper`: widths 32 to 256, four convolutions per block, 3.8 M parameters, 35 GFLOP for a 256 x 256 image. `lite`:
    folded pixels, widths 24 to 128, two convolutions per block, 2.3 GFLOP. `slim`: the same with fewer channels, 0.46 M
    parameters, 1.3 GFLOP. With 0 `inputs` each takes any number of channels.
    """
    if name == "paper":
        return UNet(inputs, outputs, (32, 64, 128, 256), 4)
    if name == "lite":
        return UNet(inputs, outputs, (24, 40, 80, 128), 2, shuffle=2, detail=16)
    if name == "slim":
        return UNet(inputs, outputs, (16, 32, 64, 128), 2, shuffle=2, detail=8)
    raise ValueError(f"network is {name!r}; it must be one of {', '.join(STRIDE)}")


def count_flops(network: nn.Module, channels: int, side: int = 256) -> int:
    """Floating-point operations (2 x multiply-adds of convolutions) for an image (channels, side, side).

    `side` is a multiple of the network's `STRIDE`.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += 2 * output.numel() * module.weight[0].numel()
        elif isinstance(module, nn.ConvTranspose2d):
            total += 2 * inputs[0].numel() * module.weight[0].numel()

    counted = copy.deepcopy(network).eval()  # hooks and mode of the original stay as they are
    for module in counted.modules():
        module.register_forward_hook(add)
    device = next(counted.parameters()).device
    with torch.no_grad():
        counted(torch.zeros(1, channels, side, side, device=device))
    return total
