"""Frame-recurrent BasicVSR: each pass carries its picture at full size beside its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.layers import ConvResidualBlocks, warp
from vrestore.models.shapes import Shapes
from vrestore.models.temporal import Features, Pass

PICTURE = 16  # channels of a x4 picture of luma, every 4x4 block of it in one place


class FRBasicVSR(BasicVSR):
    """BasicVSR (arXiv 2012.02181) with the recurrence of FRVSR (arXiv 1801.04590, fig. 2).

    What BasicVSR carries along are features as small as the input. Moved by part of a pixel they
    are blurred, and a trunk has to learn to see through that: the published one does, with 30
    blocks and months of a GPU. FRVSR carries the restored frame, moved at full size, where the same
    motion is four times as many pixels and little is lost. Here a pass does both: of its features a
    1x1 convolution paints what luma has beyond the enlarged frame; moved by the flow at full size
    and packed into channels again (space-to-depth, FRVSR sec. 3.1), the trunk sees it beside the
    features. The mean of both passes' pictures is part of the output, so that each learns to paint.
    """

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__(
            num_feat, num_block, num_tail_feat, spynet_levels, spynet_kernel, spynet_widths
        )
        num_in_ch = 3 + PICTURE + num_feat
        self.backward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.picture = nn.Conv2d(num_feat, PICTURE, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = BasicVSR.parts | {"picture"}

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint."""
        sizes, first = BasicVSR.common_sizes(shapes), "backward_trunk.main.0.weight"
        if shapes.size(first, 1) != 3 + PICTURE + sizes["num_feat"]:
            raise LookupError(first)
        return sizes

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Move the neighbour's picture and features here, join them with the frame, refine."""
        frame = x[0]
        if states:
            carried = self.moved_picture(states[0], flows[0]), warp(states[0], flows[0])
        else:
            n, _, h, w = frame.shape
            carried = frame.new_zeros(n, PICTURE, h, w), frame.new_zeros(n, self.num_feat, h, w)
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        out: Tensor = trunk(torch.cat((frame.to(carried[0].dtype), *carried), 1))
        return out

    def moved_picture(self, state: Tensor, flow: Tensor) -> Tensor:
        """A neighbour's picture, moved at full size: ``(N, 16, H, W)``, packed."""
        at_full_size = F.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False) * 4
        painted = unpacked(self.picture(state))
        return packed(warp(painted, at_full_size, padding_mode="border"))

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """As BasicVSR, and the mean of what both passes painted."""
        mean = (features["backward"] + features["forward"]) / 2
        return super().render(x, features) + unpacked(self.picture(mean))


def unpacked(blocks: Tensor) -> Tensor:
    """``F.pixel_shuffle(blocks, 4)`` to one channel; faster where channels are last in memory."""
    n, _, h, w = blocks.shape
    rows = blocks.permute(0, 2, 3, 1).reshape(n, h, w, 4, 4).transpose(2, 3)
    return rows.reshape(n, 1, 4 * h, 4 * w)


def packed(picture: Tensor) -> Tensor:
    """``F.pixel_unshuffle(picture, 4)`` of one channel, with channels last in memory."""
    n, _, h, w = picture.shape
    rows = picture.reshape(n, h // 4, 4, w // 4, 4).transpose(2, 3)
    return rows.reshape(n, h // 4, w // 4, PICTURE).permute(0, 3, 1, 2)
