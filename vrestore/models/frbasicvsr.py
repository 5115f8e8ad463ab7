"""Frame-recurrent BasicVSR: each pass carries its picture at full size beside its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.layers import (
    ConvResidualBlocks,
    bilinear_x4,
    enlarge_x4,
    pad_to_multiple,
    warp,
)
from vrestore.models.shapes import Shapes
from vrestore.models.temporal import Features, Pass, Seen

BLOCK_PX = 4  # side of what one place of the features becomes
LUMA = BLOCK_PX**2  # channels of a picture of luma packed into such places
COLOUR = 3 * LUMA


class FRBasicVSR(BasicVSR):
    """BasicVSR (arXiv 2012.02181) with the recurrence of FRVSR (arXiv 1801.04590, fig. 2). Ours.

    What BasicVSR carries along are features as small as the input. Moved by part of a pixel they
    are blurred, and a trunk has to learn to see through that: the published one does, with 30
    blocks and 300,000 steps. FRVSR carries the restored frame, moved at full size, where the same
    motion is four times as many pixels and little is lost. Here a pass does both: of its features a
    1x1 convolution paints what luma has beyond the frame; moved by the flow at full size and packed
    into channels again (space-to-depth, FRVSR sec. 3.1), the trunk sees it beside the features. The
    mean of both passes' pictures is part of the output, so that each learns to paint.

    ``hr_in``: input and output of one size (deblocking, denoising). Trunks see 4x4 blocks of the
    frame packed into channels, as in Real-ESRGAN's x2 and x1 models (arXiv 2107.10833, fig. 4),
    flow is found in the means of the blocks, where noise averages out, and the tail sees the frame
    beside its features: what spoils single pixels need not pass through those.
    """

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
        super().__init__(
            num_feat, num_block, num_tail_feat, spynet_levels, spynet_kernel, spynet_widths
        )
        self.hr_in = hr_in
        self.scale = 1 if hr_in else 4
        num_in_ch = (COLOUR if hr_in else 3) + LUMA + num_feat
        self.backward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.picture = nn.Conv2d(num_feat, LUMA, 1)
        if hr_in:
            self.conv_hr = nn.Conv2d(num_tail_feat + 3, num_tail_feat, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = BasicVSR.parts | {"picture"}

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint."""
        sizes, first = BasicVSR.sizes(shapes), "backward_trunk.main.0.weight"
        frame_channels = shapes.size(first, 1) - LUMA - sizes["num_feat"]
        if frame_channels not in (3, COLOUR):
            raise LookupError(first)
        return sizes | {"hr_in": frame_channels == COLOUR}

    def encode(self, seen: Seen) -> Features:
        """The frame; of the same-size form also its blocks, packed, and their means.

        ``(N, 3, H, W)``; ``(N, 48, H/4, W/4)`` and ``(N, 3, H/4, W/4)`` of the frame continued to
        whole blocks.
        """
        if not self.hr_in:
            return (seen.frame,)
        padded = pad_to_multiple(seen.frame, BLOCK_PX)
        blocks, means = F.pixel_unshuffle(padded, BLOCK_PX), F.avg_pool2d(padded, BLOCK_PX)
        return seen.frame, blocks, means

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
        """Move the neighbour's picture and features here, join them with the frame, refine."""
        frame = x[1] if self.hr_in else x[0]
        if states:
            carried = self.moved_picture(states[0], flows[0]), warp(states[0], flows[0])
        else:
            n, _, h, w = frame.shape
            carried = frame.new_zeros(n, LUMA, h, w), frame.new_zeros(n, self.num_feat, h, w)
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        out: Tensor = trunk(torch.cat((frame.to(carried[0].dtype), *carried), 1))
        return out

    def moved_picture(self, state: Tensor, flow: Tensor) -> Tensor:
        """A neighbour's picture, moved at full size: ``(N, 16, H, W)``, packed."""
        at_full_size = F.interpolate(
            flow, scale_factor=BLOCK_PX, mode="bilinear", align_corners=False
        )
        painted = unpacked(self.picture(state))
        return packed(warp(painted, at_full_size * BLOCK_PX, padding_mode="border"))

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """As BasicVSR, and the mean of what both passes painted.

        The same-size form leaves out what the last blocks have beyond the frame.
        """
        frame = x[0]
        beside = pad_to_multiple(frame, BLOCK_PX) if self.hr_in else None
        mean = (features["backward"] + features["forward"]) / 2
        out = enlarge_x4(self.fused(features), *self.tail, beside) + unpacked(self.picture(mean))
        if not self.hr_in:
            return out + bilinear_x4(frame)
        h, w = frame.shape[2:]
        return out[..., :h, :w] + frame


def unpacked(blocks: Tensor) -> Tensor:
    """``F.pixel_shuffle(blocks, 4)`` to one channel; faster where channels are last in memory."""
    n, _, h, w = blocks.shape
    rows = blocks.permute(0, 2, 3, 1).reshape(n, h, w, BLOCK_PX, BLOCK_PX).transpose(2, 3)
    return rows.reshape(n, 1, BLOCK_PX * h, BLOCK_PX * w)


def packed(picture: Tensor) -> Tensor:
    """``F.pixel_unshuffle(picture, 4)`` of one channel, with channels last in memory."""
    n, h, w = picture.shape[0], picture.shape[2] // BLOCK_PX, picture.shape[3] // BLOCK_PX
    rows = picture.reshape(n, h, BLOCK_PX, w, BLOCK_PX).transpose(2, 3)
    return rows.reshape(n, h, w, LUMA).permute(0, 3, 1, 2)
