"""Photographs moved by a synthetic camera, whose motion is known exactly."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def moving_views(
    rng: np.random.Generator, photo: Tensor, frames: int, size: int
) -> tuple[Tensor, list[np.ndarray]]:
    """What a camera sees that shifts, turns and zooms: ``(T, 3, size, size)``, and the cameras."""
    speed = 40.0 if rng.random() < 0.15 else float(rng.choice([0.5, 3.0, 8.0]))  # HR px a frame
    velocity = rng.normal(0, speed / 1.5, 2)
    turn = rng.normal(0, 0.004 if rng.random() < 0.7 else 0.02)  # radians a frame
    growth = rng.normal(0, 0.004 if rng.random() < 0.7 else 0.02)  # log of zoom a frame
    shake = rng.normal(0, 0.3 * min(speed, 3.0), (frames, 2))
    angle0, zoom0 = rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2)
    h, w = photo.shape[1:]
    centre = np.array([rng.uniform(0.25, 0.75) * w, rng.uniform(0.25, 0.75) * h])
    cameras = []
    for t in range(frames):
        k = t - (frames - 1) / 2
        angle, zoom = angle0 + turn * k, math.exp(zoom0 + growth * k)
        c, s = zoom * math.cos(angle), zoom * math.sin(angle)
        place = centre + velocity * k + shake[t]
        cameras.append(np.array([[c, -s, place[0]], [s, c, place[1]], [0, 0, 1]]))
    return look(photo, cameras, size), cameras


def gentle_pair(
    rng: np.random.Generator, pictures: Sequence[Tensor], patch: int, reach: float
) -> tuple[Tensor, Tensor]:
    """A small picture shifted by up to ``reach`` pixels, hardly turned: ``(2, 3, p, p)``, flow."""
    picture = pictures[int(rng.integers(len(pictures)))]
    h, w = picture.shape[1:]
    x, y = rng.uniform(0.2, 0.8) * w, rng.uniform(0.2, 0.8) * h
    size, way = rng.uniform(0, reach), rng.uniform(0, 2 * math.pi)
    s, c = rng.normal(0, 0.01), 1 + rng.normal(0, 0.01)
    first = np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])
    there = (x - size * math.cos(way), y - size * math.sin(way))
    second = np.array([[c, -s, there[0]], [s, c, there[1]], [0, 0, 1]])
    dims = [dim for dim in (-1, -2) if rng.random() < 0.5]
    pair, flow = look(picture, [first, second], patch), flow_between(first, second, patch, 1)
    mirrored = flow.new_tensor([-1.0 if dim in dims else 1.0 for dim in (-1, -2)]).view(2, 1, 1)
    return pair.flip(dims), flow.flip(dims) * mirrored


def look(picture: Tensor, cameras: list[np.ndarray], size: int) -> Tensor:
    """What cameras, ``(3, 3)`` from their own pixels to the picture's, see: ``(T, 3, s, s)``."""
    h, w = picture.shape[1:]
    steps = np.arange(size) - (size - 1) / 2
    x, y = np.meshgrid(steps, steps)
    points = np.stack((x.ravel(), y.ravel(), np.ones(x.size)))
    grids = [((camera @ points)[:2].T.reshape(size, size, 2)) for camera in cameras]
    grid = (torch.from_numpy(np.stack(grids)).float() + 0.5) * (2 / torch.tensor([w, h])) - 1
    seen = F.grid_sample(
        picture.float().expand(len(cameras), -1, -1, -1),
        grid,
        mode="bicubic",
        padding_mode="reflection",
        align_corners=False,
    )
    return seen.round().clamp(0, 255).to(torch.uint8)


def flow_between(first: np.ndarray, second: np.ndarray, patch: int, scale: int) -> Tensor:
    """Exact flow ``(2, p, p)`` from the first camera's view to the second's, both reduced."""
    steps = (np.arange(patch) - (patch - 1) / 2) * scale
    x, y = np.meshgrid(steps, steps)
    here = np.stack((x.ravel(), y.ravel(), np.ones(x.size)))
    there = (np.linalg.inv(second) @ first @ here)[:2] - here[:2]
    return torch.from_numpy(there.reshape(2, patch, patch) / scale).float()
