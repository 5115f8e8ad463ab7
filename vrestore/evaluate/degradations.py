"""The low-resolution inputs on which the field's tables stand: BI, BD, and DUF's BD.

Each takes ``(..., 3, H, W)`` float R'G'B' in 0..1 and gives the same at 1/scale, not rounded and
not clipped: BI overshoots by a little. Rounding to 8 bit is what makes it the benchmarks' input.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.errors import UsageError
from vrestore.models.resize import imresize

BD_TAPS, BD_SIGMA_PX = 12, 1.6  # MATLAB: fspecial('gaussian', ceil(3 * 1.6) * 2 + 2, 1.6)
DUF_REACH = 6  # of its 13 taps
DUF_SCALES = (2, 3, 4)


def bi(x: Tensor, scale: int) -> Tensor:
    """MATLAB's bicubic ``imresize`` by 1/scale, antialiased; ``(..., 3, H//scale, W//scale)``.

    What does not divide by ``scale`` is cut right and bottom. Raises UsageError where nothing is
    left.
    """
    return imresize(cropped(x, scale), 1 / scale)


def bd(x: Tensor, scale: int) -> Tensor:
    """BasicVSR's blur and decimation (BasicVSR, sec. 4); cut as ``bi`` is.

    A Gaussian of 12 taps, sigma 1.6, replicated borders. Its middle lies between two pixels, and
    the samples are taken so that they are the centres of the ``scale`` x ``scale`` blocks: BI's
    phase. The published one is ``scale`` 4; another even scale has that phase, and 3 cannot.
    """
    if scale % 2:
        raise UsageError(f"BD's even kernel meets no block's centre at scale {scale}; take 2 or 4")
    x = cropped(x, scale)
    # Block centres lie at scale/2 - 1/2; the kernel reaches 5.5 pixels to either side of them.
    before = BD_TAPS // 2 - scale // 2
    padded = F.pad(_planes(x), (before, before, before, before), mode="replicate")
    return _decimated(padded, gaussian_taps(BD_TAPS, BD_SIGMA_PX), scale, x)


def bd_duf(x: Tensor, scale: int) -> Tensor:
    """DUF's blur and decimation at scale 2, 3 or 4, reflected borders; cut as ``bi`` is.

    The samples are the pixels 0, ``scale``, 2 ``scale``, ...: at 4, 1.5 high-resolution pixels up
    and left of ``bd``'s. Models of one lose 8 dB and more on the other's input.
    """
    if scale not in DUF_SCALES:
        raise UsageError(f"DUF's kernels are for scales 2, 3 and 4, not {scale}")
    x = cropped(x, scale)
    sigma = 0.4 * scale
    reach = min(DUF_REACH, int(4 * sigma + 0.5))  # where scipy's gaussian_filter ends
    return _decimated(reflected(_planes(x), reach), gaussian_taps(2 * reach + 1, sigma), scale, x)


def cropped(x: Tensor, scale: int) -> Tensor:
    """``(..., H, W)`` with sides that divide by ``scale``, cut right and bottom."""
    height, width = (side // scale * scale for side in x.shape[-2:])
    if not min(height, width):
        raise UsageError(f"{x.shape[-1]}x{x.shape[-2]} is too small to be reduced {scale} times")
    return x[..., :height, :width]


def gaussian_taps(size: int, sigma: float) -> Tensor:
    """A Gaussian of ``size`` taps about their middle, float64 of sum 1; ``sigma`` in pixels."""
    steps = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = torch.exp(-0.5 * (steps / sigma) ** 2)
    return taps / taps.sum()


def reflected(x: Tensor, reach: int) -> Tensor:
    """``reach`` more pixels on each side of ``(..., H, W)``: ... 2 1 | 0 1 2 ..., at any size."""
    for axis in (-2, -1):
        size = x.shape[axis]
        period = max(2 * (size - 1), 1)
        place = torch.arange(-reach, size + reach, device=x.device) % period
        x = x.index_select(axis, torch.minimum(place, period - place) % size)
    return x


def _planes(x: Tensor) -> Tensor:
    """``(..., H, W)`` -> ``(n, 1, H, W)``, as convolutions take them."""
    return x.reshape(-1, 1, *x.shape[-2:])


def _decimated(padded: Tensor, taps: Tensor, step: int, like: Tensor) -> Tensor:
    """Every ``step``th place of ``padded`` under ``taps`` along both axes, in ``like``'s shape."""
    taps = taps.to(like)
    across = F.conv2d(padded, taps.view(1, 1, 1, -1), stride=(1, step))
    out = F.conv2d(across, taps.view(1, 1, -1, 1), stride=(step, 1))
    return out.view(*like.shape[:-2], *out.shape[-2:])
