"""An endless stream of frames, parted at its cuts: one lazy iterator per shot.

A cut is a change between two neighbouring frames that is large, much larger than the changes
around it, and lasting. The second condition lets fast motion, pans and fades pass; the third lets
a flash of one or two frames pass, since the picture before it comes back after it. A dissolve or
a slow fade is not a cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from statistics import median
from typing import Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor, stack

T = TypeVar("T")

ROWS, COLUMNS = 36, 64
SAMPLES_PER_CELL = 4  # along each axis: the cost does not grow with the picture
AHEAD_FRAMES = 2
BEHIND_FRAMES = 3  # with the frame itself and those ahead: a flash of two frames is seen from both


@dataclass(frozen=True)
class CutDetector:
    """What counts as a cut.

    A difference of two frames is the mean over the picture of ``|dY| + |dCb| + |dCr|``, with Y in
    0..1 and Cb, Cr in -0.5..0.5. Measured on 52 real clips and all cuts from one to another:
    within a shot up to 0.11, at cuts between different scenes 0.13 and more, between two takes of
    one scene 0.02 and more. Known limits: of shots of two frames about half are found; animation
    on threes whose repeated frames are noisy is parted too often.
    """

    threshold: float = 0.025
    """No smaller difference is a cut. Night scenes need it this low; the ratio does the work."""

    ratio: float = 3.5
    """A cut differs at least this many times more than the neighbouring frames do."""

    still: float = 0.0005
    """A smaller difference is a repeated frame. It tells nothing of how fast things move:
    animation drawn on twos or threes moves at every second or third frame only."""

    unknown_motion: float = 0.03
    """The neighbours' difference to assume where all of them are repeated frames."""

    shortest_shot_frames: int = 2
    """No cut is reported fewer frames after the one before. With 2, a single frame that belongs
    to neither side (a blend of both, a flash on the cut) does not part the stream twice. The
    first and the last shot of the stream may be shorter."""


DEFAULT_DETECTOR = CutDetector()


def shots(
    frames: Iterable[T],
    picture: Callable[[T], Tensor],
    *,
    enabled: bool = True,
    detector: CutDetector = DEFAULT_DETECTOR,
) -> Iterator[Iterator[T]]:
    """One lazy iterator per shot, as ``itertools.groupby``: chained, they are ``frames``.

    A shot must be consumed before the next is asked for; what was left of it is skipped, and its
    iterator is then at its end. At most ``AHEAD_FRAMES`` (2) frames are read beyond the one handed
    out, so three items are held at most. The frames stay their owner's to close.

    Args:
        picture: the RGB picture of an item, ``(3, H, W)``, float, nominal 0..1, on any device;
            called once per item, in order.
        enabled: False makes one shot of everything: ``picture`` is not called, nothing read ahead.
    """
    numbered = _numbered(frames, picture, detector) if enabled else ((0, item) for item in frames)
    try:
        for _, shot in groupby(numbered, key=itemgetter(0)):
            yield map(itemgetter(1), shot)
    finally:
        numbered.close()


@dataclass(frozen=True)
class _Seen(Generic[T]):
    item: T
    small: Tensor
    step: float  # difference to the frame before; 0 for the first


def _numbered(
    frames: Iterable[T], picture: Callable[[T], Tensor], detector: CutDetector
) -> Generator[tuple[int, T], None, None]:
    """Each item with the number of its shot."""
    seen = _seen(frames, picture)
    ahead: deque[_Seen[T]] = deque()
    behind: deque[Tensor] = deque(maxlen=BEHIND_FRAMES)  # of this shot only, as is `motion`
    motion: deque[float] = deque(maxlen=AHEAD_FRAMES)
    shot, length = 0, detector.shortest_shot_frames
    while True:
        while len(ahead) <= AHEAD_FRAMES and (frame := next(seen, None)) is not None:
            ahead.append(frame)
        if not ahead:
            return
        may_end = behind and length >= detector.shortest_shot_frames
        if may_end and _is_cut(detector, behind, motion, ahead):
            shot, length = shot + 1, 0
            behind.clear()
            motion.clear()
        elif ahead[0].step >= detector.still:
            motion.append(ahead[0].step)
        length += 1
        behind.append(ahead[0].small)
        yield shot, ahead.popleft().item


def _seen(frames: Iterable[T], picture: Callable[[T], Tensor]) -> Iterator[_Seen[T]]:
    former: Tensor | None = None
    for item in frames:
        small = _small(picture(item))
        yield _Seen(item, small, 0.0 if former is None else _difference(former, small))
        former = small


def _is_cut(
    detector: CutDetector,
    behind: Sequence[Tensor],
    motion: Iterable[float],
    ahead: Sequence[_Seen[T]],
) -> bool:
    """Whether a shot begins at ``ahead[0]``, given the frames and the motion before it."""
    if not ahead[0].step >= detector.threshold:
        return False
    around = [*motion, *(frame.step for frame in list(ahead)[1:] if frame.step >= detector.still)]
    # The median, not the mean: the other end of a flash, or the next cut of a fast montage, is
    # among the neighbours.
    usual = median(around) if around else detector.unknown_motion
    needed = max(detector.threshold, detector.ratio * usual)
    # Two large changes so close may be a flash. Then the picture that comes back after it has
    # moved on by one frame's motion for each frame between, and that is no cut.
    per_frame = 0.5 if any(step >= needed for step in around) else 0.0
    return all(
        _difference(a, b.small) >= needed * (1 + per_frame * (before + after))
        for after, b in enumerate(ahead)
        for before, a in enumerate(reversed(behind))
    )


def _small(rgb: Tensor) -> Tensor:
    """``(3, H, W)`` RGB -> ``(3, ROWS, COLUMNS)`` of Y, Cb, Cr (ITU-R BT.709) on the CPU."""
    _, height, width = rgb.shape
    cell = min(height // ROWS, width // COLUMNS)
    stride = max(1, cell // SAMPLES_PER_CELL)
    sampled = rgb.detach()[:, ::stride, ::stride].float()
    r, g, b = F.adaptive_avg_pool2d(sampled, (ROWS, COLUMNS)).cpu().clamp(0, 1)
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return stack((y, (b - y) / 1.8556, (r - y) / 1.5748))


def _difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs_().sum()) / (ROWS * COLUMNS)
