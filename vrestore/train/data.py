"""Training samples: crops of real clips, and photographs moved by a synthetic camera.

Every batch is a pure function of (seed, step), so that a run resumed at any step sees what it
would have seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from vrestore.errors import InputError
from vrestore.models.resize import imresize
from vrestore.train.config import TrainConfig
from vrestore.train.share import ALONE, Share

SCALE = 4
HALO_PX = 16  # high-resolution margin around a synthetic patch: two reaches of the x1/4 kernel


def read_frames(path: Path) -> Tensor:
    """A whole short clip or a photograph as RGB: ``(T, 3, H, W)`` uint8, sides multiples of 4.

    Through PyAV; where it is not installed (a bare GPU machine), through decord or OpenCV.
    """
    try:
        import av

        with av.open(str(path)) as container:
            frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        array = np.stack(frames)
    except ModuleNotFoundError:
        if path.suffix == ".mp4":
            import decord

            array = decord.VideoReader(str(path))[:].asnumpy()
        else:
            import cv2

            array = cv2.imread(str(path))[None, ..., ::-1]
    h, w = (side // SCALE * SCALE for side in array.shape[1:3])
    return torch.from_numpy(np.ascontiguousarray(array[:, :h, :w].transpose(0, 3, 1, 2)))


def shrink(frames: Tensor) -> Tensor:
    """The field's BI input: MATLAB bicubic by 1/4, rounded to 8 bit; uint8 in and out."""
    return imresize(frames.float(), 1 / SCALE).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Material:
    """All that a run learns from, decoded once: clips with their LR, photographs; uint8."""

    clips: tuple[tuple[Tensor, Tensor], ...]
    photos: tuple[Tensor, ...]

    @staticmethod
    def load(folder: Path) -> Material:
        """Read ``folder/clips/*`` and ``folder/photos/*``; InputError where there are no clips."""
        clips = [read_frames(p) for p in sorted((folder / "clips").glob("*.mp4"))]
        if not clips:
            raise InputError(f"{folder}: holds no clips/*.mp4; name the training folder in [data]")
        photos = [read_frames(p)[0] for p in sorted((folder / "photos").glob("*.*"))]
        return Material(tuple((hr, shrink(hr)) for hr in clips), tuple(photos))


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Item ``step`` is this process's share of that step's batch: LR ``(n, T, 3, p, p)``, HR x4.

    uint8. Sample i of the whole batch is the same whoever makes it.
    """

    def __init__(self, config: TrainConfig, material: Material, share: Share = ALONE) -> None:
        self.config = config
        self.material = material
        self.share = share

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        stage = self.config.stage_at(step)
        samples = []
        for i in range(self.share.rank, stage.batch, self.share.world):
            rng = np.random.default_rng((self.config.seed, 0, step, i))
            if self.material.photos and rng.random() < self.config.data.photo_share:
                lq, gt, _ = moved_photo(rng, self.material, stage.frames, stage.patch)
            else:
                lq, gt = clip_patch(rng, self.material, stage.frames, stage.patch)
            samples.append(augment(rng, lq, gt))
        return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])


class FlowPairs(Dataset[tuple[Tensor, Tensor]]):
    """Item ``step``: LR pairs ``(N, 2, 3, p, p)`` uint8, true flows ``(N, 2, p, p)`` or NaN.

    First small motions of photographs only; after ``tied_steps`` every motion, and clips as well.
    """

    def __init__(self, config: TrainConfig, material: Material, share: Share = ALONE) -> None:
        self.config = config
        self.material = material
        self.share = share
        self.reduced = tuple(shrink(photo[None])[0] for photo in material.photos)

    def __len__(self) -> int:
        return self.config.flow.tied_steps + self.config.flow.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        flow = self.config.flow
        tied = step < flow.tied_steps
        pairs, truths = [], []
        for i in range(flow.tied_batch if tied else flow.batch):
            if i // 2 % self.share.world != self.share.rank:  # each its photographs and its clips
                continue
            rng = np.random.default_rng((self.config.seed, 1, step, i))
            if tied:
                lq, truth = gentle_pair(rng, self.reduced, flow.tied_patch, flow.tied_reach)
            elif self.material.photos and i % 2 == 0:
                lq, _, truth = moved_photo(rng, self.material, 2, flow.patch)
            else:
                lq, _ = clip_patch(rng, self.material, 2, flow.patch)
                truth = torch.full((2, flow.patch, flow.patch), math.nan)
            pairs.append(lq)
            truths.append(truth)
        return torch.stack(pairs), torch.stack(truths)


def batches(data: Dataset[Any], first: int, workers: int) -> DataLoader[Any]:
    """Items ``first``, ``first + 1``, ... made in worker processes, in their order."""
    rest = range(first, len(data))  # type: ignore[arg-type]
    return DataLoader(data, batch_size=None, sampler=rest, num_workers=workers)


def clip_patch(
    rng: np.random.Generator, material: Material, frames: int, patch: int
) -> tuple[Tensor, Tensor]:
    """Aligned crops of a clip: LR ``(T, 3, p, p)`` and HR; of some, mostly the most detailed.

    What is soft teaches little: bicubic enlarges it as well.
    """
    fitting = [
        c for c in material.clips if c[0].shape[0] >= frames and min(c[1].shape[2:]) >= patch
    ]
    crops = [random_crop(rng, fitting, frames, patch) for _ in range(3)]
    if rng.random() < 0.6:
        crops.sort(key=lambda crop: detail(crop[0][0]))
    return crops[-1]


def random_crop(
    rng: np.random.Generator, clips: list[tuple[Tensor, Tensor]], frames: int, patch: int
) -> tuple[Tensor, Tensor]:
    """Any place and time of any clip, one in ten at twice the speed."""
    hr, lr = clips[rng.integers(len(clips))]
    stride = 2 if rng.random() < 0.1 and hr.shape[0] > 2 * frames else 1
    t = int(rng.integers(hr.shape[0] - (frames - 1) * stride))
    h, w = lr.shape[2:]
    y, x = int(rng.integers(h - patch + 1)), int(rng.integers(w - patch + 1))
    times = slice(t, t + (frames - 1) * stride + 1, stride)
    big = [slice(v * SCALE, (v + patch) * SCALE) for v in (y, x)]
    return lr[times, :, y : y + patch, x : x + patch], hr[times, :, big[0], big[1]]


def detail(picture: Tensor) -> float:
    """Mean absolute difference of neighbouring green values of ``(3, h, w)``."""
    green = picture[1].float()
    return float(green.diff(dim=0).abs().mean() + green.diff(dim=1).abs().mean())


def moved_photo(
    rng: np.random.Generator, material: Material, frames: int, patch: int
) -> tuple[Tensor, Tensor, Tensor]:
    """A photograph seen by a camera that shifts, turns and zooms.

    LR ``(T, 3, p, p)``, HR, and the exact LR flow from frame 0 to frame 1 ``(2, p, p)`` in pixels.
    """
    photo = material.photos[rng.integers(len(material.photos))]
    size = patch * SCALE + 2 * HALO_PX
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
    seen = look(photo, cameras, size)
    halo = HALO_PX // SCALE
    lq = shrink(seen)[..., halo:-halo, halo:-halo]
    gt = seen[..., HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    second = cameras[min(1, frames - 1)]
    return lq, gt, flow_between(cameras[0], second, patch, SCALE)


def gentle_pair(
    rng: np.random.Generator, pictures: tuple[Tensor, ...], patch: int, reach: float
) -> tuple[Tensor, Tensor]:
    """A small picture shifted by up to ``reach`` pixels, hardly turned: ``(2, 3, p, p)``, flow."""
    picture = pictures[rng.integers(len(pictures))]
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


def augment(rng: np.random.Generator, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """The eight flips and turns, and time run backwards; the same for both."""
    dims = [dim for dim in (-1, -2, 0) if rng.random() < 0.5]
    lq, gt = lq.flip(dims), gt.flip(dims)
    return (lq.mT, gt.mT) if rng.random() < 0.5 else (lq, gt)
