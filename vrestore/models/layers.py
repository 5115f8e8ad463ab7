"""Layers that several of the field's networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models import gpu_steps
from vrestore.models.one_step import (
    conv_lrelu,
    conv_of,
    conv_plus,
    conv_shuffle_lrelu,
    conv_to_few,
)

TAIL_BAND_BYTES = 16 << 20  # of features at full size, on a CPU counted as float32
GPU_BAND_BYTES = 32 << 20
TAIL_REACH = 2  # rows of its input that a row of its output sees beyond its own
TAIL_REACH_X2 = 3


class ResidualBlockNoBN(nn.Module):
    """Convolution, ReLU, convolution, plus the input (EDSR, arXiv 1707.02921, fig. 2c)."""

    def __init__(self, num_feat: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)

    def forward(self, x: Tensor, over: bool = False) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``; ``over``: it may take the place of ``x``."""
        return conv_plus(self.conv2, conv_lrelu(self.conv1, x, 0.0), x, over=over)


class ConvResidualBlocks(nn.Module):
    """A convolution to ``num_out_ch`` channels, then residual blocks: a propagation trunk."""

    def __init__(self, num_in_ch: int, num_out_ch: int, num_block: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(num_in_ch, num_out_ch, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            residual_blocks(num_out_ch, num_block),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        """Side by side ``(N, num_in_ch, H, W) -> (N, num_out_ch, H, W)``, typed as the last."""
        out = conv_of(self.main[0], parts)
        for block in self.main[2].children():
            out = block(out, over=True)
        return out


def residual_blocks(num_feat: int, num_block: int) -> nn.Sequential:
    """A plain row of residual blocks."""
    return nn.Sequential(*(ResidualBlockNoBN(num_feat) for _ in range(num_block)))


def enlarge_x4(
    x: Tensor,
    upconv1: nn.Conv2d,
    upconv2: nn.Conv2d,
    conv_hr: nn.Conv2d,
    conv_last: nn.Conv2d,
    onto: Tensor,
) -> Tensor:
    """Two convolutions with a pixel shuffle each, then two at full size: ``(N, 3, 4*H, 4*W)``.

    The tail of EDVR, BasicVSR and their descendants; they keep it at their top under these names.
    It is added to ``onto``, which may lack its last rows and columns, and nobody may need again.
    Without gradients it goes in bands of rows, so that the features at full size, the largest of
    all, are never there at once. Each band is given the rows around it that reach it: the values
    are those of the whole, bit for bit.
    """
    parts = upconv1, upconv2, conv_hr, conv_last
    height, rows = x.shape[2], max(TAIL_REACH, _band_rows(x, conv_hr, 4))
    high, wide = onto.shape[2:]
    if rows >= height or (torch.is_grad_enabled() and x.requires_grad):
        return onto + _enlarged(x, *parts)[..., :high, :wide]
    for top in range(0, height, rows):
        end = min(top + rows, height)
        above, below = min(TAIL_REACH, top), min(TAIL_REACH, height - end)
        band = _enlarged(x[:, :, top - above : end + below], *parts, above, below)
        place = onto[:, :, 4 * top : 4 * end]
        place.add_(band[:, :, : place.shape[2], :wide])
    return onto


def enlarge_x2(
    x: Tensor,
    conv: nn.Conv2d,
    upconv: nn.Conv2d,
    conv_hr: nn.Conv2d,
    conv_last: nn.Conv2d,
    beside: Tensor,
) -> Tensor:
    """A convolution, one with a pixel shuffle, then two at full size: ``(N, 3, 2*H, 2*W)``.

    ``conv_hr`` sees ``beside``, which is of full size, beside the features. In bands as
    ``enlarge_x4``.
    """

    def enlarged(x: Tensor, beside: Tensor) -> Tensor:
        x = conv_shuffle_lrelu(upconv, conv_lrelu(conv, x))
        return conv_to_few(conv_last, conv_of(conv_hr, (beside, x)))

    height, rows = x.shape[2], max(TAIL_REACH_X2, _band_rows(x, conv_hr, 2))
    if rows >= height or (torch.is_grad_enabled() and x.requires_grad):
        return enlarged(x, beside)
    bands = []
    for top in range(0, height, rows):
        first, end = max(top - TAIL_REACH_X2, 0), min(top + rows, height)
        last = min(end + TAIL_REACH_X2, height)
        band = enlarged(x[:, :, first:last], beside[:, :, 2 * first : 2 * last])
        bands.append(_inner_rows(band, 2 * (top - first), 2 * (last - end)))
    return torch.cat(bands, 2)


def _band_rows(x: Tensor, conv_hr: nn.Conv2d, times: int) -> int:
    """Rows of ``x`` in a band, which is ``times`` as large at full size."""
    value_bytes = x.element_size() if x.device.type == "cuda" else 4
    row_bytes = times**2 * x.shape[3] * x.shape[0] * conv_hr.out_channels * value_bytes
    return band_bytes(x.device) // row_bytes


def band_bytes(device: torch.device) -> int:
    """Bytes of features at full size in a band: on a GPU its L2 cache's, where that is larger.

    Smaller bands would be more launches, and rows twice computed, for a cache that is not full. On
    a CPU twice as large ones gain 8% of a tail in float32, nothing in half precision; more is held.
    """
    if device.type != "cuda":
        return TAIL_BAND_BYTES
    cache: int = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
    return max(cache, GPU_BAND_BYTES)


def _enlarged(
    x: Tensor,
    upconv1: nn.Conv2d,
    upconv2: nn.Conv2d,
    conv_hr: nn.Conv2d,
    conv_last: nn.Conv2d,
    above: int = 0,
    below: int = 0,
) -> Tensor:
    """All but ``above`` and ``below`` rows, which are there to be seen; fewer at each size."""
    seen_above, seen_below = _reach(above), _reach(below)
    x = conv_shuffle_lrelu(upconv1, x)
    x = _inner_rows(x, 2 * above - seen_above, 2 * below - seen_below)
    x = conv_shuffle_lrelu(upconv2, x)
    x = _inner_rows(x, seen_above, seen_below)
    out = conv_to_few(conv_last, conv_lrelu(conv_hr, x))
    return _inner_rows(out, seen_above, seen_below)


def _reach(rows: int) -> int:
    """How many rows beyond its own a band sees at twice and at four times its size."""
    return 2 if rows else 0


def _inner_rows(x: Tensor, above: int, below: int) -> Tensor:
    return x[:, :, above : x.shape[2] - below]


def bilinear_x4(frame: Tensor) -> Tensor:
    """The frame that an x4 tail adds its picture to."""
    return F.interpolate(frame, scale_factor=4, mode="bilinear", align_corners=False)


def pad_to_multiple(frame: Tensor, multiple: int) -> Tensor:
    """Continued to the right and below until both sides divide: reflected, replicated if tiny."""
    h, w = frame.shape[2:]
    right, below = -w % multiple, -h % multiple
    if not right and not below:
        return frame
    mode = "reflect" if right < w and below < h else "replicate"
    return F.pad(frame, (0, right, 0, below), mode=mode)


def warp(x: Tensor, flow: Tensor, padding_mode: str = "zeros") -> Tensor:
    """Sample ``x`` at each pixel's place plus its flow, bilinearly (BasicVSR, eq. 4).

    ``x``: ``(N, C, H, W)``; ``flow``: ``(N, 2, H, W)`` in pixels, channel 0 = x. Coordinates are
    float32 whatever the type of ``x``: half precision holds no sub-pixel beyond column 1024.
    """
    if gpu_steps.serve(x):
        return gpu_steps.sampled(x, flow.float(), padding_mode)
    h, w = x.shape[2:]
    across = torch.arange(w, dtype=torch.float32, device=x.device) + flow[:, 0].float()
    down = torch.arange(h, dtype=torch.float32, device=x.device)[:, None] + flow[:, 1].float()
    grid = torch.stack((across * (2 / max(w - 1, 1)) - 1, down * (2 / max(h - 1, 1)) - 1), 3)
    sampled = F.grid_sample(x.float(), grid, padding_mode=padding_mode, align_corners=True)
    return sampled.to(x.dtype)
