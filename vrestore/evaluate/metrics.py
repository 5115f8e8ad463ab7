"""PSNR as the field computes it."""

from __future__ import annotations

import torch
from torch import Tensor


def to_8bit(x: Tensor) -> Tensor:
    """Nominal 0..1 to whole code values 0..255, still float: what the field scores."""
    return (x * 255).round().clamp(0, 255)


def luma(rgb: Tensor) -> Tensor:
    """MATLAB's Y of R'G'B' in 0..255: ``(..., 3, H, W) -> (..., H, W)``, 16..235, not rounded.

    BT.601 studio range, as ``rgb2ycbcr`` and every Y-PSNR of the super-resolution tables.
    """
    weights = rgb.new_tensor([65.481, 128.553, 24.966]).double() / 255
    return 16 + torch.einsum("c,...chw->...hw", weights, rgb.double())


def psnr(a: Tensor, b: Tensor, crop: int = 0) -> Tensor:
    """10 log10(255² / MSE) over the last two axes, and channels where there are three.

    ``a``, ``b``: ``(..., H, W)`` in 0..255, the same shape; ``crop`` pixels are cut at each side.
    Equal pictures give infinity.
    """
    difference = a.double() - b.double()
    if crop:
        difference = difference[..., crop:-crop, crop:-crop]
    return 10 * torch.log10(255**2 / difference.square().mean((-2, -1)))
