"""Frame-recurrent BasicVSR behind a cleaner of its own kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.shapes import Shapes


class FRRealBasicVSR(FRBasicVSR):
    """What RealBasicVSR (arXiv 2111.12704, fig. 3) is to BasicVSR. Ours.

    Its cleaner is propagated, too: a frame-recurrent BasicVSR of the same-size form, which averages
    noise over time where one frame alone would be smoothed. Of what is cleaned first, the trunks
    see no noise that is carried along and turned into texture. Both see a whole shot, so the
    cleaner is not a step of ``encode`` but runs before it, as a shot of its own.
    """

    def __init__(
        self,
        num_feat: int = 64,
        num_block: int = 15,
        num_tail_feat: int = 64,
        spynet_levels: int = 6,
        spynet_kernel: int = 7,
        spynet_widths: Sequence[int] = (32, 64, 32, 16),
        cleaner_feat: int = 64,
        cleaner_block: int = 5,
        cleaner_tail_feat: int = 16,
    ) -> None:
        flow = spynet_levels, spynet_kernel, spynet_widths
        super().__init__(num_feat, num_block, num_tail_feat, *flow)
        self.cleaner = FRBasicVSR(cleaner_feat, cleaner_block, cleaner_tail_feat, *flow, hr_in=True)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    parts = FRBasicVSR.parts | {"cleaner"}

    @property
    def first(self) -> FRBasicVSR:
        """The cleaner."""
        return self.cleaner

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments, read off a checkpoint. Its flow networks are alike."""
        sizes, cleaner = (FRBasicVSR.sizes(s) for s in (shapes, shapes.under("cleaner.")))
        if sizes.pop("hr_in") or not cleaner.pop("hr_in"):
            raise LookupError("cleaner.picture.weight")
        inner = {f"cleaner_{k[4:]}": v for k, v in cleaner.items() if k.startswith("num_")}
        return sizes | inner
