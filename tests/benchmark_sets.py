"""Benchmarks of tiny pictures, laid out on disk as the field has them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from vrestore.evaluate.footage import code_values
from vrestore.evaluate.protocols import Protocol, find
from vrestore.models.resize import imresize
from vrestore.video.picture_codec import png


def moving(frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """``(T, 3, H, W)`` in 0..1, of 8-bit values: a smooth random picture that slides."""
    generator = torch.Generator().manual_seed(seed)
    rough = torch.rand(1, 3, height // 4 + 3, width // 4 + frames, generator=generator)
    picture = torch.nn.functional.interpolate(rough, scale_factor=5, mode="bicubic")[0]
    clip = torch.stack([picture[:, 2 : height + 2, t : t + width] for t in range(frames)])
    return code_values(clip * 0.8 + 0.1).float() / 255


def write_clip(folder: Path, clip: Tensor, form: str = "%08d", first: int = 0) -> Path:
    """A folder of PNGs called by a printf form, numbered from ``first``."""
    folder.mkdir(parents=True)
    for number, picture in enumerate(clip, first):
        (folder / f"{form % number}.png").write_bytes(png(code_values(picture).numpy()))
    return folder


def write_set(
    root: Path,
    clips: dict[str, int],
    form: str = "%08d",
    first: int = 0,
    size: tuple[int, int] = (16, 24),
) -> tuple[Path, Path]:
    """``root/lq`` (BI) and ``root/gt``: for each name so many frames, the truth of that size."""
    for seed, (name, frames) in enumerate(clips.items()):
        truth = moving(frames, *size, seed)
        write_clip(root / "gt" / name, truth, form, first)
        write_clip(root / "lq" / name, imresize(truth.double(), 0.25), form, first)
    return root / "lq", root / "gt"


def of_few(name: str) -> Protocol:
    """That protocol for any number of clips."""
    return dataclasses.replace(find(name), clip_counts=())
