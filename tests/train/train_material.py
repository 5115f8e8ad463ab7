"""A training run of a few seconds: made pictures, tiny network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import av
import numpy as np
import torch
from torch.nn import functional as F

from vrestore.train.config import Adversary, Data, FlowWarmUp, Optimiser, Stage, TrainConfig
from vrestore.train.data import Material
from vrestore.train.footage import Held, Photographs
from vrestore.train.perceptual import convolution_places

FLOW = {
    "num_tail_feat": 8,
    "spynet_levels": 3,
    "spynet_kernel": 3,
    "spynet_widths": (4, 4, 4, 4),
}
SIZES = {
    "basicvsr": {"num_feat": 8, "num_block": 1} | FLOW,
    "frbasicvsr": {"num_feat": 8, "num_block": 1} | FLOW,
    "frrealbasicvsr": {"num_feat": 8, "num_block": 1}
    | {"cleaner_feat": 8, "cleaner_block": 1, "cleaner_tail_feat": 8}
    | FLOW,
    "iconvsr": {"num_feat": 8, "num_block": 1, "keyframe_stride": 3}
    | {"num_extract_block": 1, "deformable_groups": 2}
    | FLOW,
    "basicvsrpp": {"mid_channels": 8, "num_blocks": 1, "deformable_groups": 2} | FLOW,
    "realbasicvsr": {"mid_channels": 8, "num_propagation_blocks": 1, "num_cleaning_blocks": 1}
    | FLOW,
    "edvr": {"num_feat": 8, "deformable_groups": 2, "num_extract_block": 1}
    | {"num_reconstruct_block": 1},
}  # constructor arguments of a few thousand parameters


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
        clips.append(Held(torch.stack([big[:, :, 2 * t : 2 * t + 96] for t in range(10)])))
    photos = (texture(7, 160, 240), texture(8, 160, 240))
    return Material(clips, Photographs(photos))


def tiny_config(steps: int = 6) -> TrainConfig:
    """Six steps of a network of a few thousand parameters."""
    return TrainConfig(
        network=dict(SIZES["basicvsr"]),
        data=Data(validation=Path("unused"), workers=0),
        flow=FlowWarmUp(tied_steps=3, steps=3, tied_batch=4, tied_patch=16, batch=4, patch=16),
        optimiser=Optimiser(rate=1e-3, warm_up=2, flow_fixed=3),
        stage=(Stage(steps // 2, 2, 3, 12), Stage(steps - steps // 2, 2, 5, 12, "log_error")),
        log_every=1,
        validate_every=steps // 2,
        save_every=2,
    )


def adversarial_config() -> TrainConfig:
    """The same run against a discriminator."""
    stages = (Stage(3, 2, 3, 12, "l1"), Stage(3, 2, 3, 12, "l1", gan=0.05))
    return dataclasses.replace(tiny_config(), stage=stages, gan=Adversary(num_feat=4))


def tiny_vgg() -> dict[str, torch.Tensor]:
    """VGG19 under torchvision's names with four channels everywhere."""
    generator, c_in, state = torch.Generator().manual_seed(3), 3, {}
    for place in convolution_places().values():
        state[f"features.{place}.weight"] = torch.randn(4, c_in, 3, 3, generator=generator) / 4
        state[f"features.{place}.bias"] = torch.zeros(4)
        c_in = 4
    return state


def png(path: Path, picture: torch.Tensor) -> None:
    """``(3, H, W)`` uint8 to a file, its folder made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *array.shape[:2], "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
