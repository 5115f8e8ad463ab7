"""What follows a convolution, and the warp, in one pass each over half-precision features on a GPU.

A convolution of 64 channels is done in 15 µs there, and what follows it takes as long again when
bias, activation, sum and shuffle each read and write the features. Written in Triton, which comes
with torch's builds for CUDA. Features have their channels last in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

log = logging.getLogger("vrestore")

BLOCK = 1024  # values that one program of a kernel writes
ALIGNED = 8  # half-precision channels that tensor cores take without a copy being made

try:
    import triton.language as tl
    from triton import jit
except ImportError:
    HAS_TRITON = False
else:
    HAS_TRITON = True

    # Triton compiles annotations too: names from outside this branch must not be in them.
    @jit  # type: ignore[untyped-decorator]
    def _follow(  # type: ignore[no-untyped-def]
        x,
        bias,
        other,
        slope,
        count,
        C: tl.constexpr,
        ADDS: tl.constexpr,
        ACTS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = i < count
        v = tl.load(x + i, there).to(tl.float32) + tl.load(bias + i % C).to(tl.float32)
        if ACTS:
            v = tl.where(v > 0, v, v * slope)
        if ADDS:
            v += tl.load(other + i, there).to(tl.float32)
        tl.store(x + i, v.to(x.dtype.element_ty), there)

    @jit  # type: ignore[untyped-decorator]
    def _shuffle(  # type: ignore[no-untyped-def]
        x,
        bias,
        out,
        slope,
        count,
        H,
        W,
        C: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        there = i < count
        c, place = i % C, i // C
        column, line = place % (2 * W), place // (2 * W)
        row, n = line % (2 * H), line // (2 * H)
        channel = ((row % 2) * 2 + column % 2) * C + c
        source = ((n * H + row // 2) * W + column // 2) * (4 * C) + channel
        v = tl.load(x + source, there).to(tl.float32) + tl.load(bias + channel).to(tl.float32)
        v = tl.where(v > 0, v, v * slope)
        tl.store(out + i, v.to(out.dtype.element_ty), there)

    @jit  # type: ignore[untyped-decorator]
    def _sample(  # type: ignore[no-untyped-def]
        x,
        flow,
        out,
        count,
        H,
        W,
        step_n,
        step_c,
        step_y,
        step_x,
        C: tl.constexpr,
        BORDER: tl.constexpr,
        PLACES: tl.constexpr,
        CHANNELS: tl.constexpr,
    ):
        p = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
        there = p < count
        column, row, n = p % W, p // W % H, p // W // H
        towards = flow + n * step_n + row * step_y + column * step_x
        at_x = column.to(tl.float32) + tl.load(towards, there, 0.0)
        at_y = row.to(tl.float32) + tl.load(towards + step_c, there, 0.0)
        if BORDER:
            at_x = tl.minimum(tl.maximum(at_x, 0.0), W - 1.0)
            at_y = tl.minimum(tl.maximum(at_y, 0.0), H - 1.0)
        else:
            at_x = tl.minimum(tl.maximum(at_x, -2.0), W + 1.0)
            at_y = tl.minimum(tl.maximum(at_y, -2.0), H + 1.0)
        left, top = tl.floor(at_x), tl.floor(at_y)
        share_x, share_y = at_x - left, at_y - top
        c = tl.arange(0, CHANNELS)
        total = tl.zeros((PLACES, CHANNELS), tl.float32)
        for k in tl.static_range(4):
            xx, yy = left.to(tl.int64) + k % 2, top.to(tl.int64) + k // 2
            share = share_x if k % 2 else 1.0 - share_x
            share = share * (share_y if k // 2 else 1.0 - share_y)
            inside = there & (xx >= 0) & (xx < W) & (yy >= 0) & (yy < H)
            source = x + (((n * H + yy) * W + xx) * C)[:, None] + c[None, :]
            known = inside[:, None] & (c < C)[None, :]
            total += share[:, None] * tl.load(source, known, 0.0).to(tl.float32)
        target = out + (p * C)[:, None] + c[None, :]
        tl.store(target, total.to(out.dtype.element_ty), there[:, None] & (c < C)[None, :])


def follow(x: Tensor, bias: Tensor, slope: float = 1.0, other: Tensor | None = None) -> Tensor:
    """``leaky_relu(x + bias, slope) + other`` in the place of ``x`` ``(N, C, H, W)``."""
    count, adds = x.numel(), other is not None
    form = x.shape[1], adds, slope != 1.0, BLOCK
    _launch(_follow, -(-count // BLOCK), x, bias, other if adds else x, slope, count, *form)
    return x


def shuffled(x: Tensor, bias: Tensor, slope: float) -> Tensor:
    """``leaky_relu(x + bias, slope)``, a pixel shuffle to twice the size: ``(N, C, 2H, 2W)``.

    The ``4C`` channels of ``x`` and ``bias`` are in the order of the pixels that they become.
    """
    n, channels, h, w = x.shape
    out = _last((n, channels // 4, 2 * h, 2 * w), x)
    count = out.numel()
    form = channels // 4, BLOCK
    _launch(_shuffle, -(-count // BLOCK), x, bias, out, slope, count, h, w, *form)
    return out


def sampled(x: Tensor, flow: Tensor, padding_mode: str) -> Tensor:
    """``layers.warp`` of half-precision features; places and sums are float32."""
    n, channels, h, w = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    out = _last((n, channels, h, w), x)
    wide = 1 << (channels - 1).bit_length()
    places = max(BLOCK // wide, 1)
    count = n * h * w
    form = channels, padding_mode == "border", places, wide
    _launch(_sample, -(-count // places), x, flow, out, count, h, w, *flow.stride(), *form)
    return out


def _launch(kernel: Any, programs: int, x: Tensor, *more: object) -> None:
    """On the device of ``x``: Triton itself takes the current one."""
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        kernel[(programs,)](x, *more)


def _last(shape: tuple[int, int, int, int], like: Tensor) -> Tensor:
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )


def align_tail(net: nn.Module) -> None:
    """Let what is narrower than ``ALIGNED`` at full size have channels of zeros: the same pictures.

    Twelve channels take six times as long as sixteen there.
    """
    for module in list(net.modules()):
        hr = getattr(module, "conv_hr", None)
        if not isinstance(hr, nn.Conv2d) or hr.in_channels != hr.out_channels:
            continue
        more = -hr.out_channels % ALIGNED
        if more:
            module.upconv2 = _widened(module.upconv2, 0, 4 * more)  # type: ignore[arg-type]
            module.conv_hr = _widened(hr, more, more)
            module.conv_last = _widened(module.conv_last, more, 0)  # type: ignore[arg-type]


def _widened(conv: nn.Conv2d, more_in: int, more_out: int) -> nn.Conv2d:
    assert conv.bias is not None
    c_in, c_out = conv.in_channels + more_in, conv.out_channels + more_out
    wide = nn.Conv2d(c_in, c_out, 3, 1, 1).to(conv.weight)
    assert wide.bias is not None
    wide.weight.data = F.pad(conv.weight.data, (0, 0, 0, 0, 0, more_in, 0, more_out)).contiguous(
        memory_format=torch.channels_last
    )
    wide.bias.data = F.pad(conv.bias.data, (0, more_out))
    return wide.requires_grad_(False)


def serve(x: Tensor) -> bool:
    """Whether these are steps for such features: half precision on a GPU, without gradients."""
    return (
        x.device.type == "cuda"
        and x.dtype in (torch.float16, torch.bfloat16)
        and not torch.is_grad_enabled()
        and are_known(x.device, x.dtype)
    )


@cache
@torch.no_grad()
def are_known(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether Triton is there, compiles, and its kernels give what torch's give; tried once."""
    if not HAS_TRITON:
        log.debug("Triton is not there: the plain layers are taken, which are slower")
        return False
    try:
        near = all(torch.allclose(a.float(), b, 2**-6, 2**-6) for a, b in _tried(device, dtype))
    except Exception as error:  # of a compiler, a driver, a linker: of many kinds
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        log.warning(
            "Triton fails here, and the plain layers are taken, which are slower: %s", reason
        )
        return False
    if not near:
        log.warning(
            "Triton's kernels give other values on this GPU: the plain layers are taken, which are "
            "slower"
        )
    return near


def _tried(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    """What every form of the kernels that is used gives, and in float32 what it should."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2, 48, 9, 14, generator=g).sub(0.5).to(device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    bias = torch.rand(48, generator=g).sub(0.5).to(device, dtype)
    flow = (torch.randn(2, 2, 9, 14, generator=g) * 6).to(device)
    wide, biased = x.float(), x.float() + bias.float()[:, None, None]
    yield follow(x.clone(), bias), biased
    yield follow(x.clone(), bias, 0.1), F.leaky_relu(biased, 0.1)
    yield follow(x.clone(), bias, 1.0, x), biased + wide
    by_channel = torch.arange(48, device=device).view(4, 12).T.reshape(-1)
    yield shuffled(x, bias, 0.1), F.leaky_relu(F.pixel_shuffle(biased[:, by_channel], 2), 0.1)
    column = torch.arange(14.0, device=device) + flow[:, 0]
    row = torch.arange(9.0, device=device)[:, None] + flow[:, 1]
    grid = torch.stack((2 * column / 13 - 1, 2 * row / 8 - 1), 3)
    for mode in ("zeros", "border"):
        moved = F.grid_sample(wide, grid, padding_mode=mode, align_corners=True)
        yield sampled(x, flow, mode), moved
        yield sampled(x[:, :1], flow, mode), moved[:, :1]
    if device.type == "cuda":  # what cuDNN alone does is tried with the rest
        weight = torch.rand(8, 48, 3, 3, generator=g).sub(0.5).to(device, dtype)
        known = weight.contiguous(memory_format=torch.channels_last), bias[:8].contiguous()
        once = torch.cudnn_convolution_relu(x, *known, (1, 1), (1, 1), (1, 1), 1)
        yield once, F.conv2d(x, *known, padding=1).relu().float()
