"""Convolutions with what follows them in one step, in half precision and without gradients.

Features are then written once, and not read again to be activated or added to. On a CPU that
multiplies bfloat16 fast (AMX) that takes a third of the convolutions' time; oneDNN does it. On a
GPU it takes two fifths of all; cuDNN does a part of it, ``gpu_steps`` the rest. Everywhere else
these are the plain layers; in float32 too, which must have the same bits with gradients and
without.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models import gpu_steps

ONE_STEP = True  # a bench that runs a network as research scripts do switches it off


def conv_lrelu(conv: nn.Module, x: Tensor, slope: float = 0.1) -> Tensor:
    """A convolution and its leaky ReLU; with slope 0 its ReLU."""
    if _in_one_step(conv, x):
        return _lrelu(conv, x, conv.weight, conv.bias, slope)
    if _on_gpu(conv, x):
        return _gpu_lrelu(conv, x, slope)
    return F.leaky_relu(conv(x), slope, inplace=True) if slope else F.relu(conv(x), inplace=True)


def conv_plus(conv: nn.Module, x: Tensor, other: Tensor, *, over: bool = False) -> Tensor:
    """A convolution, plus ``other``: in half precision rounded once, not twice.

    ``over``: nobody needs ``other`` again, and the sum may take its place.
    """
    if _in_one_step(conv, x) and other.dtype == x.dtype:
        return _plus(conv, x, other, over)
    if _on_gpu(conv, x) and other.dtype == x.dtype:
        other = other.contiguous(memory_format=torch.channels_last)
        return gpu_steps.follow(_bare(conv, x, conv.weight), _bias(conv, x), other=other)
    out: Tensor = conv(x)
    return out.add_(other) if out.dtype == other.dtype else out + other


def conv_shuffle_lrelu(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution, a pixel shuffle to twice the size, a leaky ReLU."""
    if _on_gpu(conv, x):
        assert conv.bias is not None
        bias = _by_pixel(conv.bias).to(x.dtype)
        return gpu_steps.shuffled(_bare(conv, x, _by_pixel(conv.weight)), bias, 0.1)
    if not _in_one_step(conv, x):
        return F.leaky_relu(F.pixel_shuffle(conv(x), 2), 0.1, inplace=True)
    # Channels in the order of the pixels that they become: then those are moved in runs.
    assert conv.bias is not None
    weight, bias = _by_pixel(conv.weight), _by_pixel(conv.bias)
    y = _lrelu(conv, x, weight, bias, 0.1).permute(0, 2, 3, 1)
    n, h, w, c = y.shape
    pairs = y.reshape(n, h, w, 2, c // 2).transpose(2, 3)  # the upper two pixels, the lower two
    return pairs.reshape(n, 2 * h, 2 * w, c // 4).permute(0, 3, 1, 2)


def conv_of(conv: nn.Module, parts: Sequence[Tensor], slope: float = 0.1) -> Tensor:
    """``conv_lrelu`` of features side by side, in the type of the last of them.

    On a GPU with channels of zeros beyond them, up to a number that needs no copy to be multiplied.
    """
    same = [part.to(parts[-1].dtype) for part in parts]
    channels = sum(part.shape[1] for part in parts)
    if _on_gpu(conv, same[-1]) and channels % gpu_steps.ALIGNED:
        n, _, h, w = same[-1].shape
        same.append(same[-1].new_zeros(n, -channels % gpu_steps.ALIGNED, h, w))
    return conv_lrelu(conv, side_by_side(same), slope)


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """``torch.cat`` along the channels; on a CPU without gradients with these last in memory.

    So convolutions want them, and would make a copy of what warping lays out otherwise: a tenth of
    the first convolution's time.
    """
    if len(parts) == 1:
        return parts[0]
    if torch.is_grad_enabled() or parts[0].device.type != "cpu":
        return torch.cat(list(parts), 1)
    n, _, h, w = parts[0].shape
    shape = n, sum(part.shape[1] for part in parts), h, w
    out = torch.empty(shape, dtype=parts[0].dtype, memory_format=torch.channels_last)
    return torch.cat(list(parts), 1, out=out)


def conv_to_few(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution to fewer channels than a GPU's tensor cores make: there it makes more."""
    if not _on_gpu(conv, x):
        out: Tensor = conv(x)
        return out
    few, more = conv.out_channels, -conv.out_channels % gpu_steps.ALIGNED
    weight = F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, more))
    return gpu_steps.follow(_bare(conv, x, weight), F.pad(_bias(conv, x), (0, more)))[:, :few]


def _on_gpu(conv: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    return (
        ONE_STEP
        and gpu_steps.serve(x)
        and type(conv) is nn.Conv2d
        and conv.groups == 1
        and conv.bias is not None
        and not conv._forward_pre_hooks
    )


def _gpu_lrelu(conv: nn.Conv2d, x: Tensor, slope: float) -> Tensor:
    if slope:
        return gpu_steps.follow(_bare(conv, x, conv.weight), _bias(conv, x), slope)
    weight = _seen_by(x, conv.weight)
    out: Tensor = torch.cudnn_convolution_relu(x, weight, _bias(conv, x), *_how(conv))
    return out


def _bare(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """The convolution without its bias, channels last."""
    out: Tensor = F.conv2d(x, _seen_by(x, weight), None, *_how(conv))
    return out.contiguous(memory_format=torch.channels_last)


def _seen_by(x: Tensor, weight: Tensor) -> Tensor:
    """In the type of ``x``, with no weight for what it has beyond the channels that are known."""
    weight = weight.to(x.dtype)
    beyond = x.shape[1] - weight.shape[1]
    if beyond:
        weight = F.pad(weight, (0, 0, 0, 0, 0, beyond))
    return weight.contiguous(memory_format=torch.channels_last)


def _how(conv: nn.Conv2d) -> Any:
    return conv.stride, conv.padding, conv.dilation, conv.groups


def _bias(conv: nn.Conv2d, x: Tensor) -> Tensor:
    assert conv.bias is not None
    return conv.bias.to(x.dtype)


def _by_pixel(values: Tensor) -> Tensor:
    return values.view(-1, 4, *values.shape[1:]).transpose(0, 1).reshape(values.shape)


def _in_one_step(conv: nn.Module, x: Tensor) -> TypeGuard[nn.Conv2d]:
    return (
        ONE_STEP
        and type(conv) is nn.Conv2d
        and conv.bias is not None
        and x.device.type == "cpu"
        and x.dtype == conv.weight.dtype == torch.bfloat16
        and not torch.is_grad_enabled()
        and not conv._forward_pre_hooks  # somebody watches: then it is called
        and _one_step_is_known()
    )


@cache
@torch.no_grad()
def _one_step_is_known() -> bool:
    """Whether this torch has these steps on this CPU, with about the values of the plain layers.

    They are not of its public face, and so tried.
    """
    g = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, 1, 1)
    for values in conv.parameters():
        values.data = torch.rand(values.shape, generator=g).sub(0.5).bfloat16()
    x = torch.rand(1, 16, 8, 8, generator=g).bfloat16()
    try:
        plain = conv(x)
        pairs = [
            (_lrelu(conv, x, conv.weight, conv.bias, 0.0), plain.relu()),
            (_lrelu(conv, x, conv.weight, conv.bias, 0.1), F.leaky_relu(plain, 0.1)),
            (_plus(conv, x, x, over=False), plain + x),
            (_plus(conv, x, x.clone(), over=True), plain + x),
        ]
    except (AttributeError, RuntimeError, TypeError):
        return False
    return all(torch.allclose(a, b, rtol=2**-7, atol=2**-7) for a, b in pairs)


def _lrelu(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None, slope: float) -> Tensor:
    name, slopes = ("leaky_relu" if slope else "relu"), [slope] * bool(slope)
    known = _known(conv, weight, bias)
    out: Tensor = torch.ops.mkldnn._convolution_pointwise(x, *known, name, slopes, "")
    return out


def _plus(conv: nn.Conv2d, x: Tensor, other: Tensor, over: bool) -> Tensor:
    steps, known = torch.ops.mkldnn, _known(conv, conv.weight, conv.bias)
    out: Tensor
    if over:
        out = steps._convolution_pointwise_.binary(other, x, *known, "add", None, None, [], None)
    else:
        out = steps._convolution_pointwise.binary(x, other, *known, "add", None, None, [], None)
    return out


def _known(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> tuple[object, ...]:
    return weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups
