"""PSNR and SSIM as the field computes them.

Whether pictures are rounded first is the caller's: BasicSR and its line score what `to_8bit` gives,
mmagic 1.x only clamps to 0..255. That moves PSNR by 0.001 to 0.01 dB near 32 dB, so a table says
which it followed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vrestore.errors import UsageError

PEAK = 255.0
SSIM_TAPS, SSIM_SIGMA_PX = 11, 1.5


def to_8bit(x: Tensor) -> Tensor:
    """Nominal 0..1 to whole code values 0..255, still float: what the field scores."""
    return (x * 255).round().clamp(0, 255)


def clipped(x: Tensor) -> Tensor:
    """Nominal 0..1 to 0..255 with its fractions: mmagic's habit."""
    return (x * 255).clamp(0, 255)


def luma(rgb: Tensor) -> Tensor:
    """MATLAB's Y of R'G'B' in 0..255: ``(..., 3, H, W) -> (..., 1, H, W)``, 16..235, not rounded.

    BT.601 studio range, as ``rgb2ycbcr`` and every Y-PSNR of the super-resolution tables; float64.
    """
    weights = rgb.new_tensor([65.481, 128.553, 24.966], dtype=torch.float64) / 255
    return 16 + torch.einsum("c,...chw->...hw", weights, rgb.double()).unsqueeze(-3)


def psnr(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """10 log10(255² / MSE), the mean over all channels and pixels of each picture, in dB.

    ``a``, ``b``: ``(..., C, H, W)`` in 0..255, C = 1 (what `luma` gives) or 3, of the same shape;
    ``crop`` pixels are cut at each side. Returns ``(...)``, float64; equal pictures give infinity.
    UsageError where the shapes do not fit.
    """
    return _of_each(_psnr, a, b, crop)


def ssim(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """Structural similarity, at most 1: the mean of the channels' own.

    Wang et al., IEEE TIP 2004, eq. 13, and sec. III-C: a Gaussian window of 11x11 and sigma 1.5,
    only where it lies within the picture, K1 = 0.01, K2 = 0.03. Arguments, result and errors as of
    `psnr`; each side must be 11 pixels at least.
    """
    if min(a.shape[-2:]) - 2 * crop < SSIM_TAPS:
        raise UsageError(
            f"SSIM's window is {SSIM_TAPS} pixels wide, the pictures {a.shape[-1]}x{a.shape[-2]} "
            f"before {crop} are cut at each side; give larger ones"
        )
    return _of_each(_ssim, a, b, crop)


def filtered(x: Tensor, taps: Tensor) -> Tensor:
    """The last two axes through the same symmetric filter, one after the other, valid part only.

    ``x``: ``(..., H, W)`` to ``(..., H - n + 1, W - n + 1)`` for ``n`` taps. Shifted sums: a tenth
    of the memory of torch's convolution in float64, and four times as fast.
    """
    for axis in (-1, -2):
        length = x.shape[axis] - len(taps) + 1
        total = torch.zeros_like(x.narrow(axis, 0, length))
        for at, tap in enumerate(taps.tolist()):
            total.add_(x.narrow(axis, at, length), alpha=tap)
        x = total
    return x


def _of_each(score: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, crop: int) -> Tensor:
    """One picture after the other: a clip in float64 would take eight times its room."""
    if a.shape != b.shape or a.dim() < 3 or a.shape[-3] not in (1, 3):
        raise UsageError(
            f"cannot compare {tuple(a.shape)} with {tuple(b.shape)}: both must be (..., C, H, W) "
            "of one shape, with C = 1 or 3"
        )
    height, width = a.shape[-2:]
    if not 0 <= crop < min(height, width) / 2:
        raise UsageError(f"cutting {crop} pixels at each side leaves nothing of {width}x{height}")
    inner = (..., slice(crop, height - crop), slice(crop, width - crop))
    pairs = zip(a[inner][None].flatten(0, -4), b[inner][None].flatten(0, -4), strict=True)
    scores = [score(x.double(), y.double()) for x, y in pairs]
    if not scores:
        raise UsageError(f"there is no picture in {tuple(a.shape)}")
    return torch.stack(scores).reshape(a.shape[:-3])


def _psnr(a: Tensor, b: Tensor) -> Tensor:
    return 10 * torch.log10(PEAK**2 / (a - b).square().mean())


def _ssim(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([_channel_ssim(x, y) for x, y in zip(a, b, strict=True)]).mean()


def _channel_ssim(a: Tensor, b: Tensor) -> Tensor:
    at = torch.arange(SSIM_TAPS, dtype=torch.float64) - SSIM_TAPS // 2
    window = torch.exp(-0.5 * (at / SSIM_SIGMA_PX) ** 2)
    window /= window.sum()
    mean_a, mean_b = filtered(a, window), filtered(b, window)
    variance_a = filtered(a * a, window) - mean_a**2
    variance_b = filtered(b * b, window) - mean_b**2
    covariance = filtered(a * b, window) - mean_a * mean_b
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return (luminance * structure).mean()
