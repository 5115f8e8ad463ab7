"""What a network is to restore: the truth reduced, as a run asks for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vrestore.errors import UsageError
from vrestore.evaluate.degradations import bd, bi
from vrestore.train.config import TrainConfig
from vrestore.train.footage import SCALE
from vrestore.train.real_world import degrade


def shrink(frames: Tensor, scale: int = SCALE) -> Tensor:
    """The field's BI input: MATLAB bicubic by 1/4, rounded to 8 bit; uint8 in and out.

    At scale 1 the frames as they are.
    """
    return bi(frames.float(), scale).round().clamp(0, 255).to(torch.uint8)


def blur_and_shrink(frames: Tensor) -> Tensor:
    """The field's BD input: a Gaussian, then every fourth pixel; uint8 in and out."""
    return bd(frames.float(), SCALE).round().clamp(0, 255).to(torch.uint8)


def reduce_clip(
    rng: np.random.Generator, frames: Tensor, config: TrainConfig, scale: int
) -> Tensor:
    """What a network of that scale is to restore, as the run asks for it; uint8 in and out.

    UsageError where that has nothing to restore.
    """
    kind = config.data.degradation
    if kind == "real":
        return degrade(rng, frames, config.real, scale)
    if scale == 1:
        raise UsageError(
            f"[data]: degradation {kind!r} only makes frames smaller, and this network is to leave "
            'them at their size: there is nothing to undo; say degradation = "real"'
        )
    return blur_and_shrink(frames) if kind == "bd" else shrink(frames)
