"""Residual blocks and tails in 8-bit integers, where a CPU multiplies these faster than floats.

Weights are symmetric, with a scale for each output channel; inputs are unsigned with one scale and
zero point, found on a calibration clip in float32 (Jacob et al., CVPR 2018, arXiv 1712.05877,
sec. 2 and 3). What leaves a residual block, and so every state, is float32: only what its
convolutions see is rounded. Flow, coordinates and the layers that see frames stay as they
are. oneDNN multiplies; its sums are exact integers, so no way to cut a picture changes a value.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.layers import ResidualBlockNoBN
from vrestore.models.temporal import FrameNetwork, Network, WindowNetwork

TAIL = ("upconv1", "upconv2", "conv_hr", "conv_last")
LEVELS = 255  # of an input; a weight has 127 on each side of 0
MARGIN = 1.3  # the range of an input beyond what the calibration clip shows of it
BAND_BYTES = 4 << 20  # of float32, rounded at a time
CALIBRATION_SIDE = 128
LEAVES = 400


class Int8Conv(nn.Module):
    """A 3x3 or 1x1 convolution of stride 1 whose input is rounded to ``low .. high`` in 255 steps.

    What lies beyond saturates.
    """

    def __init__(self, conv: nn.Conv2d, low: float, high: float) -> None:
        super().__init__()
        low, high = MARGIN * min(low, 0.0), MARGIN * max(high, 1e-6)
        self.step = (high - low) / LEVELS
        self.zero = round(-low / self.step)
        self.out_channels = conv.out_channels
        self.padding = [int(side) for side in conv.padding]
        weight = conv.weight.detach().float()
        scale = weight.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
        rounded = (weight / scale.view(-1, 1, 1, 1)).round().to(torch.int8)
        ones = torch.ones(1, conv.in_channels, 1, 1)
        bias = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach().clone()
        packed = torch.ops.onednn.qconv_prepack(
            rounded, scale, self.step, self.zero, [1, 1], self.padding, [1, 1], 1, None
        )
        self.weight, self.scale, self.bias = packed, scale, bias
        self.weight_zeros = torch.zeros(conv.out_channels, dtype=torch.int32)
        self.per_step, self.half_up = ones / self.step, ones * (self.zero + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` float32 -> the same of ``out_channels``."""
        return self.sums(self.rounded(x))

    def rounded(self, x: Tensor) -> Tensor:
        """float32 -> uint8, saturated; in bands of rows, which stay in the cache."""
        out = torch.empty_like(x, dtype=torch.uint8)
        rows = max(1, BAND_BYTES * x.shape[2] // (4 * x.numel()))
        for band, into in zip(torch.split(x, rows, 2), torch.split(out, rows, 2), strict=True):
            into.copy_(torch.addcmul(self.half_up, band, self.per_step).clamp_(0, LEVELS))
        return out

    def sums(self, rounded: Tensor, relu_step: float | None = None) -> Tensor:
        """uint8 -> float32; with ``relu_step``, through a ReLU to uint8 in such steps from 0."""
        how: tuple[Any, ...] = (1.0, 0, torch.float32, "none")
        if relu_step is not None:
            how = (relu_step, 0, torch.uint8, "relu")
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            *(rounded, self.step, self.zero, self.weight, self.scale, self.weight_zeros),
            *(self.bias, [1, 1], self.padding, [1, 1], 1, *how, [], ""),
        )
        return out


class Int8ResidualBlock(nn.Module):
    """``ResidualBlockNoBN`` with rounded inputs of both convolutions, and a float32 sum."""

    def __init__(self, conv1: Int8Conv, conv2: Int8Conv) -> None:
        super().__init__()
        self.conv1 = conv1
        self.conv2 = conv2

    def forward(self, x: Tensor, over: bool = False) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``, in a place of its own."""
        inner = self.conv1.sums(self.conv1.rounded(x), relu_step=self.conv2.step)
        return self.conv2.sums(inner).add_(x)


def int8_is_possible() -> bool:
    """Whether this torch has oneDNN's integer convolutions for this CPU."""
    quantized = torch.backends.quantized
    return "onednn" in quantized.supported_engines and hasattr(
        torch.ops.onednn, "qconv2d_pointwise"
    )


def in_int8(net: Network) -> Network:
    """A copy of a float32 network on the CPU with its residual blocks and its tail in 8 bits."""
    blocks = [name for name, m in net.named_modules() if isinstance(m, ResidualBlockNoBN)]
    tail = [n for n, m in net.named_modules() if n.rpartition(".")[2] in TAIL and _fits(m)]
    inner = [f"{block}.conv{k}" for block in blocks for k in (1, 2)]
    ranges = _ranges_seen(net, [*inner, *tail])

    def converted(name: str) -> Int8Conv:
        conv = net.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        return Int8Conv(conv, *ranges[name])

    out = copy.deepcopy(net)
    for name in blocks:
        if f"{name}.conv1" in ranges:
            block = Int8ResidualBlock(converted(f"{name}.conv1"), converted(f"{name}.conv2"))
            out.set_submodule(name, block)
    for name in tail:
        if name in ranges:
            out.set_submodule(name, converted(name))
    return out


def _fits(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.stride == (1, 1) and module.groups == 1


@torch.no_grad()
def _ranges_seen(net: Network, names: list[str]) -> dict[str, tuple[float, float]]:
    """The least and the greatest input of the named convolutions on the calibration clip."""
    ranges: dict[str, tuple[float, float]] = {}

    def seeing(name: str) -> Any:
        def see(_: nn.Module, inputs: tuple[Tensor]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            found = torch.aminmax(inputs[0])
            ranges[name] = min(low, found.min.item()), max(high, found.max.item())

        return see

    hooks = [net.get_submodule(name).register_forward_pre_hook(seeing(name)) for name in names]
    try:
        net(calibration_clip(net))
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def calibration_clip(net: Network) -> Tensor:
    """Dead leaves that move two pixels a frame, the same always; as the network takes clips.

    Discs that cover each other have edges and sizes as photographs do (Lee, Mumford and Huang,
    IJCV 2001, sec. 3). Black to white but nearly grey and not quite sharp: with colours and edges
    that no film has, the official BasicVSR loses 0.1 dB for the range that it then keeps free.
    """
    count = net.before + 1 + net.after if isinstance(net, WindowNetwork) else 4
    size = CALIBRATION_SIDE + 2 * count
    g = torch.Generator().manual_seed(0)
    picture = torch.zeros(3, size, size)
    across = torch.arange(size, dtype=torch.float32)
    for _ in range(LEAVES):
        x, y, u, grey = torch.rand(4, generator=g).tolist()
        radius = size / 32 / (1 - 0.95 * u) ** 0.5  # density falls with the radius's cube
        inside = (across - x * size) ** 2 + (across[:, None] - y * size) ** 2 < radius**2
        picture[:, inside] = (grey + 0.05 * torch.randn(3, 1, generator=g)).clamp(0, 1)
    soft = F.avg_pool2d(picture[None], 2, 1)[0]
    side = range(0, 2 * count, 2)
    frames = [soft[:, t : t + CALIBRATION_SIDE, t : t + CALIBRATION_SIDE] for t in side]
    clip = torch.stack(frames)
    return clip if isinstance(net, FrameNetwork) else clip[None]
