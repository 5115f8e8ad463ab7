"""What a sample shows: a patch of a clip, or of a photograph under a synthetic camera."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vrestore.train.camera import flow_between, moving_views
from vrestore.train.footage import Box, Clip
from vrestore.train.reduction import shrink

HALO_PX = 16  # high-resolution margin around a patch: two reaches of the x1/4 kernel


@dataclass(frozen=True)
class View:
    """What is seen ``(T, 3, H, W)`` uint8, the patch in it, and HR margins around that.

    ``scale``: how many pixels of it are one of the input, to a side. The margins are there so that
    a patch is reduced as if it had been cut afterwards.
    """

    seen: Tensor
    patch: Box
    scale: int

    @property
    def truth(self) -> Tensor:
        """The patch alone, HR ``(T, 3, scale * p, scale * p)``."""
        p = self.patch
        return self.seen[..., p.top : p.top + p.height, p.left : p.left + p.width]

    def pair(self, reduced: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """LR ``(T, 3, p, p)``, the patch's part of what the reduction makes of all; the truth."""
        p, scale = self.patch, self.scale
        top, left, height, width = (v // scale for v in (p.top, p.left, p.height, p.width))
        return reduced(self.seen)[..., top : top + height, left : left + width], self.truth


def uniform_view(
    rng: np.random.Generator, clips: Sequence[Clip], frames: int, patch: int, scale: int
) -> View:
    """Any place and time of any clip, as published runs draw them."""
    return view_of(*random_place(rng, clips, frames, patch, scale, 0.0), scale)


def detailed_view(
    rng: np.random.Generator, clips: Sequence[Clip], frames: int, patch: int, scale: int
) -> View:
    """Of three places mostly the most detailed, one in ten at twice the speed.

    What is soft teaches little: bicubic enlarges it as well. Of the others only the first frame is
    read.
    """
    places = [random_place(rng, clips, frames, patch, scale, 0.1) for _ in range(3)]
    chosen = places[-1]
    if rng.random() < 0.6:
        firsts = (view_of(clip, times[:1], box, scale) for clip, times, box in places)
        scores = [detail(view.pair(lambda seen: shrink(seen, scale))[0][0]) for view in firsts]
        chosen = places[max(range(3), key=lambda i: (scores[i], i))]
    return view_of(*chosen, scale)


def random_place(
    rng: np.random.Generator,
    clips: Sequence[Clip],
    frames: int,
    patch: int,
    scale: int,
    fast_share: float,
) -> tuple[Clip, range, Box]:
    """Any clip, frames and patch of it, so many at twice the speed."""
    clip = clips[int(rng.integers(len(clips)))]
    stride = 2 if rng.random() < fast_share and clip.frames > 2 * frames else 1
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


@dataclass(frozen=True)
class Turn:
    """One of the eight flips and turns, and time run backwards or not; the same for LR and HR."""

    dims: tuple[int, ...]
    transposed: bool

    @staticmethod
    def drawn(rng: np.random.Generator, backwards_share: float = 0.5) -> Turn:
        """Any of them alike, but for the share of clips that run backwards."""
        shares = {-1: 0.5, -2: 0.5, 0: backwards_share}
        dims = tuple(dim for dim, share in shares.items() if rng.random() < share)
        return Turn(dims, rng.random() < 0.5)

    def __call__(self, clip: Tensor) -> Tensor:
        """``(T, 3, p, p)``."""
        flipped = clip.flip(self.dims)
        return flipped.mT if self.transposed else flipped
