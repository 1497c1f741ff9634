"""Layers of the networks: convolutions with normalisation, which fold and fuse for inference."""

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Conv(nn.Module):
    """Convolution, batch normalisation, optional ReLU; with `upsample`, on an image enlarged by 2.

    A 1x1 convolution is enlarged afterwards: the same values, from a quarter of the pixels.
    """

    def __init__(self, inputs: int, outputs: int, size: int, active: bool = True, upsample: bool = False) -> None:
        super().__init__()
        self.before: nn.Module = Upsample() if upsample and size > 1 else nn.Identity()
        self.conv: nn.Module = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)
        self.active: nn.Module = nn.ReLU(inplace=True) if active else nn.Identity()
        self.after: nn.Module = Upsample() if upsample and size == 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Image (N, outputs, H, W), or twice that height and width with `upsample`."""
        result: Tensor = self.after(self.active(self.norm(self.conv(self.before(x)))))
        return result

    def fold(self) -> None:
        """Fold the normalisation into the convolution; for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)  # type: ignore[type-var]
            self.norm = nn.Identity()

    def fuse_upsampling(self) -> None:
        """Replace enlarging and a folded convolution by a transposed convolution with 4/9 of the multiplications."""
        if isinstance(self.before, Upsample) and isinstance(self.conv, nn.Conv2d):
            sides = (self.conv.in_channels, self.conv.out_channels)
            fused: nn.ConvTranspose2d = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.ConvTranspose2d, *sides, 4, stride=2, padding=1
            )  # no random initial weights
            kernel = self.conv.weight
            fused.weight = nn.Parameter(_enlarged(kernel.detach()), requires_grad=kernel.requires_grad)
            fused.bias = self.conv.bias
            self.conv, self.before = fused, nn.Identity()


class Upsample(nn.Module):
    """Nearest-neighbour upsampling by 2, as `nn.Upsample(scale_factor=2)`.

    TorchScript compiles all modes of `nn.Upsample`, one of which libtorch has only since 2026: QuPath's older libtorch
    could not open the file.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Image (N, C, 2 H, 2 W)."""
        enlarged: Tensor = torch._C._nn.upsample_nearest2d(x, None, [2.0, 2.0])
        return enlarged


def _enlarged(kernel: Tensor) -> Tensor:
    """Kernel (I, O, 4, 4) of the transposed convolution equal to (O, I, 3, 3) on an image enlarged by 2.

    A pixel of the small image is 2 x 2 pixels of the large one, which are multiplied by different weights.
    """
    padded = nn.functional.pad(kernel.flip(2, 3).transpose(0, 1), [1, 1, 1, 1])
    return padded.unfold(2, 2, 1).unfold(3, 2, 1).sum((4, 5))
