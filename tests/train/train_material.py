"""A training run of a few seconds: made pictures, tiny network."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional as F

from vrestore.train.config import Data, FlowWarmUp, Optimiser, Stage, TrainConfig
from vrestore.train.data import Material, shrink


def texture(seed: int, height: int, width: int) -> torch.Tensor:
    """``(3, H, W)`` uint8 with detail at several scales."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for cell in (4, 8, 16):
        noise = torch.rand(1, 3, height // cell, width // cell, generator=generator)
        picture += F.interpolate(noise, (height, width), mode="bicubic") / 3
    return (picture[0] * 255).round().clamp(0, 255).to(torch.uint8)


def tiny_material() -> Material:
    """Two sliding clips and two photographs."""
    clips = []
    for seed in range(2):
        big = texture(seed, 96, 160)
        clips.append(torch.stack([big[:, :, 2 * t : 2 * t + 96] for t in range(10)]))
    photos = (texture(7, 160, 240), texture(8, 160, 240))
    return Material(tuple((hr, shrink(hr)) for hr in clips), photos)


def tiny_config(steps: int = 6) -> TrainConfig:
    """Six steps of a network of a few thousand parameters."""
    sizes = {"num_feat": 8, "num_block": 1, "num_tail_feat": 8}
    flow = {"spynet_levels": 3, "spynet_kernel": 3, "spynet_widths": (4, 4, 4, 4)}
    return TrainConfig(
        network=sizes | flow,
        data=Data(Path("unused"), Path("unused"), workers=0),
        flow=FlowWarmUp(tied_steps=3, steps=3, tied_batch=4, tied_patch=16, batch=4, patch=16),
        optimiser=Optimiser(rate=1e-3, warm_up=2, flow_fixed=3),
        stage=(Stage(steps // 2, 2, 3, 12), Stage(steps - steps // 2, 2, 5, 12, "log_error")),
        log_every=1,
        validate_every=steps // 2,
        save_every=2,
    )
