"""SPyNet: optical flow from a pyramid of small residual networks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.models.layers import warp
from vrestore.models.one_step import conv_lrelu
from vrestore.models.shapes import Shapes


class BasicModule(nn.Module):
    """One level's network G_k: the residue to the flow that came up from the level below."""

    def __init__(self, kernel: int = 7, widths: Sequence[int] = (32, 64, 32, 16)) -> None:
        super().__init__()
        sizes = (8, *widths, 2)
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise(sizes):
            layers += [nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2), nn.ReLU(inplace=True)]
        self.basic_module = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 8, h, w)``: reference, warped neighbour, flow -> residue ``(N, 2, h, w)``."""
        layers = list(self.basic_module)
        for conv in layers[:-1:2]:
            x = conv_lrelu(conv, x, 0.0)
        out: Tensor = layers[-1](x)
        return out


class SPyNet(nn.Module):
    """Optical Flow Estimation using a Spatial Pyramid Network (Ranjan, Black, CVPR 2017, fig. 1).

    The published network has 6 levels of five 7x7 convolutions (sec. 3.2); fewer levels, smaller
    kernels and widths make a compact variant of the same class.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, levels: int = 6, kernel: int = 7, widths: Sequence[int] = (32, 64, 32, 16)
    ) -> None:
        super().__init__()
        self.levels = levels
        self.basic_module = nn.ModuleList(BasicModule(kernel, widths) for _ in range(levels))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    parts = frozenset({"basic_module"})

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint."""
        level = "basic_module.0.basic_module"
        convolutions = shapes.count(r"basic_module\.0\.basic_module\.(\d+)\.weight")
        kernel = shapes.size(f"{level}.0.weight", 3)
        if kernel % 2 == 0:
            raise ValueError(f"{level}.0.weight, whose kernel of {kernel} is even")
        return {
            "levels": shapes.count(r"basic_module\.(\d+)\."),
            "kernel": kernel,
            "widths": tuple(
                shapes.size(f"{level}.{2 * i}.weight") for i in range(convolutions - 1)
            ),
        }

    def forward(self, ref: Tensor, supp: Tensor) -> Tensor:
        """Flow from ``ref`` to ``supp``, both ``(N, 3, H, W)`` in 0..1: ``(N, 2, H, W)`` in pixels.

        Channel 0 = x; ``warp(supp, flow)`` resembles ``ref``.
        """
        h, w = ref.shape[2:]
        multiple = 2 ** (self.levels - 1)
        size = (-(-h // multiple) * multiple, -(-w // multiple) * multiple)
        if size != (h, w):
            ref = F.interpolate(ref, size, mode="bilinear", align_corners=False)
            supp = F.interpolate(supp, size, mode="bilinear", align_corners=False)
        flow = self.pyramid(ref, supp)[-1]
        if size != (h, w):
            flow = F.interpolate(flow, (h, w), mode="bilinear", align_corners=False)
            flow = torch.stack((flow[:, 0] * (w / size[1]), flow[:, 1] * (h / size[0])), 1)
        return flow

    def both_ways(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The flows a -> b and b -> a, in one batch: the same form always, the same bits."""
        there, back = self(torch.cat((a, b)), torch.cat((b, a))).chunk(2)
        return there, back

    def pyramid(self, ref: Tensor, supp: Tensor) -> list[Tensor]:
        """The flow at every level, coarsest first; sides must be multiples of ``2**(levels-1)``."""
        refs, supps = [(ref - self.mean) / self.std], [(supp - self.mean) / self.std]
        for _ in range(self.levels - 1):
            refs.insert(0, F.avg_pool2d(refs[0], 2))
            supps.insert(0, F.avg_pool2d(supps[0], 2))
        flow = refs[0].new_zeros(ref.shape[0], 2, *refs[0].shape[2:])
        flows: list[Tensor] = []
        for network, ref_k, supp_k in zip(self.basic_module, refs, supps, strict=True):
            if flows:
                flow = 2 * F.interpolate(flow, scale_factor=2, mode="bilinear", align_corners=True)
            warped = warp(supp_k, flow, padding_mode="border")
            flow = flow + network(torch.cat((ref_k, warped, flow), 1))
            flows.append(flow)
        return flows
