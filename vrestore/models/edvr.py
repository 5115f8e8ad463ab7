"""EDVR: windows of frames aligned by deformable convolution, fused by attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.deform import modulated_deform_conv
from vrestore.models.layers import (
    ResidualBlockNoBN,
    bilinear_x4,
    enlarge_x4,
    pad_to_multiple,
    residual_blocks,
)
from vrestore.models.one_step import conv_lrelu
from vrestore.models.shapes import Shapes
from vrestore.models.temporal import Border, Features, WindowNetwork


class DCNv2Pack(nn.Module):
    """A modulated deformable convolution whose offsets and masks come from other features."""

    def __init__(self, num_feat: int, deformable_groups: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_feat, num_feat, 3, 3))
        self.bias = nn.Parameter(torch.zeros(num_feat))
        self.conv_offset = nn.Conv2d(num_feat, deformable_groups * 3 * 9, 3, 1, 1)
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        nn.init.zeros_(self.conv_offset.weight)  # at first it looks where a stiff kernel looks
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, feat: Tensor) -> Tensor:
        """``x`` convolved where ``feat`` says, both ``(N, C, H, W)``.

        In half precision the offsets are halves as well, of 1/16 px or so; places are float32.
        """
        out = self.conv_offset(feat)
        offset, mask = out.tensor_split((out.shape[1] // 3 * 2,), 1)
        weights = self.weight, self.bias
        return modulated_deform_conv(x, offset, torch.sigmoid(mask), *weights, padding=1)


class PCDAlignment(nn.Module):
    """Pyramid, cascading and deformable alignment of a neighbour (sec. 3.2, fig. 3)."""

    def __init__(self, num_feat: int = 64, deformable_groups: int = 8) -> None:
        super().__init__()

        def conv(c_in: int) -> nn.Conv2d:
            return nn.Conv2d(c_in, num_feat, 3, 1, 1)

        levels = ("l3", "l2", "l1")
        self.offset_conv1 = nn.ModuleDict({k: conv(num_feat * 2) for k in levels})
        self.offset_conv2 = nn.ModuleDict(
            {k: conv(num_feat if k == "l3" else num_feat * 2) for k in levels}
        )
        self.offset_conv3 = nn.ModuleDict({k: conv(num_feat) for k in levels[1:]})
        self.dcn_pack = nn.ModuleDict({k: DCNv2Pack(num_feat, deformable_groups) for k in levels})
        self.feat_conv = nn.ModuleDict({k: conv(num_feat * 2) for k in levels[1:]})
        self.cas_offset_conv1 = conv(num_feat * 2)
        self.cas_offset_conv2 = conv(num_feat)
        self.cas_dcnpack = DCNv2Pack(num_feat, deformable_groups)

    def of_neighbour(self, pyramid: Features) -> Features:
        """What the offsets of every level are made of, as far as the neighbour decides it.

        The first convolution sees both frames, and is linear: a half for each, the neighbour's once
        for all the windows that it is in, the reference's once for all the neighbours of a window.
        """
        return tuple(half(self.offset_conv1[k], x, 0) for k, x in self._levels(pyramid))

    def of_reference(self, pyramid: Features) -> Features:
        """The other halves, and the cascade's."""
        levels = [half(self.offset_conv1[k], x, 1) for k, x in self._levels(pyramid)]
        return *levels, half(self.cas_offset_conv1, pyramid[0], 1)

    def forward(self, nbr: Features, of_nbr: Features, of_ref: Features) -> Tensor:
        """A pyramid of three levels, finest first, and both halves -> its finest level, aligned."""
        l1, l2, l3 = (lrelu(n + r) for n, r in zip(of_nbr, of_ref[:3], strict=True))
        offset = conv_lrelu(self.offset_conv2["l3"], l3)
        feat = lrelu(self.dcn_pack["l3"](nbr[2], offset))
        offset, feat = self.at("l2", nbr[1], l2, (twice(offset) * 2, twice(feat)))
        offset, feat = self.at("l1", nbr[0], l1, (twice(offset) * 2, twice(lrelu(feat))))
        offset = lrelu(half(self.cas_offset_conv1, feat, 0) + of_ref[3])
        offset = conv_lrelu(self.cas_offset_conv2, offset)
        return lrelu(self.cas_dcnpack(feat, offset))

    def at(
        self, level: str, nbr: Tensor, offset: Tensor, coarser: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """A finer level: the features that the offsets are made of, and the aligned neighbour."""
        offset = conv_lrelu(self.offset_conv2[level], torch.cat((offset, coarser[0]), 1))
        offset = conv_lrelu(self.offset_conv3[level], offset)
        feat = self.dcn_pack[level](nbr, offset)
        return offset, self.feat_conv[level](torch.cat((feat, coarser[1]), 1))

    def _levels(self, pyramid: Features) -> Iterator[tuple[str, Tensor]]:
        return zip(("l1", "l2", "l3"), pyramid, strict=True)


class TSAFusion(nn.Module):
    """Temporal and spatial attention (sec. 3.3, fig. 4)."""

    def __init__(self, num_feat: int = 64, num_frame: int = 5, center_frame_idx: int = 2) -> None:
        super().__init__()
        self.center_frame_idx = center_frame_idx

        def conv(c_in: int, kernel: int) -> nn.Conv2d:
            return nn.Conv2d(c_in, num_feat, kernel, 1, kernel // 2)

        self.temporal_attn1 = conv(num_feat, 3)  # of the reference
        self.temporal_attn2 = conv(num_feat, 3)  # of every frame
        self.feat_fusion = conv(num_feat * num_frame, 1)
        self.spatial_attn1 = conv(num_feat * num_frame, 1)
        self.spatial_attn2 = conv(num_feat * 2, 1)
        self.spatial_attn3 = conv(num_feat, 3)
        self.spatial_attn4 = conv(num_feat, 1)
        self.spatial_attn5 = conv(num_feat, 3)
        self.spatial_attn_l1 = conv(num_feat, 1)
        self.spatial_attn_l2 = conv(num_feat * 2, 3)
        self.spatial_attn_l3 = conv(num_feat, 3)
        self.spatial_attn_add1 = conv(num_feat, 1)
        self.spatial_attn_add2 = conv(num_feat, 1)

    def forward(self, aligned: Sequence[Tensor]) -> Tensor:
        """``num_frame`` aligned features ``(N, C, H, W)`` -> one."""
        reference = self.temporal_attn1(aligned[self.center_frame_idx])
        alike = [(self.temporal_attn2(x) * reference).sum(1, keepdim=True) for x in aligned]
        weighted = torch.cat([x * torch.sigmoid(a) for x, a in zip(aligned, alike, strict=True)], 1)
        feat = conv_lrelu(self.feat_fusion, weighted)

        attn = conv_lrelu(self.spatial_attn1, weighted)
        attn = conv_lrelu(self.spatial_attn2, pooled(attn))
        coarse = conv_lrelu(self.spatial_attn_l1, attn)
        coarse = conv_lrelu(self.spatial_attn_l2, pooled(coarse))
        coarse = twice(conv_lrelu(self.spatial_attn_l3, coarse))
        attn = conv_lrelu(self.spatial_attn3, attn) + coarse
        attn = twice(conv_lrelu(self.spatial_attn4, attn))
        attn = self.spatial_attn5(attn)
        added: Tensor = self.spatial_attn_add2(conv_lrelu(self.spatial_attn_add1, attn))
        return feat * torch.sigmoid(attn) * 2 + added


class PredeblurModule(nn.Module):
    """Blurred frames are cleaned before they are aligned (sec. 3.1, appendix)."""

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, hr_in: bool = False) -> None:
        super().__init__()
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.hr_in = hr_in
        if hr_in:
            self.stride_conv_hr1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
            self.stride_conv_hr2 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.stride_conv_l2 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.stride_conv_l3 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.resblock_l3 = ResidualBlockNoBN(num_feat)
        self.resblock_l2_1 = ResidualBlockNoBN(num_feat)
        self.resblock_l2_2 = ResidualBlockNoBN(num_feat)
        self.resblock_l1 = residual_blocks(num_feat, 5)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` -> features, at a quarter of the size where ``hr_in``."""
        x = conv_lrelu(self.conv_first, x)
        if self.hr_in:
            x = conv_lrelu(self.stride_conv_hr2, conv_lrelu(self.stride_conv_hr1, x))
        l2 = conv_lrelu(self.stride_conv_l2, x)
        l3 = conv_lrelu(self.stride_conv_l3, l2)
        l2 = self.resblock_l2_1(l2) + twice(self.resblock_l3(l3))
        x = self.resblock_l1[:2](x) + twice(self.resblock_l2_2(l2))
        out: Tensor = self.resblock_l1[2:](x)
        return out


class EDVRFeatureExtractor(nn.Module):
    """EDVR up to the fused features: what IconVSR refills its key frames with."""

    def __init__(
        self,
        num_in_ch: int = 3,
        num_feat: int = 64,
        num_frame: int = 5,
        deformable_groups: int = 8,
        num_extract_block: int = 5,
        center_frame_idx: int | None = None,
        hr_in: bool = False,
        with_predeblur: bool = False,
        with_tsa: bool = True,
    ) -> None:
        super().__init__()
        self.center_frame_idx = num_frame // 2 if center_frame_idx is None else center_frame_idx
        if not 0 <= self.center_frame_idx < num_frame:
            raise ValueError(f"center_frame_idx {center_frame_idx}: there are {num_frame} frames")
        self.hr_in, self.with_predeblur, self.with_tsa = hr_in, with_predeblur, with_tsa
        if with_predeblur:
            self.predeblur = PredeblurModule(num_in_ch, num_feat, hr_in)
            self.conv_1x1 = nn.Conv2d(num_feat, num_feat, 1, 1)
        else:
            self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
            if hr_in:  # the second stage of the paper's cascade; BasicSR has no such branch
                self.stride_conv_hr1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
                self.stride_conv_hr2 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.feature_extraction = residual_blocks(num_feat, num_extract_block)
        self.conv_l2_1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.conv_l2_2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_l3_1 = nn.Conv2d(num_feat, num_feat, 3, 2, 1)
        self.conv_l3_2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.pcd_align = PCDAlignment(num_feat, deformable_groups)
        self.fusion: nn.Module = (
            TSAFusion(num_feat, num_frame, self.center_frame_idx)
            if with_tsa
            else nn.Conv2d(num_frame * num_feat, num_feat, 1, 1)
        )

    parts = frozenset(
        {"feature_extraction", "conv_l2_1", "conv_l2_2", "conv_l3_1", "conv_l3_2"}
        | {"pcd_align", "fusion"}
    )

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint; the reference frame is not in it."""
        num_feat = shapes.size("conv_l2_1.weight")
        with_predeblur = shapes.has("predeblur.")
        with_tsa = shapes.has("fusion.feat_fusion.")
        first = "predeblur.conv_first.weight" if with_predeblur else "conv_first.weight"
        joined = "fusion.feat_fusion.weight" if with_tsa else "fusion.weight"
        return {
            "num_in_ch": shapes.size(first, 1),
            "num_feat": num_feat,
            "num_frame": shapes.size(joined, 1) // num_feat,
            "deformable_groups": shapes.size("pcd_align.cas_dcnpack.conv_offset.weight") // 27,
            "num_extract_block": shapes.count(r"feature_extraction\.(\d+)\."),
            "hr_in": shapes.has("predeblur.stride_conv_hr1.") or shapes.has("stride_conv_hr1."),
            "with_predeblur": with_predeblur,
            "with_tsa": with_tsa,
        }

    def pyramid(self, frame: Tensor) -> Features:
        """One frame at three sizes, finest first; its sides must divide by 4 (hr_in: 16).

        Behind them what alignment makes of it as a neighbour.
        """
        if self.with_predeblur:
            l1 = self.conv_1x1(self.predeblur(frame))
        else:
            l1 = conv_lrelu(self.conv_first, frame)
            if self.hr_in:
                l1 = conv_lrelu(self.stride_conv_hr2, conv_lrelu(self.stride_conv_hr1, l1))
        l1 = self.feature_extraction(l1)
        l2 = conv_lrelu(self.conv_l2_2, conv_lrelu(self.conv_l2_1, l1))
        l3 = conv_lrelu(self.conv_l3_2, conv_lrelu(self.conv_l3_1, l2))
        return l1, l2, l3, *self.pcd_align.of_neighbour((l1, l2, l3))

    def aligned_and_fused(self, pyramids: Sequence[Features]) -> Tensor:
        """The features of a window, aligned to its reference frame, as one: ``(N, C, H, W)``."""
        of_reference = self.pcd_align.of_reference(pyramids[self.center_frame_idx][:3])
        aligned = [self.pcd_align(p[:3], p[3:], of_reference) for p in pyramids]
        fused: Tensor = self.fusion(aligned if self.with_tsa else torch.cat(aligned, 1))
        return fused


class EDVR(EDVRFeatureExtractor, WindowNetwork):
    """EDVR: Video Restoration with Enhanced Deformable Convolutional Networks.

    Wang et al., CVPR workshops 2019 (arXiv 1905.02716), fig. 2. Published sizes: M (64 features, 10
    reconstruction blocks), L (128, 40). ``hr_in``: input and output of one size (deblurring).
    ``border``: None takes what the published models were tested with: ``reflection_circle`` for
    super-resolution, ``replicate`` where there is a predeblur module (a second stage for blurred
    input must be told).
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 64,
        num_frame: int = 5,
        deformable_groups: int = 8,
        num_extract_block: int = 5,
        num_reconstruct_block: int = 10,
        center_frame_idx: int | None = None,
        hr_in: bool = False,
        with_predeblur: bool = False,
        with_tsa: bool = True,
        border: Border | None = None,
    ) -> None:
        super().__init__(
            num_in_ch,
            num_feat,
            num_frame,
            deformable_groups,
            num_extract_block,
            center_frame_idx,
            hr_in,
            with_predeblur,
            with_tsa,
        )
        self.scale = 1 if hr_in else 4
        self.before = self.center_frame_idx
        self.after = num_frame - 1 - self.center_frame_idx
        self.border = border or ("replicate" if with_predeblur else "reflection_circle")
        self.reconstruction = residual_blocks(num_feat, num_reconstruct_block)
        self.upconv1 = nn.Conv2d(num_feat, num_feat * 4, 3, 1, 1)
        self.upconv2 = nn.Conv2d(num_feat, 64 * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(64, 64, 3, 1, 1)
        self.conv_last = nn.Conv2d(64, num_out_ch, 3, 1, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = EDVRFeatureExtractor.parts | {
        "reconstruction",
        "upconv1",
        "upconv2",
        "conv_hr",
        "conv_last",
    }

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint; the reference frame is not in it."""
        return EDVRFeatureExtractor.sizes(shapes) | {
            "num_out_ch": shapes.size("conv_last.weight"),
            "num_reconstruct_block": shapes.count(r"reconstruction\.(\d+)\."),
        }

    def features(self, frame: Tensor) -> Features:
        """The frame and its pyramid; any size, continued to what the pyramid needs."""
        return (frame, *self.pyramid(pad_to_multiple(frame, 16 if self.hr_in else 4)))

    def fuse(self, window: Sequence[Features]) -> Tensor:
        """Align, fuse, reconstruct, add the frame (fig. 2)."""
        frame = window[self.center_frame_idx][0]
        x = self.aligned_and_fused([features[1:] for features in window])
        x = self.reconstruction(x)
        tail = self.upconv1, self.upconv2, self.conv_hr, self.conv_last
        return enlarge_x4(x, *tail, frame.clone() if self.hr_in else bilinear_x4(frame))


def half(conv: nn.Module, x: Tensor, which: int) -> Tensor:
    """What a convolution of two joined features makes of the first or the second of them.

    The bias goes with the second.
    """
    assert isinstance(conv, nn.Conv2d)
    weight = conv.weight.chunk(2, 1)[which]
    return F.conv2d(x, weight, conv.bias if which else None, conv.stride, conv.padding)


def lrelu(x: Tensor) -> Tensor:
    """The paper's activation, slope 0.1, in place: no caller needs its input again."""
    return F.leaky_relu(x, 0.1, inplace=True)


def twice(x: Tensor) -> Tensor:
    """Twice the size, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def pooled(x: Tensor) -> Tensor:
    """Half the size, strongest and mean value of each place; the mean counts the padding."""
    return torch.cat((F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1)), 1)
