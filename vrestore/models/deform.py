"""Modulated deformable convolution: every kernel point looks where its offset points.

In plain torch, the sampling done by ``grid_sample``: it runs and learns wherever torch does. On a
CPU that only infers, by ``embedding_bag``. torchvision's or mmcv's fused kernel takes their place
where one is installed and faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BAND_BYTES = 4 << 20  # of samples held at a time: they are read again at once, from the cache

Pair = tuple[int, int]


class Geometry(NamedTuple):
    """How a convolution steps over its input, (y, x) each."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


STIFF = Geometry((1, 1), (1, 1), (1, 1), 1)  # of a 3x3 convolution that keeps the size
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Geometry], Tensor]


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Deformable ConvNets v2 (Zhu et al., CVPR 2019, arXiv 1811.11168), eq. 1.

    ``x``: ``(N, C, H, W)``. ``offset``: ``(N, 2*G*K, H', W')`` in pixels, for each of G deformable
    groups and K kernel points (row by row) dy, then dx. ``mask``: ``(N, G*K, H', W')``, multiplies
    the sample. ``weight``: ``(C', C/groups, kh, kw)``. Returns ``(N, C', H', W')``. Beyond the
    picture lies zero. Coordinates are float32 (or float64) whatever the type of ``x``.
    """
    how = Geometry(_pair(stride), _pair(padding), _pair(dilation), groups)
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, offset, mask, weight))
    own = row_kernel if x.device.type == "cpu" and groups == 1 and not learns else plain_kernel
    kernel = own if x.dtype == torch.float64 else fastest_kernel(own, x.device, weight.dtype)
    return kernel(x, offset, mask, weight, bias, how)


def plain_kernel(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, how: Geometry
) -> Tensor:
    """Bands of output rows: sample (``grid_sample``), modulate, multiply by the weights."""
    (n, c, h, w), (c_out, _, kh, kw), (h_out, w_out) = x.shape, weight.shape, offset.shape[2:]
    points = kh * kw
    stride, padding, dilation, groups = how
    deform_groups = mask.shape[1] // points
    flat_weight = weight.reshape(groups, c_out // groups, -1)
    grouped = x.reshape(n * deform_groups, c // deform_groups, h, w)
    # The place of kernel point k for output (y, x) is where a stiff kernel has it, plus its offset.
    wide = torch.promote_types(offset.dtype, torch.float32)
    kernel_y, kernel_x = torch.meshgrid(
        torch.arange(kh, device=x.device, dtype=wide) * dilation[0] - padding[0],
        torch.arange(kw, device=x.device, dtype=wide) * dilation[1] - padding[1],
        indexing="ij",
    )
    out_y = torch.arange(h_out, device=x.device, dtype=wide)[:, None] * stride[0]
    out_x = torch.arange(w_out, device=x.device, dtype=wide) * stride[1]
    moves = offset.reshape(n * deform_groups, points, 2, h_out, w_out)
    masks = mask.reshape(n * deform_groups, 1, points, h_out, w_out)
    bands = []
    for top, end in _bands(h_out, n * c * points * w_out * x.element_size()):
        move = moves[..., top:end, :].to(wide)
        at_y = move[:, :, 0] + out_y[top:end] + kernel_y.reshape(-1, 1, 1)
        at_x = move[:, :, 1] + out_x + kernel_x.reshape(-1, 1, 1)
        # align_corners False: it alone places samples in a picture one pixel wide.
        grid = torch.stack(((2 * at_x + 1) / w - 1, (2 * at_y + 1) / h - 1), -1)
        rows = end - top
        samples = F.grid_sample(
            grouped.to(grid.dtype),
            grid.reshape(n * deform_groups, points * rows, w_out, 2),
            align_corners=False,
        ).reshape(n * deform_groups, c // deform_groups, points, rows, w_out)
        columns = (samples * masks[..., top:end, :]).to(weight.dtype)
        columns = columns.reshape(n, groups, c // groups * points, rows * w_out)
        bands.append((flat_weight @ columns).reshape(n, c_out, rows, w_out))
    out = torch.cat(bands, 2) if len(bands) > 1 else bands[0]
    return out if bias is None else out + bias.reshape(-1, 1, 1)


def row_kernel(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None, how: Geometry
) -> Tensor:
    """As ``plain_kernel``, twice as fast on a CPU, with ``groups`` 1 and without gradients.

    The features of one deformable group at one pixel are a row of a table. A sample is the sum of
    four rows, by its distances from them and the mask: a bag of ``embedding_bag``. Nothing is
    rearranged where the inputs are channels-last.
    """
    (n, c, h, w), (c_out, _, kh, kw), (h_out, w_out) = x.shape, weight.shape, offset.shape[2:]
    points = kh * kw
    stride, padding, dilation, _ = how
    deform_groups = mask.shape[1] // points
    each = c // deform_groups
    wide = torch.promote_types(offset.dtype, torch.float32)
    right, below = deform_groups, (w + 3) * deform_groups  # how many rows of the table away
    origin = torch.arange(deform_groups, dtype=torch.int32).repeat_interleave(points)
    origin += below + right
    kernel_y = (torch.arange(kh, dtype=wide) * dilation[0] - padding[0]).repeat_interleave(kw)
    kernel_x = (torch.arange(kw, dtype=wide) * dilation[1] - padding[1]).repeat(kh)
    stiff_y = torch.arange(h_out)[:, None, None] * stride[0] + kernel_y.repeat(deform_groups)
    stiff_x = torch.arange(w_out)[:, None] * stride[1] + kernel_x.repeat(deform_groups)
    flat_weight = weight.reshape(c_out, deform_groups, each, points).transpose(2, 3)
    pointwise = flat_weight.reshape(c_out, -1, 1, 1).to(memory_format=torch.channels_last)
    pictures, moves, masks = (t.permute(0, 2, 3, 1) for t in (x, offset, mask))
    bands = []
    for i in range(n):
        # Zeros around the picture: one before, two behind, for all that lies beyond.
        table = F.pad(pictures[i], (0, 0, 1, 2, 1, 2)).to(wide).reshape(-1, each)
        for top, end in _bands(h_out, c * points * w_out * table.element_size()):
            part = masks[i, top:end].to(wide)
            move = moves[i, top:end].reshape(*part.shape, 2)
            index = torch.empty((*part.shape, 4), dtype=torch.int32)
            share = torch.empty((*part.shape, 4), dtype=wide)
            down = (move[..., 0] + stiff_y[top:end]).clamp_(-1, h)
            across = (move[..., 1] + stiff_x).clamp_(-1, w)
            y, x0 = down.floor(), across.floor()
            down -= y
            across -= x0
            row = torch.add(origin, x0.to(torch.int32).clamp_(-1, w), alpha=right)  # NaN has none
            row.add_(y.to(torch.int32).clamp_(-1, h), alpha=below)
            for corner, away in enumerate((0, right, below, below + right)):
                torch.add(row, away, out=index[..., corner])
            lower = down * part
            upper = part - lower
            for corner, line in ((0, upper), (2, lower)):
                torch.mul(line, across, out=share[..., corner + 1])
                torch.sub(line, share[..., corner + 1], out=share[..., corner])
            bags, shares = index.reshape(-1, 4), share.reshape(-1, 4)
            samples = F.embedding_bag(bags, table, mode="sum", per_sample_weights=shares)
            columns = samples.to(weight.dtype).reshape(1, end - top, w_out, -1).permute(0, 3, 1, 2)
            # As a convolution: on several threads oneDNN's multiplies half as fast again as MKL.
            bands.append(F.conv2d(columns, pointwise, bias)[0].permute(1, 2, 0))
    return torch.cat(bands).reshape(n, h_out, w_out, c_out).permute(0, 3, 1, 2)


@cache
def fastest_kernel(own: Kernel, device: torch.device, dtype: torch.dtype) -> Kernel:
    """Of our own form and of the installed fused ones, what is faster there; timed once."""
    candidates = [own, *foreign_kernels().values()]
    if len(candidates) == 1:
        return own
    g = torch.Generator().manual_seed(0)
    x, offset = torch.rand(1, 64, 64, 64, generator=g), torch.rand(1, 144, 64, 64, generator=g)
    mask, weight = offset[:, :72], torch.rand(64, 64, 3, 3, generator=g)
    x, offset, mask, weight = (t.to(device, dtype) for t in (x, offset, mask, weight))
    best = dict.fromkeys(candidates, float("inf"))
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        for _ in range(3):
            for kernel in candidates:
                start = time.perf_counter()
                try:
                    float(kernel(x, offset, mask, weight, None, STIFF).sum())
                except Exception:  # built for another torch, or without this device or type
                    continue
                best[kernel] = min(best[kernel], time.perf_counter() - start)
    return min(candidates, key=best.__getitem__)


def foreign_kernels() -> dict[str, Kernel]:
    """Fused kernels of other packages, as far as those are installed and can be imported."""
    found: dict[str, Callable[..., Tensor]] = {}
    with suppress(Exception):  # a torchvision for another torch raises RuntimeError
        from torchvision.ops import deform_conv2d

        found["torchvision"] = lambda x, offset, mask, weight, bias, how: deform_conv2d(
            x, offset, weight, bias, *how[:3], mask
        )
    with suppress(Exception):
        from mmcv.ops import modulated_deform_conv2d

        found["mmcv"] = lambda x, offset, mask, weight, bias, how: modulated_deform_conv2d(
            x, offset, mask, weight, bias, *how, mask.shape[1] // weight[0, 0].numel()
        )
    return {name: _of_one_type(run) for name, run in found.items()}


def _of_one_type(run: Callable[..., Tensor]) -> Kernel:
    """``run`` given all that it samples in the type of the weights, and contiguous."""

    def kernel(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        x, offset, mask = (t.to(weight.dtype).contiguous() for t in (x, offset, mask))
        return run(x, offset, mask, weight, *rest)

    return kernel


def _bands(rows: int, row_bytes: int) -> Iterator[Pair]:
    height = max(1, BAND_BYTES // max(row_bytes, 1))
    return ((top, min(top + height, rows)) for top in range(0, rows, height))


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value
