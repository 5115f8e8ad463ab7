"""The U-Net discriminator: a verdict on every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SpectralConv2d(nn.Module):
    """A convolution without bias whose matrix is divided by its largest singular value.

    Miyato et al., Spectral Normalization for GANs, ICLR 2018, sec. 2.1 and algorithm 1: estimated
    by one power iteration a training forward, on the matrix ``(out, in * k * k)``.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, 1
        self.weight_orig = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel))
        nn.init.kaiming_uniform_(self.weight_orig, a=5**0.5)
        self.register_buffer("weight_u", F.normalize(torch.randn(c_out), dim=0))
        self.register_buffer("weight_v", F.normalize(torch.randn(c_in * kernel**2), dim=0))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, c_in, H, W) -> (N, c_out, H', W')``."""
        matrix = self.weight_orig.flatten(1)
        if self.training:
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                self.weight_v.copy_(F.normalize(matrix.T @ self.weight_u, dim=0, eps=1e-12))
                self.weight_u.copy_(F.normalize(matrix @ self.weight_v, dim=0, eps=1e-12))
        # Copies: a second forward before the backward of the first overwrites both.
        u, v = self.weight_u.clone(), self.weight_v.clone()
        largest = (u * (matrix * v).sum(1)).sum()
        return F.conv2d(x, self.weight_orig / largest, None, self.stride, self.padding)


class UNetDiscriminator(nn.Module):
    """Real-ESRGAN (arXiv 2107.10833), sec. 3.4: three sizes down, three up, spectral norm.

    ``skip_connection`` adds what was seen on the way down to what is made on the way up.
    """

    multiple = 8  # what the sides of a picture are

    def __init__(
        self, num_in_ch: int = 3, num_feat: int = 64, skip_connection: bool = True
    ) -> None:
        super().__init__()
        self.skip_connection = skip_connection
        n = num_feat
        self.conv0 = nn.Conv2d(num_in_ch, n, 3, 1, 1)
        self.conv1 = SpectralConv2d(n, n * 2, 4, 2)
        self.conv2 = SpectralConv2d(n * 2, n * 4, 4, 2)
        self.conv3 = SpectralConv2d(n * 4, n * 8, 4, 2)
        self.conv4 = SpectralConv2d(n * 8, n * 4, 3, 1)
        self.conv5 = SpectralConv2d(n * 4, n * 2, 3, 1)
        self.conv6 = SpectralConv2d(n * 2, n, 3, 1)
        self.conv7 = SpectralConv2d(n, n, 3, 1)
        self.conv8 = SpectralConv2d(n, n, 3, 1)
        self.conv9 = nn.Conv2d(n, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)``, sides multiples of 8 -> scores ``(N, 1, H, W)``, higher for real."""
        full = _lrelu(self.conv0(x))
        half = _lrelu(self.conv1(full))
        quarter = _lrelu(self.conv2(half))
        up = _lrelu(self.conv3(quarter))
        for conv, seen in ((self.conv4, quarter), (self.conv5, half), (self.conv6, full)):
            up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
            up = _lrelu(conv(up))
            if self.skip_connection:
                up = up + seen
        up = _lrelu(self.conv8(_lrelu(self.conv7(up))))
        out: Tensor = self.conv9(up)
        return out


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
