"""BasicVSR: bidirectional propagation, flow alignment of features, x4; a same-size form of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.layers import (
    ConvResidualBlocks,
    bilinear_x4,
    enlarge_x4,
    pad_to_multiple,
    warp,
)
from vrestore.models.one_step import conv_lrelu
from vrestore.models.shapes import Shapes
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen

BLOCK_PX = 4  # side of what the same-size form packs into one place; its tail unpacks as much
PACKED = 3 * BLOCK_PX**2  # channels of a picture so packed


class BasicVSR(RecurrentNetwork):
    """BasicVSR: The Search for Essential Components in Video Super-Resolution and Beyond.

    Chan et al., CVPR 2021 (arXiv 2012.02181), sec. 3, fig. 2 and 3. Published size: 64 features,
    30 blocks. BasicSR fixes the sizes of the flow network and of the last upsampling stage; here
    they are arguments too, so that a compact variant is the same class.

    ``hr_in``: input and output of one size (deblocking, denoising). This form is ours, not the
    paper's: trunks see 4x4 blocks packed into channels, as in Real-ESRGAN's x2 and x1 models (arXiv
    2107.10833, fig. 4), and flow is found in the means of the blocks, where noise averages out.
    """

    passes = (Pass("backward", step=-1), Pass("forward", step=+1))

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
        hr_in: bool = False,
    ) -> None:
        super().__init__()
        self.num_feat = num_feat
        self.hr_in = hr_in
        self.scale = 1 if hr_in else 4
        num_in_ch = num_feat + (PACKED if hr_in else 3)
        self.spynet = SPyNet(spynet_levels, spynet_kernel, spynet_widths)
        self.backward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.fusion = nn.Conv2d(num_feat * 2, num_feat, 1, 1, 0)
        self.upconv1 = nn.Conv2d(num_feat, num_feat * 4, 3, 1, 1)
        self.upconv2 = nn.Conv2d(num_feat, num_tail_feat * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_tail_feat, num_tail_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_tail_feat, 3, 3, 1, 1)
        # Here, not in the engine: the layout of the weights decides the order of the sums, and
        # every way to run the network must give the same bits. 1.5 times as fast on CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = frozenset(
        {"spynet", "backward_trunk", "forward_trunk", "fusion"}
        | {"upconv1", "upconv2", "conv_hr", "conv_last"}
    )

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint."""
        sizes, first = BasicVSR.common_sizes(shapes), "backward_trunk.main.0.weight"
        picture_channels = shapes.size(first, 1) - sizes["num_feat"]
        if picture_channels not in (3, PACKED):
            raise LookupError(first)
        return sizes | {"hr_in": picture_channels == PACKED}

    @staticmethod
    def common_sizes(shapes: Shapes) -> dict[str, Any]:
        """Those arguments that do not depend on what the trunks see."""
        return {
            "num_feat": shapes.size("fusion.weight"),
            "num_block": shapes.count(r"backward_trunk\.main\.2\.(\d+)\."),
            "num_tail_feat": shapes.size("conv_hr.weight"),
            **{f"spynet_{k}": v for k, v in SPyNet.sizes(shapes.under("spynet.")).items()},
        }

    def encode(self, seen: Seen) -> Features:
        """The frame; of the same-size form also its blocks, packed, and their means.

        ``(N, 3, H, W)``; ``(N, 48, H/4, W/4)`` and ``(N, 3, H/4, W/4)`` of the frame continued to
        whole blocks.
        """
        if not self.hr_in:
            return (seen.frame,)
        padded = pad_to_multiple(seen.frame, BLOCK_PX)
        packed, small = F.pixel_unshuffle(padded, BLOCK_PX), F.avg_pool2d(padded, BLOCK_PX)
        return seen.frame, packed, small

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Both directions in one batch; of the frames, or of the means of their blocks."""
        return self.spynet.both_ways(a[-1], b[-1])

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Warp the neighbour's features here, join them with the frame, refine (eq. 3 to 5)."""
        picture = x[1] if self.hr_in else x[0]
        if states:
            state = warp(states[0], flows[0])
        else:
            state = picture.new_zeros(picture.shape[0], self.num_feat, *picture.shape[2:])
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        out: Tensor = trunk(torch.cat((picture.to(state.dtype), state), 1))
        return out

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse both directions, enlarge twice by pixel shuffle, add the bilinear frame (fig. 3).

        The same-size form adds the frame itself, and leaves out what the last blocks have beyond
        it.
        """
        frame = x[0]
        fused = conv_lrelu(self.fusion, torch.cat((features["backward"], features["forward"]), 1))
        tail = (self.upconv1, self.upconv2, self.conv_hr, self.conv_last)
        h, w = (side * self.scale for side in frame.shape[2:])
        return enlarge_x4(fused, *tail)[..., :h, :w] + (frame if self.hr_in else bilinear_x4(frame))
