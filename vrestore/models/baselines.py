"""What every restoration is measured against: the frame itself, and the frame enlarged."""

from __future__ import annotations

import torch
from torch import Tensor

from vrestore.models.resize import imresize
from vrestore.models.temporal import FrameNetwork


class Identity(FrameNetwork):
    """Each frame as it came: proves that the road around the network loses nothing."""

    scale = 1

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)``, the very same values."""
        return x


class Bicubic(FrameNetwork):
    """MATLAB's bicubic x4, the baseline of the field's tables; not clipped."""

    scale = 4

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W) -> (N, 3, 4H, 4W)``."""
        if x.dtype in (torch.float16, torch.bfloat16):  # half weights would cost visible banding
            return imresize(x.float(), self.scale).to(x.dtype)
        return imresize(x, self.scale)
