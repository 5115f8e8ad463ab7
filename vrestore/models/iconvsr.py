"""IconVSR: BasicVSR with information refill at key frames and coupled propagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vrestore.models.edvr import EDVRFeatureExtractor
from vrestore.models.layers import (
    ConvResidualBlocks,
    bilinear_x4,
    enlarge_x4,
    pad_to_multiple,
    warp,
)
from vrestore.models.shapes import Shapes
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import Border, Features, Pass, RecurrentNetwork, Seen


class IconVSR(RecurrentNetwork):
    """IconVSR, of BasicVSR: The Search for Essential Components in Video Super-Resolution.

    Chan et al., CVPR 2021 (arXiv 2012.02181), sec. 4, fig. 4 and 5. Key frames are every
    ``keyframe_stride``-th frame of the shot and always its last; there, features of EDVR over
    ``2 * temporal_padding + 1`` frames (``num_edvr_feat`` wide) are joined to what is propagated.
    """

    scale = 4
    passes = (Pass("backward", step=-1), Pass("forward", step=+1, reads=("backward",)))
    border: Border = "padded_reflection"

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        keyframe_stride: int = 5,
        temporal_padding: int = 2,
        num_edvr_feat: int | None = None,
        num_extract_block: int = 5,
        deformable_groups: int = 8,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.num_feat = num_feat
        self.keyframe_stride = keyframe_stride
        self.context = temporal_padding
        self.period = keyframe_stride
        edvr_feat = num_edvr_feat or num_feat
        self.edvr = EDVRFeatureExtractor(
            num_feat=edvr_feat,
            num_frame=2 * temporal_padding + 1,
            deformable_groups=deformable_groups,
            num_extract_block=num_extract_block,
        )
        self.spynet = SPyNet(spynet_levels, spynet_kernel, spynet_widths)
        self.backward_fusion = nn.Conv2d(num_feat + edvr_feat, num_feat, 3, 1, 1)
        self.backward_trunk = ConvResidualBlocks(num_feat + 3, num_feat, num_block)
        self.forward_fusion = nn.Conv2d(num_feat + edvr_feat, num_feat, 3, 1, 1)
        self.forward_trunk = ConvResidualBlocks(2 * num_feat + 3, num_feat, num_block)
        self.upconv1 = nn.Conv2d(num_feat, num_feat * 4, 3, 1, 1)
        self.upconv2 = nn.Conv2d(num_feat, num_tail_feat * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_tail_feat, num_tail_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_tail_feat, 3, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = frozenset(
        {"edvr", "spynet", "backward_fusion", "forward_fusion", "backward_trunk", "forward_trunk"}
        | {"upconv1", "upconv2", "conv_hr", "conv_last"}
    )

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint; the stride is not in it."""
        edvr = EDVRFeatureExtractor.sizes(shapes.under("edvr."))
        return {
            "num_feat": shapes.size("backward_fusion.weight"),
            "num_block": shapes.count(r"backward_trunk\.main\.2\.(\d+)\."),
            "temporal_padding": edvr["num_frame"] // 2,
            "num_edvr_feat": edvr["num_feat"],
            "num_extract_block": edvr["num_extract_block"],
            "deformable_groups": edvr["deformable_groups"],
            "num_tail_feat": shapes.size("conv_hr.weight"),
            **{f"spynet_{k}": v for k, v in SPyNet.sizes(shapes.under("spynet.")).items()},
        }

    def encode(self, seen: Seen) -> Features:
        """The frame and its continuation to multiples of 4; at key frames the refill as well."""
        padded = pad_to_multiple(seen.frame, 4)
        if seen.index % self.keyframe_stride and not seen.last:
            return seen.frame, padded
        window = [self.edvr.pyramid(pad_to_multiple(frame, 4)) for frame in seen.frames]
        return seen.frame, padded, self.edvr.aligned_and_fused(window)

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
        """Warp the neighbour's features here, refill at key frames, refine (eq. 6 to 8)."""
        _, frame, *refill = x
        if states:
            state = warp(states[0], flows[0])
        else:
            state = frame.new_zeros(frame.shape[0], self.num_feat, *frame.shape[2:])
        backward = pass_.step < 0
        if refill:
            fusion = self.backward_fusion if backward else self.forward_fusion
            state = fusion(torch.cat((state, *refill), 1))
        trunk = self.backward_trunk if backward else self.forward_trunk
        out: Tensor = trunk(frame, *read, state)
        return out

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """The forward features, enlarged, on the bilinear frame."""
        frame, padded, *_ = x
        tail = self.upconv1, self.upconv2, self.conv_hr, self.conv_last
        out = enlarge_x4(features["forward"], *tail, bilinear_x4(padded))
        h, w = (4 * side for side in frame.shape[2:])
        return out[..., :h, :w]
