"""BasicVSR: bidirectional propagation, flow alignment of features, x4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.layers import ConvResidualBlocks, warp
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import Pass, RecurrentNetwork


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

    def encode(self, frame: Tensor) -> Tensor:
        """The frame itself is the input of both passes."""
        return frame

    def flow(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Both directions in one batch."""
        there, back = self.spynet(torch.cat((a, b)), torch.cat((b, a))).chunk(2)
        return there, back

    def advance(
        self,
        pass_: Pass,
        x: Tensor,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Warp the neighbour's features here, join them with the frame, refine (eq. 3 to 5)."""
        if states:
            state = warp(states[0], flows[0])
        else:
            state = x.new_zeros(x.shape[0], self.num_feat, *x.shape[2:])
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        out: Tensor = trunk(torch.cat((x, state), 1))
        return out

    def render(self, frame: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Fuse both directions, enlarge twice by pixel shuffle, add the bilinear frame (fig. 3)."""
        x = torch.cat((features["backward"], features["forward"]), 1)
        x = F.leaky_relu(self.fusion(x), 0.1, inplace=True)
        x = F.leaky_relu(F.pixel_shuffle(self.upconv1(x), 2), 0.1, inplace=True)
        x = F.leaky_relu(F.pixel_shuffle(self.upconv2(x), 2), 0.1, inplace=True)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.1, inplace=True))
        base = F.interpolate(frame, scale_factor=4, mode="bilinear", align_corners=False)
        out: Tensor = x + base
        return out
