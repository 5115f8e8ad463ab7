"""Blur kernels of real-world training, the filter that applies them, and unsharp masking.

A kernel's parameters are scalars or ``(T,)``, one per frame; kernels are ``(k, k)`` or
``(T, k, k)``, float64 of sum 1. All are symmetric about their middle: they move nothing, and
correlation is convolution. Angles in radians from x towards y (down), widths in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.evaluate.degradations import gaussian_taps, reflected

SHARPEN_TAPS = 51
SHARPEN_SIGMA_PX = 8.0  # what OpenCV takes for 51 taps: 0.3 * ((51 - 1) / 2 - 1) + 0.8

# Less than what float32 keeps of a sum of 1. Narrow kernels would end in denormal numbers, which
# take a CPU ten times as long.
SMALLEST_TAP = 1e-9


def gaussian(
    size: int, sigma_x: Tensor | float, sigma_y: Tensor | float, angle: Tensor | float = 0.0
) -> Tensor:
    """Gaussian of any two widths at any angle (BSRGAN, sec. 3.1)."""
    return _normalised(torch.exp(-0.5 * _distance(size, sigma_x, sigma_y, angle)))


def generalized_gaussian(
    size: int,
    sigma_x: Tensor | float,
    sigma_y: Tensor | float,
    angle: Tensor | float = 0.0,
    beta: Tensor | float = 1.0,
) -> Tensor:
    """exp(-q^beta / 2), q the squared distance in widths (Real-ESRGAN, sec. 3.2)."""
    q = _distance(size, sigma_x, sigma_y, angle)
    return _normalised(torch.exp(-0.5 * q ** _per_frame(beta)))


def plateau(
    size: int,
    sigma_x: Tensor | float,
    sigma_y: Tensor | float,
    angle: Tensor | float = 0.0,
    beta: Tensor | float = 1.0,
) -> Tensor:
    """1 / (1 + q^beta): a flat top with long flanks (Real-ESRGAN, sec. 3.2)."""
    q = _distance(size, sigma_x, sigma_y, angle)
    return _normalised(1 / (1 + q ** _per_frame(beta)))


def sinc(size: int, cutoff: Tensor | float) -> Tensor:
    """Circular low pass that rings (Real-ESRGAN, sec. 3.4); ``cutoff`` in radians a pixel, to pi.

    J1(cutoff r) cutoff / (2 pi r), whose limit in the middle is cutoff^2 / (4 pi).
    """
    x, y = _grid(size)
    radius, cutoff = torch.hypot(x, y), _per_frame(cutoff)
    ring = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    return _normalised(torch.where(radius == 0, cutoff**2 / (4 * math.pi), ring))


def filter2d(x: Tensor, kernels: Tensor) -> Tensor:
    """``x`` ``(T, C, H, W)`` under a kernel of odd size, or one a frame; borders are reflected."""
    reach = kernels.shape[-1] // 2
    kernels = torch.where(kernels.abs() < SMALLEST_TAP, 0, kernels)
    kernels = kernels.to(x).expand(x.shape[0], -1, -1)[:, None]
    padded = reflected(x, reach).transpose(0, 1)  # (C, T, H, W): one group a frame
    return F.conv2d(padded, kernels, groups=x.shape[0]).transpose(0, 1)


def sharpen(x: Tensor, weight: float = 0.5, threshold: float = 10.0) -> Tensor:
    """Unsharp masking of ``(T, C, H, W)`` in 0..1: the target of Real-ESRGAN (sec. 3.4).

    The residue against a wide blur is added ``weight`` times where it exceeds ``threshold`` code
    values of 255; the mask's edges are softened by the same blur.
    """
    taps = gaussian_taps(SHARPEN_TAPS, SHARPEN_SIGMA_PX)
    residue = x - _blurred(x, taps)
    mask = _blurred((residue.abs() * 255 > threshold).to(x), taps)
    sharp = (x + weight * residue).clamp(0, 1)
    return mask * sharp + (1 - mask) * x


def _blurred(x: Tensor, taps: Tensor) -> Tensor:
    """The last two axes under ``taps``, one after the other."""
    t, c, h, w = x.shape
    taps, padded = taps.to(x), reflected(x, taps.numel() // 2)
    planes = padded.reshape(t * c, 1, *padded.shape[2:])
    across = F.conv2d(planes, taps.view(1, 1, 1, -1))
    return F.conv2d(across, taps.view(1, 1, -1, 1)).view(t, c, h, w)


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """x and y of a ``(size, size)`` kernel's taps, from its middle."""
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return x, y


def _distance(
    size: int, sigma_x: Tensor | float, sigma_y: Tensor | float, angle: Tensor | float
) -> Tensor:
    """Squared distance from the middle, in widths along the two turned axes."""
    x, y = _grid(size)
    sigma_x, sigma_y, angle = (_per_frame(v) for v in (sigma_x, sigma_y, angle))
    c, s = torch.cos(angle), torch.sin(angle)
    along: Tensor = (c * x + s * y) / sigma_x
    across: Tensor = (c * y - s * x) / sigma_y
    return along**2 + across**2


def _per_frame(value: Tensor | float) -> Tensor:
    """Ready to meet a ``(k, k)`` grid: ``(1, 1)`` or ``(T, 1, 1)``."""
    return torch.as_tensor(value, dtype=torch.float64)[..., None, None]


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum((-2, -1), keepdim=True)
