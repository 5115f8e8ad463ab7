"""MATLAB's ``imresize``: the resize by which the field makes its low-resolution input."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def imresize(x: Tensor, scale: float, antialias: bool = True) -> Tensor:
    """Bicubic resize as MATLAB R2020 does it, the last two axes by ``scale``; float in, float out.

    Cubic kernel with a = -0.5 (Keys 1981, eq. 15), stretched by 1/scale when shrinking with
    ``antialias``, symmetric borders, output size ``ceil(size*scale)``. First along rows, then along
    columns, as MATLAB orders a uniform scale. Not clipped, not rounded.
    """
    for axis in (-2, -1):
        weights = _resize_matrix(x.shape[axis], scale, antialias).to(x)
        x = torch.matmul(weights, x) if axis == -2 else torch.matmul(x, weights.T)
    return x


def _resize_matrix(size: int, scale: float, antialias: bool) -> Tensor:
    """The ``(out, size)`` matrix of one axis, float64."""
    out = math.ceil(size * scale)
    stretch = scale if antialias and scale < 1 else 1.0
    width = 4 / stretch
    centre = (torch.arange(out, dtype=torch.float64) + 0.5) / scale - 0.5
    taps = math.ceil(width) + 2
    index = torch.floor(centre - width / 2)[:, None] + torch.arange(taps, dtype=torch.float64)
    weights = stretch * _cubic(stretch * (centre[:, None] - index))
    weights = weights / weights.sum(1, keepdim=True)
    mirrored = index.long() % (2 * size)  # symmetric: ... 1 0 | 0 1 ... n-1 | n-1 ...
    mirrored = torch.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    return torch.zeros(out, size, dtype=torch.float64).scatter_add_(1, mirrored, weights)


def _cubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x <= 1, near, torch.where(x <= 2, far, torch.zeros_like(x)))
