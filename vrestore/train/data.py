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
from vrestore.train.camera import gentle_pair
from vrestore.train.config import Data, Stage, TrainConfig
from vrestore.train.footage import (
    SCALE,
    Clip,
    Held,
    Photographs,
    film_clips,
    pictures_in,
    read_frames,
    reds_clips,
    vimeo90k_clips,
)
from vrestore.train.reduction import reduce_clip, shrink
from vrestore.train.share import ALONE, Share
from vrestore.train.stop import leave_to_main
from vrestore.train.view import Turn, detailed_view, photo_view, uniform_view


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
        whose = range(self.share.rank, stage.batch, self.share.world)
        made = [
            self.sample(np.random.default_rng((self.config.seed, 0, step, i)), stage) for i in whose
        ]
        return torch.stack([lq for lq, _ in made]), torch.stack([gt for _, gt in made])

    def sample(self, rng: np.random.Generator, stage: Stage) -> tuple[Tensor, Tensor]:
        """LR ``(T, 3, p, p)`` and HR of one place, turned."""
        data, size = self.config.data, (stage.frames, stage.patch, self.scale)
        clips, photos = self.fitting[stage], self.material.photos
        plain = data.sampling == "uniform"
        if photos and (rng.random() < data.photo_share or not clips):
            view, _ = photo_view(rng, photos, *size)
        else:
            view = (uniform_view if plain else detailed_view)(rng, clips, *size)
        if data.degradation != "real":
            lq, gt = view.pair(lambda seen: reduce_clip(rng, seen, self.config, self.scale))
            turn = Turn.drawn(rng, 0.0 if plain else 0.5)
            return turn(lq), turn(gt)
        # As published: cut and turned first, so that a codec goes the way that time does.
        gt = Turn.drawn(rng, 0.0 if plain else 0.5)(view.truth)
        return reduce_clip(rng, gt, self.config, self.scale), gt


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
                lq, _ = view.pair(shrink)
            else:
                lq, _ = detailed_view(rng, self.clips, 2, flow.patch, SCALE).pair(shrink)
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
