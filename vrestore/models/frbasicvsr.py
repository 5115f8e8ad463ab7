"""Frame-recurrent BasicVSR: each pass carries its picture at full size beside its features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.layers import (
    ConvResidualBlocks,
    bilinear_x4,
    enlarge_x2,
    enlarge_x4,
    pad_to_multiple,
    warp,
)
from vrestore.models.shapes import Shapes
from vrestore.models.temporal import Features, Pass, Seen

FLOW_PX = 4  # of the output are one place of a flow, to a side
LARGEST = 2.0  # value of a state: on natural film most stay near 1


class FRBasicVSR(BasicVSR):
    """BasicVSR (arXiv 2012.02181) with the recurrence of FRVSR (arXiv 1801.04590, fig. 2). Ours.

    What BasicVSR carries along are features as small as the input. Moved by part of a pixel they
    are blurred, and a trunk has to learn to see through that: the published one does, with 30
    blocks and 300,000 steps. FRVSR carries the restored frame, moved at full size, where the same
    motion is four times as many pixels and little is lost. Here a pass does both: of its features a
    1x1 convolution paints what luma has beyond the frame; moved by the flow at full size and packed
    into channels again (space-to-depth, FRVSR sec. 3.1), the trunk sees it beside the features. The
    mean of both passes' pictures is part of the output, so that each learns to paint.

    What was painted of noise is the noise with its sign turned, and that of another frame is of no
    use alone. So a trunk also sees by how much the luma of the neighbour, moved, differs from its
    frame's: it knows then what the two together are, and what was moved to a wrong place.

    A small flow network finds some motion where there is none, a twentieth of a pixel and more, and
    what goes round in a still shot is blurred by it step after step. So from every flow that is
    taken which the network finds between a frame and itself: one of each two neighbours serves.

    No state has a value beyond ``LARGEST``: on test charts, whose edges are harder than film's,
    what went round grew by half at each step, to 1e8, and the picture was noise.

    ``hr_in``: input and output of one size (deblocking, denoising). Trunks see 2x2 blocks of the
    frame packed into channels, as in Real-ESRGAN's x2 and x1 models (arXiv 2107.10833, fig. 4),
    flow is found in the means of 4x4 blocks, where noise averages out, and the tail sees the frame
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
        self.block_px = 2 if hr_in else 4  # side of what one place of the features becomes
        luma = self.block_px**2  # channels of a picture of luma packed into such places
        num_in_ch = (3 * luma + luma if hr_in else 3 + 1) + luma + num_feat
        self.backward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.forward_trunk = ConvResidualBlocks(num_in_ch, num_feat, num_block)
        self.picture = nn.Conv2d(num_feat, luma, 1)
        if hr_in:
            self.upconv1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
            self.conv_hr = nn.Conv2d(num_tail_feat + 3, num_tail_feat, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = BasicVSR.parts | {"picture"}
    context = 1  # a trunk sees the luma of a neighbour
    period = 2  # of two frames one finds what flow it has to itself

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint."""
        sizes, first = BasicVSR.sizes(shapes), "backward_trunk.main.0.weight"
        beside_features = shapes.size(first, 1) - sizes["num_feat"]
        if beside_features not in (3 + 1 + 16, 12 + 4 + 4):
            raise LookupError(first)
        return sizes | {"hr_in": shapes.size("picture.weight") == 4}

    def encode(self, seen: Seen) -> Features:
        """The frame, luma before it, its own and after it, and what flow it has to itself.

        ``(N, 3, H, W)`` twice, ``(N, 2, H, W)``, zeros in every second frame. The same-size form
        has the luma of frames continued to whole blocks, the flow of the means of 4x4 of these, and
        besides their blocks of 2x2, packed, and those means: ``(N, 12, H/2, W/2)``,
        ``(N, 3, H/4, W/4)``.
        """
        before, frame, after = (pad_to_multiple(f, FLOW_PX // self.scale) for f in seen.frames)
        luma = torch.cat([_luma(f) for f in (before, frame, after)], 1)
        if not self.hr_in:
            return seen.frame, luma, self.at_rest(frame, seen)
        blocks, means = F.pixel_unshuffle(frame, self.block_px), F.avg_pool2d(frame, FLOW_PX)
        return seen.frame, luma, self.at_rest(means, seen), blocks, means

    def at_rest(self, frame: Tensor, seen: Seen) -> Tensor:
        """The flow from a frame to itself, for it and for its neighbours, which have zeros."""
        if seen.index % 2:
            return frame.new_zeros(frame.shape[0], 2, *frame.shape[2:])
        return self.spynet(frame, frame)  # type: ignore[no-any-return]

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Both directions in one batch, less what one of the frames has to itself.

        Of the frames, or of the means of their blocks.
        """
        there, back = self.spynet.both_ways(*((a[4], b[4]) if self.hr_in else (a[0], b[0])))
        rest = a[2] + b[2]
        return there - rest, back - rest

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Move a neighbour's luma, picture and features here, join them with the frame, refine."""
        frame = x[3] if self.hr_in else x[0]
        if states:
            before, luma, after = x[1].split_with_sizes((1, 1, 1), 1)
            carried = (
                self.difference(luma, after if pass_.step < 0 else before, flows[0]),
                self.moved_picture(states[0], flows[0]),
                warp(states[0], _enlarged(flows[0], FLOW_PX // self.block_px)),
            )
        else:
            n, _, h, w = frame.shape
            luma = frame.new_zeros(n, 4 if self.hr_in else 1, h, w)
            picture = frame.new_zeros(n, self.picture.out_channels, h, w)
            carried = luma, picture, frame.new_zeros(n, self.num_feat, h, w)
        trunk = self.backward_trunk if pass_.step < 0 else self.forward_trunk
        return bounded(trunk(frame, *carried))

    def difference(self, luma: Tensor, neighbour: Tensor, flow: Tensor) -> Tensor:
        """The neighbour's luma, moved here, less this: ``(N, 1, H, W)``; ``hr_in``: 4, packed."""
        moved = warp(neighbour, _enlarged(flow, FLOW_PX // self.scale), padding_mode="border")
        return packed(moved - luma, self.block_px // self.scale)

    def moved_picture(self, state: Tensor, flow: Tensor) -> Tensor:
        """A neighbour's picture, moved at full size: ``(N, 16, H, W)``, packed; ``hr_in``: 4."""
        painted = unpacked(self.picture(state))
        moved = warp(painted, _enlarged(flow, FLOW_PX), padding_mode="border")
        return packed(moved, self.block_px)

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """As BasicVSR, and the mean of what both passes painted.

        The same-size form leaves out what the last blocks have beyond the frame.
        """
        frame = x[0]
        mean = (features["backward"] + features["forward"]) / 2
        painted, fused = unpacked(self.picture(mean)), self.fused(features)
        if not self.hr_in:
            # In place, from what is laid out as frames are: half the time of three sums.
            return enlarge_x4(fused, *self.tail, bilinear_x4(frame).add_(painted))
        out = enlarge_x2(fused, *self.tail, pad_to_multiple(frame, FLOW_PX)) + painted
        h, w = frame.shape[2:]
        return out[..., :h, :w] + frame


def bounded(state: Tensor) -> Tensor:
    """``(N, C, H, W)``, each place made smaller where a value there is beyond ``LARGEST``.

    Where none is, the same bits.
    """
    if state.device.type == "cpu":  # all of them in memory's order: place by place takes longer
        low, high = torch.aminmax(state.permute(0, 2, 3, 1))
        if max(-low, high) <= LARGEST:
            return state
    largest = torch.maximum(state.amax(1, True), -state.amin(1, True))
    return state * (LARGEST / largest.clamp_min(LARGEST))


def _luma(frame: Tensor) -> Tensor:
    """Grey, ``(N, 1, H, W)``."""
    return 0.299 * frame[:, :1] + 0.587 * frame[:, 1:2] + 0.114 * frame[:, 2:]


def _enlarged(flow: Tensor, times: int) -> Tensor:
    """The flow of frames so many times as large."""
    if times == 1:
        return flow
    larger = F.interpolate(flow, scale_factor=times, mode="bilinear", align_corners=False)
    return larger * times


def unpacked(blocks: Tensor) -> Tensor:
    """``F.pixel_shuffle`` to one channel; faster where channels are last in memory."""
    n, channels, h, w = blocks.shape
    side = math.isqrt(channels)
    rows = blocks.permute(0, 2, 3, 1).reshape(n, h, w, side, side).transpose(2, 3)
    return rows.reshape(n, 1, side * h, side * w)


def packed(picture: Tensor, side: int) -> Tensor:
    """``F.pixel_unshuffle(picture, side)`` of one channel, with channels last in memory."""
    n, h, w = picture.shape[0], picture.shape[2] // side, picture.shape[3] // side
    rows = picture.reshape(n, h, side, w, side).transpose(2, 3)
    return rows.reshape(n, h, w, side**2).permute(0, 3, 1, 2)
