"""BasicVSR: bidirectional propagation, flow alignment of features, x4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vrestore.models.layers import ConvResidualBlocks, bilinear_x4, enlarge_x4, warp
from vrestore.models.one_step import conv_lrelu
from vrestore.models.shapes import Shapes
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen


class BasicVSR(RecurrentNetwork):
    """BasicVSR: The Search for Essential Components in Video Super-Resolution and Beyond.

    Chan et al., CVPR 2021 (arXiv 2012.02181), sec. 3, fig. 2 and 3. Published size: 64 features,
    30 blocks. BasicSR fixes the sizes of the flow network and of the last upsampling stage; here
    they are arguments too, so that a compact variant is the same class.
    """

    scale = 4
    passes = (Pass("backward", step=-1), Pass("forward", step=+1))

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.num_feat = num_feat
        self.spynet = SPyNet(spynet_levels, spynet_kernel, spynet_widths)
        self.backward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
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
        return {
            "num_feat": shapes.size("fusion.weight"),
            "num_block": shapes.count(r"backward_trunk\.main\.2\.(\d+)\."),
            "num_tail_feat": shapes.size("conv_hr.weight"),
            **{f"spynet_{k}": v for k, v in SPyNet.sizes(shapes.under("spynet.")).items()},
        }

    def encode(self, seen: Seen) -> Features:
        """The frame itself."""
        return (seen.frame,)

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Both directions in one batch."""
        return self.spynet.both_ways(a[0], b[0])

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Warp the neighbour's features here, join them with the frame, refine (eq. 3 to 5)."""
        frame = x[0]
        if states:
            state = warp(states[0], flows[0])
        else:
            state = frame.new_zeros(frame.shape[0], self.num_feat, *frame.shape[2:])
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        out: Tensor = trunk(frame, state)
        return out

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse both directions, enlarge twice by pixel shuffle, add the bilinear frame (fig. 3)."""
        return enlarge_x4(self.fused(features), *self.tail, bilinear_x4(x[0]))

    def fused(self, features: Mapping[str, Tensor]) -> Tensor:
        """The features of both directions as one."""
        both = torch.cat((features["backward"], features["forward"]), 1)
        return conv_lrelu(self.fusion, both)

    @property
    def tail(self) -> tuple[nn.Conv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]:
        """The layers that make a picture of features."""
        return self.upconv1, self.upconv2, self.conv_hr, self.conv_last
