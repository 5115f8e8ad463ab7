"""RealBasicVSR: footage cleaned before it is propagated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.layers import ConvResidualBlocks
from vrestore.models.shapes import Shapes
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen


class RealBasicVSR(RecurrentNetwork):
    """Investigating Tradeoffs in Real-World Video Super-Resolution.

    Chan et al., CVPR 2022 (arXiv 2111.12704), sec. 4.1, fig. 3 and 4. Frames are cleaned until a
    pass changes them by less than ``dynamic_refine_thres`` of 255 codes on average, three times at
    most. The number is decided once per shot: a decision per chunk would pump. At 255, the
    default, one pass is made; the published GAN model was tested with 5, the one without with 1.5.
    """

    scale = 4
    passes = BasicVSR.passes
    most_cleanings = 3

    def __init__(
        self,
        mid_channels: int = 64,
        num_propagation_blocks: int = 20,
        num_cleaning_blocks: int = 20,
        dynamic_refine_thres: float = 255,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
    ) -> None:
        super().__init__()
        self.dynamic_refine_thres = dynamic_refine_thres
        self.image_cleaning = nn.Sequential(
            ConvResidualBlocks(3, mid_channels, num_cleaning_blocks),
            nn.Conv2d(mid_channels, 3, 3, 1, 1),
        )
        self.basicvsr = BasicVSR(
            mid_channels,
            num_propagation_blocks,
            num_tail_feat,
            spynet_levels,
            spynet_kernel,
            spynet_widths,
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = frozenset({"image_cleaning", "basicvsr"})

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint; the threshold is not in it."""
        inner = BasicVSR.sizes(shapes.under("basicvsr."))
        return {
            "mid_channels": inner.pop("num_feat"),
            "num_propagation_blocks": inner.pop("num_block"),
            "num_cleaning_blocks": shapes.count(r"image_cleaning\.0\.main\.2\.(\d+)\."),
            **inner,
        }

    def survey(self, frames: Iterable[Tensor]) -> int:
        """How often to clean: until a pass changes these frames by less than the threshold."""
        for times in range(1, self.most_cleanings):
            total = count = 0.0
            for frame in frames:
                total += self.change(frame, times)
                count += 1
            if total / count < self.dynamic_refine_thres / 255:
                return times
        return self.most_cleanings

    @torch.no_grad()
    def change(self, frame: Tensor, times: int) -> float:
        """The mean absolute change that the last of so many passes makes to a frame."""
        for _ in range(times):
            residue = self.image_cleaning(frame)
            frame = frame + residue
        return float(residue.abs().mean())

    def encode(self, seen: Seen) -> Features:
        """The frame, cleaned (eq. 1)."""
        frame = seen.frame
        for _ in range(seen.shot):
            frame = frame + self.image_cleaning(frame)
        return (frame,)

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Of the cleaned frames."""
        return self.basicvsr.flow(a, b)

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """As BasicVSR."""
        return self.basicvsr.advance(pass_, x, states, flows, read)

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """As BasicVSR, on the cleaned frame."""
        return self.basicvsr.render(x, features)
