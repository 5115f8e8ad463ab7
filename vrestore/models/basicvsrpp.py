"""BasicVSR++: second-order grid propagation, flow-guided deformable alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.deform import modulated_deform_conv
from vrestore.models.layers import (
    ConvResidualBlocks,
    bilinear_x4,
    enlarge_x4,
    pad_to_multiple,
    warp,
)
from vrestore.models.shapes import Shapes
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen


class SecondOrderDeformableAlignment(nn.Module):
    """Flow-guided deformable alignment of two past states (sec. 3.2, fig. 3, eq. 4 to 8)."""

    def __init__(self, num_feat: int, deformable_groups: int, max_residue_magnitude: float) -> None:
        super().__init__()
        self.max_residue_magnitude = max_residue_magnitude
        self.weight = nn.Parameter(torch.empty(num_feat, num_feat * 2, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_feat))
        self.conv_offset = nn.Sequential(
            nn.Conv2d(3 * num_feat + 4, num_feat, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(num_feat, num_feat, 3, 1, 1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(num_feat, 27 * deformable_groups, 3, 1, 1),
        )
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        for parameter in self.conv_offset[-1].parameters():  # at first it looks where flows point
            nn.init.zeros_(parameter)

    def forward(self, states: Tensor, condition: Tensor, flow1: Tensor, flow2: Tensor) -> Tensor:
        """``states``: both, not warped, ``(N, 2*C, H, W)`` -> aligned ``(N, C, H, W)``.

        ``condition``: the current features between both warped states. ``flow1``, ``flow2``: from
        this frame to those of the states.
        """
        out = self.conv_offset(torch.cat((condition, flow1, flow2), 1))
        dy_dx_first, dy_dx_second, mask = out.chunk(3, 1)
        residue = torch.tanh(torch.cat((dy_dx_first, dy_dx_second), 1).float())
        first, second = (self.max_residue_magnitude * residue).chunk(2, 1)
        # Half of the groups look at the first state. Offsets are (y, x), flows (x, y).
        points = first.shape[1] // 2
        first = first + flow1.flip(1).repeat(1, points, 1, 1)
        second = second + flow2.flip(1).repeat(1, points, 1, 1)
        offset = torch.cat((first, second), 1)
        weights = self.weight, self.bias
        return modulated_deform_conv(states, offset, torch.sigmoid(mask), *weights, padding=1)


class BasicVSRPlusPlus(RecurrentNetwork):
    """BasicVSR++: Improving Video Super-Resolution with Enhanced Propagation and Alignment.

    Chan et al., CVPR 2022 (arXiv 2104.13371), fig. 2. Published sizes: 64 features with 7 blocks
    (x4), 64 with 15 and 128 with 25 (NTIRE 2021). ``is_low_res_input`` False: output of the input's
    size (deblurring, denoising, decompression), with features at a quarter of it.
    """

    passes = (
        Pass("backward_1", step=-1, order=2),
        Pass("forward_1", step=+1, reads=("backward_1",), order=2),
        Pass("backward_2", step=-1, reads=("backward_1", "forward_1"), order=2),
        Pass("forward_2", step=+1, reads=("backward_1", "forward_1", "backward_2"), order=2),
    )

    def __init__(
        self,
        mid_channels: int = 64,
        num_blocks: int = 7,
        max_residue_magnitude: float = 10,
        is_low_res_input: bool = True,
        deformable_groups: int = 16,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.mid_channels = mid_channels
        self.is_low_res_input = is_low_res_input
        self.scale = 4 if is_low_res_input else 1
        self.spynet = SPyNet(spynet_levels, spynet_kernel, spynet_widths)
        self.feat_extract: nn.Module
        if is_low_res_input:
            self.feat_extract = ConvResidualBlocks(3, mid_channels, 5)
        else:
            self.feat_extract = nn.Sequential(
                nn.Conv2d(3, mid_channels, 3, 2, 1),
                nn.LeakyReLU(0.1, inplace=True),
                nn.Conv2d(mid_channels, mid_channels, 3, 2, 1),
                nn.LeakyReLU(0.1, inplace=True),
                ConvResidualBlocks(mid_channels, mid_channels, 5),
            )
        self.deform_align = nn.ModuleDict()
        self.backbone = nn.ModuleDict()
        for pass_ in self.passes:
            self.deform_align[pass_.name] = SecondOrderDeformableAlignment(
                mid_channels, deformable_groups, max_residue_magnitude
            )
            width = (2 + len(pass_.reads)) * mid_channels
            self.backbone[pass_.name] = ConvResidualBlocks(width, mid_channels, num_blocks)
        self.reconstruction = ConvResidualBlocks(5 * mid_channels, mid_channels, 5)
        self.upconv1 = nn.Conv2d(mid_channels, mid_channels * 4, 3, 1, 1)
        self.upconv2 = nn.Conv2d(mid_channels, num_tail_feat * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_tail_feat, num_tail_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_tail_feat, 3, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = frozenset(
        {"spynet", "feat_extract", "deform_align", "backbone", "reconstruction"}
        | {"upconv1", "upconv2", "conv_hr", "conv_last"}
    )

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint; the largest residue is not in it."""
        offsets = shapes.size("deform_align.backward_1.conv_offset.6.weight")
        return {
            "mid_channels": shapes.size("upconv1.weight", 1),
            "num_blocks": shapes.count(r"backbone\.backward_1\.main\.2\.(\d+)\."),
            "is_low_res_input": shapes.has("feat_extract.main."),
            "deformable_groups": offsets // 27,
            "num_tail_feat": shapes.size("conv_hr.weight"),
            **{f"spynet_{k}": v for k, v in SPyNet.sizes(shapes.under("spynet.")).items()},
        }

    def encode(self, seen: Seen) -> Features:
        """Features, the picture that flow is found in, and the frame."""
        frame = seen.frame
        if self.is_low_res_input:
            return self.feat_extract(frame), frame, frame
        padded = pad_to_multiple(frame, 4)
        small = F.interpolate(padded, scale_factor=0.25, mode="bicubic", align_corners=False)
        return self.feat_extract(padded), small, frame

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Both directions in one batch."""
        return self.spynet.both_ways(a[1], b[1])

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """Align both past states to this frame, refine them beside what it already has (eq. 1)."""
        current = x[0]
        aligned = torch.zeros_like(current)
        if states:
            state, flow1 = states[0], flows[0]
            warped1 = warp(state, flow1)
            before, flow2, warped2 = (torch.zeros_like(t) for t in (state, flow1, warped1))
            if len(states) > 1:
                before = states[1]
                flow2 = flow1 + warp(flows[1], flow1)  # first to the neighbour, on from there
                warped2 = warp(before, flow2)
            condition = torch.cat((warped1, current, warped2), 1)
            both = torch.cat((state, before), 1)
            aligned = self.deform_align[pass_.name](both, condition, flow1, flow2)
        out: Tensor = self.backbone[pass_.name](torch.cat((current, *read, aligned), 1))
        return aligned + out

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """All branches and the features of the frame, refined; two pixel shuffles; the frame."""
        current, _, frame = x
        joined = torch.cat((current, *(features[p.name] for p in self.passes)), 1)
        tail = self.upconv1, self.upconv2, self.conv_hr, self.conv_last
        onto = bilinear_x4(frame) if self.is_low_res_input else frame.clone()
        return enlarge_x4(self.reconstruction(joined), *tail, onto)
