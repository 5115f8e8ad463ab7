"""Consistency over time, as published: tOF and tLP of TecoGAN, the warping error of Lai et al.

Each gives a score per pair of neighbouring frames; tables state the mean over a clip's pairs and
then over clips, and TecoGAN also over all pairs of all clips. Pictures are ``(3, H, W)``, R'G'B' in
0..255, and come one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vrestore.errors import UsageError
from vrestore.models.layers import warp

# Two pictures (3, H, W) in 0..255 -> (2, H, W), pixels, channel 0 = x: where in the second picture
# lies what is at each pixel of the first.
Flow = Callable[[Tensor, Tensor], Tensor]
# Two pictures (3, H, W) in 0..255 -> a scalar, such as perceptual.load_lpips gives.
Distance = Callable[[Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]  # a frame of what is compared with, and the result's of that number

LEFT_OUT_FRAMES = 2  # at each end of a clip: TecoGAN's recurrence has to warm up
CROP_MULTIPLE_PX, CROP_LEAST_PX = 32, 16


class Neighbours:
    """Scores each frame of one clip with the one before it; ``left_out`` + 2 of them are held.

    ``fit`` makes two pictures comparable as they come, ``score`` is of two pairs, the earlier one
    first. ``left_out`` frames at each end are not scored. ``scores``: so far, by the number of the
    later frame, from 0.
    """

    def __init__(
        self,
        title: str,
        fit: Callable[[Tensor, Tensor], Pair],
        score: Callable[[Pair, Pair], float],
        left_out: int = 0,
    ) -> None:
        self.scores: dict[int, float] = {}
        self.least_frames = 2 * left_out + 2
        self._title, self._fit, self._score, self._left_out = title, fit, score, left_out
        self._held: deque[Pair] = deque(maxlen=left_out + 2)
        self._count = 0

    def add(self, reference: Tensor, restored: Tensor) -> None:
        """The next frame of both. Raises UsageError where they do not fit each other."""
        for frame in (reference, restored):
            if frame.dim() != 3 or frame.shape[0] != 3:
                raise UsageError(f"frame {self._count} is {tuple(frame.shape)}, not (3, H, W)")
        self._held.append(self._fit(reference, restored))
        self._count += 1
        later = self._count - 1 - self._left_out
        if later > self._left_out:
            self.scores[later] = self._score(self._held[0], self._held[1])

    def end(self) -> dict[int, float]:
        """All scores. Raises UsageError of a clip that was too short to have any."""
        check_length(self._title, self._count, self.least_frames)
        return self.scores


def check_length(title: str, frames: int, least: int) -> None:
    """UsageError where a clip of ``frames`` has no pair to score."""
    if frames < least:
        at_ends = f", {LEFT_OUT_FRAMES} left out at each end" if least > 2 else ""
        raise UsageError(
            f"{title} compares neighbouring frames{at_ends}: it needs {least} at least, not "
            f"{frames}; leave it out, or the clip"
        )


def tof() -> Neighbours:
    """How far the motion in the result is from the true one, in pixels; ``add`` takes the truth.

    Chu et al., ACM TOG 39(4), 2020 (TecoGAN), as their code has it: Farneback's flow in 8-bit grey,
    the mean length of the difference (the paper writes an L1 norm). The first and last two frames
    are left out, and a border (`tecogan_window`). UsageError where OpenCV is not installed, for
    fewer than six frames, and for a result smaller than the truth.
    """
    opencv()
    return Neighbours("tOF", _in_codes, _unlike_motion, LEFT_OUT_FRAMES)


def tlp(distance: Distance) -> Neighbours:
    """How far the change from frame to frame looks unlike the true change, times 100.

    TecoGAN, with LPIPS (AlexNet, version 0.1) as ``distance``: that of neighbouring frames of the
    truth less that of the result's. Frames, border and errors as of `tof`, without OpenCV.
    """

    def unlike(a: Pair, b: Pair) -> float:
        (truth_a, restored_a), (truth_b, restored_b) = a, b
        window = tecogan_window(*truth_a.shape[1:])
        true_change = distance(truth_a[window], truth_b[window])
        change = distance(restored_a[window], restored_b[window])
        return float(100 * (true_change - change).abs())

    return Neighbours("tLP", _in_codes, unlike, LEFT_OUT_FRAMES)


def warping_error(flow: Flow) -> Neighbours:
    """Mean squared change along the motion, pictures in 0..1.

    Lai et al., ECCV 2018, as their code has it: ``flow`` is found in what ``add`` takes first, the
    frames before processing, of the result's size; the later frame of the result is warped to the
    earlier one, and what is occluded there does not count (0 where all is). Published figures use
    FlowNet2 on frames stretched to multiples of 64: numbers compare only with the same flow.
    UsageError for frames that do not fit each other, and of a single frame.
    """

    def change(a: Pair, b: Pair) -> float:
        (guide_a, restored_a), (guide_b, restored_b) = a, b
        forward = flow(guide_a, guide_b)
        seen = ~occluded(forward, flow(guide_b, guide_a))
        along = warp(restored_b[None].float(), forward[None], padding_mode="border")[0]
        squared = ((along.double() - restored_a.double()) / 255).square() * seen
        return squared.sum().item() / max(1, 3 * int(seen.sum()))

    return Neighbours("the warping error", _of_one_size, change)


def occluded(forward: Tensor, backward: Tensor) -> Tensor:
    """Where the first frame's pixels are not seen in the second, or border on another motion.

    Both flows ``(2, H, W)`` in pixels; returns ``(H, W)``, bool. The criteria of Sundaram, Brox and
    Keutzer, ECCV 2010, with forward differences.
    """
    back = warp(backward[None], forward[None], padding_mode="border")[0]
    lengths = forward.square().sum(0)
    astray = (back + forward).square().sum(0) > 0.01 * (back.square().sum(0) + lengths) + 0.5
    steepness = torch.zeros_like(lengths)
    steepness[:, :-1] += forward.diff(dim=2).square().sum(0)
    steepness[:-1] += forward.diff(dim=1).square().sum(0)
    return astray | (steepness > 0.01 * lengths + 0.002)


def farneback(a: Tensor, b: Tensor) -> Tensor:
    """Farneback's flow from ``a`` to ``b`` as TecoGAN sets it: ``(3, H, W)`` to ``(2, H, W)``.

    UsageError where OpenCV is not installed.
    """
    cv2 = opencv()
    grey = [
        cv2.cvtColor(picture.permute(1, 2, 0).contiguous().numpy(), cv2.COLOR_RGB2GRAY)
        for picture in (_rounded(a).byte().cpu(), _rounded(b).byte().cpu())
    ]
    found = cv2.calcOpticalFlowFarneback(
        *grey,
        None,
        pyr_scale=0.5,
        levels=3,
        winsize=15,
        iterations=3,
        poly_n=5,
        poly_sigma=1.2,
        flags=0,
    )
    return torch.from_numpy(found).permute(2, 0, 1)


def opencv() -> Any:
    """OpenCV's module; UsageError where it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError(
            "tOF finds its flow by OpenCV, which is not here: pip install opencv-python-headless"
        ) from error
    return cv2


def tecogan_window(height: int, width: int) -> tuple[slice, slice, slice]:
    """Which part of a picture ``(C, H, W)`` TecoGAN judges: centred, whole multiples of 32 pixels.

    16 pixels at least are left out along each axis. UsageError where nothing would be left.
    """
    inner = []
    for length in (height, width):
        kept = (length - CROP_LEAST_PX) // CROP_MULTIPLE_PX * CROP_MULTIPLE_PX
        if kept <= 0:
            raise UsageError(
                f"tOF and tLP leave a border out, and nothing is left of {width}x{height}; "
                f"each side must have {CROP_MULTIPLE_PX + CROP_LEAST_PX} pixels at least"
            )
        inner.append(slice((length - kept) // 2, (length - kept) // 2 + kept))
    return slice(None), inner[0], inner[1]


def _in_codes(truth: Tensor, restored: Tensor) -> Pair:
    """Both as TecoGAN sees them: in whole codes, a larger result cut to the truth's size.

    Raises UsageError for a smaller one.
    """
    height, width = truth.shape[1:]
    cut = restored[:, :height, :width]
    if cut.shape != truth.shape:
        raise UsageError(
            f"the result is {tuple(restored.shape)}, the truth {tuple(truth.shape)}; a smaller "
            "result cannot be compared"
        )
    return _rounded(truth), _rounded(cut)


def _of_one_size(guide: Tensor, restored: Tensor) -> Pair:
    if guide.shape != restored.shape:
        raise UsageError(
            f"the flow's frames are {tuple(guide.shape)}, the result's {tuple(restored.shape)}; "
            "enlarge the flow's first"
        )
    return guide, restored


def _unlike_motion(a: Pair, b: Pair) -> float:
    """The mean length of the difference of both motions from one frame to the next, in pixels."""
    (truth_a, restored_a), (truth_b, restored_b) = a, b
    window = tecogan_window(*truth_a.shape[1:])
    difference = farneback(truth_a, truth_b) - farneback(restored_a, restored_b)
    return float(difference[window].norm(dim=0).double().mean())


def _rounded(picture: Tensor) -> Tensor:
    return picture.float().round().clamp(0, 255)
