"""Training samples: crops of clips, and photographs under a synthetic camera; reduced as asked.

Every batch is a pure function of (seed, step, share), so that a run resumed at any step sees what
it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vrestore.errors import InputError, UsageError, VrestoreError
from vrestore.evaluate.degradations import bd, bi
from vrestore.train.camera import flow_between, gentle_pair, moving_views
from vrestore.train.config import Data, TrainConfig
from vrestore.train.footage import (
    SCALE,
    Box,
    Clip,
    Held,
    Photographs,
    film_clips,
    pictures_in,
    read_frames,
    reds_clips,
    vimeo90k_clips,
)
from vrestore.train.real_world import degrade
from vrestore.train.share import ALONE, Share
from vrestore.train.stop import leave_to_main

HALO_PX = 16  # high-resolution margin around a patch: two reaches of the x1/4 kernel


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


@dataclass(frozen=True)
class View:
    """What is seen ``(T, 3, H, W)`` uint8, the patch in it, and HR margins around that.

    ``scale``: how many pixels of it are one of the input, to a side. The margins are there so that
    a patch is reduced as if it had been cut afterwards.
    """

    seen: Tensor
    patch: Box
    scale: int

    def pair(self, rng: np.random.Generator, config: TrainConfig | None) -> tuple[Tensor, Tensor]:
        """LR ``(T, 3, p, p)`` and HR; BI where there is no ``config``."""
        p, scale = self.patch, self.scale
        gt = self.seen[..., p.top : p.top + p.height, p.left : p.left + p.width]
        if config is not None and config.data.degradation == "real":
            # The papers cut first: margins are no matter.
            return reduce_clip(rng, gt, config, scale), gt
        low = reduce_clip(rng, self.seen, config, scale) if config else shrink(self.seen, scale)
        top, left, height, width = (v // scale for v in (p.top, p.left, p.height, p.width))
        return low[..., top : top + height, left : left + width], gt


@dataclass(frozen=True)
class Material:
    """All that a run learns from: clips, photographs."""

    clips: Sequence[Clip]
    photos: Photographs = field(default_factory=Photographs)

    @staticmethod
    def load(data: Data) -> Material:
        """Every set that is named; InputError where one is not what it should be."""
        clips: list[Clip] = []
        photos: list[Tensor] = []
        if data.folder is not None:
            files = sorted((data.folder / "clips").glob("*.mp4"))
            if not files:
                raise InputError(
                    f"{data.folder}: holds no clips/*.mp4; name the training folder in [data]"
                )
            clips += [Held(read_frames(path)) for path in files]
            photos = [read_frames(p)[0] for p in sorted((data.folder / "photos").glob("*.*"))]
        if data.reds is not None:
            clips += reds_clips(data.reds)
        if data.vimeo90k is not None:
            if data.vimeo90k_list is None:
                raise UsageError("[data]: vimeo90k_list is missing: sep_trainlist.txt, say")
            clips += vimeo90k_clips(data.vimeo90k, data.vimeo90k_list)
        if data.videos is not None:
            clips += film_clips(data.videos)
        files_of_photos = pictures_in(data.div2k) if data.div2k is not None else ()
        if not clips and not photos and not files_of_photos:
            raise UsageError("[data]: name folder, reds, vimeo90k, videos or div2k")
        return Material(clips, Photographs(photos, files_of_photos))

    def fitting(self, frames: int, patch: int, scale: int) -> list[Clip]:
        """The clips that are long and large enough; InputError where nothing at all is."""
        size = patch * scale
        found = [c for c in self.clips if c.frames >= frames and min(c.height, c.width) >= size]
        if not found and not self.photos:
            raise InputError(
                f"[data]: no clip has {frames} frames of {size}x{size} and more; shorten [[stage]]"
            )
        return found


class Batches(Dataset[tuple[Tensor, Tensor]]):
    """Item ``step`` is this process's share of that step's batch: LR ``(n, T, 3, p, p)``, and HR.

    uint8; HR ``scale`` times as large. Sample i of the whole batch is the same whoever makes it.
    """

    def __init__(
        self, config: TrainConfig, material: Material, scale: int, share: Share = ALONE
    ) -> None:
        self.config = config
        self.material = material
        self.scale = scale
        self.share = share
        self.fitting = {s: material.fitting(s.frames, s.patch, scale) for s in config.stage}

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        stage = self.config.stage_at(step)
        clips, photos = self.fitting[stage], self.material.photos
        samples = []
        for i in range(self.share.rank, stage.batch, self.share.world):
            rng = np.random.default_rng((self.config.seed, 0, step, i))
            if photos and (rng.random() < self.config.data.photo_share or not clips):
                view, _ = photo_view(rng, photos, stage.frames, stage.patch, self.scale)
            else:
                view = clip_view(rng, clips, stage.frames, stage.patch, self.scale)
            samples.append(augment(rng, *view.pair(rng, self.config)))
        return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])


class FlowPairs(Dataset[tuple[Tensor, Tensor]]):
    """Item ``step``: LR pairs ``(N, 2, 3, p, p)`` uint8, true flows ``(N, 2, p, p)`` or NaN.

    First small motions of photographs only; after ``tied_steps`` every motion, and clips as well.
    All are clean reductions (BI) by 4, whatever the network's scale: one of the same size finds its
    flow in frames so reduced. Motion is learned before dirt.
    """

    def __init__(self, config: TrainConfig, material: Material, share: Share = ALONE) -> None:
        assert config.flow is not None
        self.seed, self.plan = config.seed, config.flow
        self.photos, self.share = material.photos, share
        if not material.photos:
            raise UsageError(
                "[flow]: its warm-up needs photographs; name div2k, or weights instead"
            )
        self.clips = material.fitting(2, self.plan.patch, SCALE)
        self.reduced = Reduced(material.photos)

    def __len__(self) -> int:
        return self.plan.tied_steps + self.plan.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        flow = self.plan
        tied = step < flow.tied_steps
        pairs, truths = [], []
        for i in range(flow.tied_batch if tied else flow.batch):
            if i // 2 % self.share.world != self.share.rank:  # each its photographs and its clips
                continue
            rng = np.random.default_rng((self.seed, 1, step, i))
            if tied:
                lq, truth = gentle_pair(rng, self.reduced, flow.tied_patch, flow.tied_reach)
            elif i % 2 == 0 or not self.clips:
                view, truth = photo_view(rng, self.photos, 2, flow.patch, SCALE)
                lq, _ = view.pair(rng, None)
            else:
                lq, _ = clip_view(rng, self.clips, 2, flow.patch, SCALE).pair(rng, None)
                truth = torch.full((2, flow.patch, flow.patch), math.nan)
            pairs.append(lq)
            truths.append(truth)
        return torch.stack(pairs), torch.stack(truths)


class Reduced(Sequence[Tensor]):
    """Photographs at a quarter of their size: those that are held once and for all."""

    def __init__(self, photos: Photographs) -> None:
        self.photos = photos
        self.held = [shrink(photo[None])[0] for photo in photos.held]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: Any) -> Any:
        return self.held[index] if index < len(self.held) else shrink(self.photos[index][None])[0]


def batches(data: Dataset[Any], first: int, workers: int) -> Iterator[Any]:
    """Items ``first``, ``first + 1``, ... made in worker processes, in their order.

    What keeps one from being made is raised here, as it was raised there.
    """
    rest = range(first, len(data))  # type: ignore[arg-type]
    made = DataLoader(
        _Told(data),
        batch_size=None,
        sampler=rest,
        num_workers=workers,
        worker_init_fn=leave_to_main,
    )
    for item in made:
        if isinstance(item, Exception):
            raise item
        yield item


class _Told(Dataset[Any]):
    """Items, or what kept them from being made: a worker's own words for it are many lines."""

    def __init__(self, data: Dataset[Any]) -> None:
        self.data = data

    def __getitem__(self, index: int) -> Any:
        try:
            return self.data[index]
        except (VrestoreError, OSError) as error:
            return error


def clip_view(
    rng: np.random.Generator, clips: Sequence[Clip], frames: int, patch: int, scale: int
) -> View:
    """A place and time of a clip; of three, mostly the most detailed.

    What is soft teaches little: bicubic enlarges it as well. Of the others only the first frame is
    read.
    """
    places = [random_place(rng, clips, frames, patch, scale) for _ in range(3)]
    chosen = places[-1]
    if rng.random() < 0.6:
        firsts = (view_of(clip, times[:1], box, scale) for clip, times, box in places)
        scores = [detail(view.pair(rng, None)[0][0]) for view in firsts]
        chosen = places[max(range(3), key=lambda i: (scores[i], i))]
    return view_of(*chosen, scale)


def random_place(
    rng: np.random.Generator, clips: Sequence[Clip], frames: int, patch: int, scale: int
) -> tuple[Clip, range, Box]:
    """Any clip, frames and patch of it, one in ten at twice the speed."""
    clip = clips[int(rng.integers(len(clips)))]
    stride = 2 if rng.random() < 0.1 and clip.frames > 2 * frames else 1
    t = int(rng.integers(clip.frames - (frames - 1) * stride))
    y = int(rng.integers(clip.height // scale - patch + 1))
    x = int(rng.integers(clip.width // scale - patch + 1))
    times = range(t, t + (frames - 1) * stride + 1, stride)
    return clip, times, Box(y * scale, x * scale, patch * scale, patch * scale)


def view_of(clip: Clip, times: Sequence[int], box: Box, scale: int) -> View:
    """The patch with as much around it as reaches it, or as there is up to the frame's border."""
    top, left = max(box.top - HALO_PX, 0), max(box.left - HALO_PX, 0)
    bottom = min(box.top + box.height + HALO_PX, clip.height)
    right = min(box.left + box.width + HALO_PX, clip.width)
    seen = clip.crop(times, Box(top, left, bottom - top, right - left))
    return View(seen, Box(box.top - top, box.left - left, box.height, box.width), scale)


def detail(picture: Tensor) -> float:
    """Mean absolute difference of neighbouring green values of ``(3, h, w)``."""
    green = picture[1].float()
    return float(green.diff(dim=0).abs().mean() + green.diff(dim=1).abs().mean())


def photo_view(
    rng: np.random.Generator, photos: Sequence[Tensor], frames: int, patch: int, scale: int
) -> tuple[View, Tensor]:
    """A photograph under the synthetic camera, and the exact LR flow from frame 0 to frame 1.

    Flow ``(2, p, p)`` in LR pixels.
    """
    photo = photos[int(rng.integers(len(photos)))]
    side = patch * scale
    seen, cameras = moving_views(rng, photo, frames, side + 2 * HALO_PX)
    flow = flow_between(cameras[0], cameras[min(1, frames - 1)], patch, scale)
    return View(seen, Box(HALO_PX, HALO_PX, side, side), scale), flow


def augment(rng: np.random.Generator, lq: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
    """The eight flips and turns, and time run backwards; the same for both."""
    dims = [dim for dim in (-1, -2, 0) if rng.random() < 0.5]
    lq, gt = lq.flip(dims), gt.flip(dims)
    return (lq.mT, gt.mT) if rng.random() < 0.5 else (lq, gt)
