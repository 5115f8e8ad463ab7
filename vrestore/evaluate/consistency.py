"""Consistency over time, as published: tOF and tLP of TecoGAN, the warping error of Lai et al.

Each gives a score per pair of neighbouring frames; tables state the mean over a clip's pairs and
then over clips, and TecoGAN also over all pairs of all clips. Films are iterables of pictures
``(3, H, W)``, R'G'B' in 0..255, of which a few are held at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, zip_longest

import torch
from torch import Tensor

from vrestore.errors import UsageError
from vrestore.models.layers import warp

# Two pictures (3, H, W) in 0..255 -> (2, H, W), pixels, channel 0 = x: where in the second picture
# lies what is at each pixel of the first.
Flow = Callable[[Tensor, Tensor], Tensor]
# Two pictures (3, H, W) in 0..255 -> a scalar, such as perceptual.load_lpips gives.
Distance = Callable[[Tensor, Tensor], Tensor]

LEFT_OUT_FRAMES = 2  # at each end of a clip: TecoGAN's recurrence has to warm up
CROP_MULTIPLE_PX, CROP_LEAST_PX = 32, 16


def tof(truth: Iterable[Tensor], restored: Iterable[Tensor]) -> list[float]:
    """How far the motion in the result is from the true one, per pair of frames, in pixels.

    Chu et al., ACM TOG 39(4), 2020 (TecoGAN), as their code has it: Farneback's flow in 8-bit grey,
    the mean length of the difference (the paper writes an L1 norm). The first and last two frames
    are left out, and a border (`tecogan_window`). UsageError where OpenCV is not installed, for
    fewer than six frames, and for films that do not fit each other.
    """
    scores = []
    for (truth_a, restored_a), (truth_b, restored_b) in pairwise(_judged(truth, restored)):
        window = tecogan_window(*truth_a.shape[1:])
        difference = farneback(truth_a, truth_b) - farneback(restored_a, restored_b)
        scores.append(difference[window].norm(dim=0).double().mean().item())
    return scores


def tlp(truth: Iterable[Tensor], restored: Iterable[Tensor], distance: Distance) -> list[float]:
    """How far the change from frame to frame looks unlike the true change, times 100.

    TecoGAN, with LPIPS (AlexNet, version 0.1) as ``distance``: that of neighbouring frames of the
    truth less that of the result's. Frames, border and errors as of `tof`, without OpenCV.
    """
    scores = []
    for (truth_a, restored_a), (truth_b, restored_b) in pairwise(_judged(truth, restored)):
        window = tecogan_window(*truth_a.shape[1:])
        true_change = distance(truth_a[window], truth_b[window])
        change = distance(restored_a[window], restored_b[window])
        scores.append(100 * (true_change - change).abs().item())
    return scores


def warping_error(guide: Iterable[Tensor], restored: Iterable[Tensor], flow: Flow) -> list[float]:
    """Mean squared change along the motion, pictures in 0..1, per pair of frames.

    Lai et al., ECCV 2018, as their code has it: ``flow`` is found in ``guide``, the
    frames before processing, of the result's size; the later frame of the result is warped to the
    earlier one, and what is occluded there does not count (0 where all is). Published figures use
    FlowNet2 on frames stretched to multiples of 64: numbers compare only with the same flow.
    UsageError for films that do not fit each other, and of a single frame.
    """
    scores = []
    for (guide_a, restored_a), (guide_b, restored_b) in pairwise(_together(guide, restored)):
        if guide_a.shape != restored_a.shape:
            raise UsageError(
                f"the flow's frames are {tuple(guide_a.shape)}, the result's "
                f"{tuple(restored_a.shape)}; enlarge the flow's first"
            )
        forward = flow(guide_a, guide_b)
        seen = ~occluded(forward, flow(guide_b, guide_a))
        along = warp(restored_b[None].float(), forward[None], padding_mode="border")[0]
        squared = ((along.double() - restored_a.double()) / 255).square() * seen
        scores.append(squared.sum().item() / max(1, 3 * int(seen.sum())))
    if not scores:
        raise UsageError("the warping error is of two frames at least")
    return scores


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
    try:
        import cv2
    except ImportError as error:
        raise UsageError("Farneback's flow needs OpenCV: pip install vrestore[evaluate]") from error
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


def _judged(truth: Iterable[Tensor], restored: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames that TecoGAN scores, in whole codes; a larger result is cut to the truth."""
    held: deque[tuple[Tensor, Tensor]] = deque()
    number = 0
    for number, (true, ours) in enumerate(_together(truth, restored), 1):
        height, width = true.shape[1:]
        cut = ours[:, :height, :width]
        if cut.shape != true.shape:
            raise UsageError(
                f"frame {number - 1}: the result is {tuple(ours.shape)}, the truth "
                f"{tuple(true.shape)}; a smaller result cannot be compared"
            )
        held.append((_rounded(true), _rounded(cut)))
        if number > 2 * LEFT_OUT_FRAMES:
            yield held[LEFT_OUT_FRAMES]
            held.popleft()
    if number < 2 * LEFT_OUT_FRAMES + 2:
        raise UsageError(
            f"tOF and tLP leave {LEFT_OUT_FRAMES} frames out at each end and compare neighbours: "
            f"{number} frames are too few, {2 * LEFT_OUT_FRAMES + 2} the least"
        )


def _together(a: Iterable[Tensor], b: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Frames of the same number; UsageError where one film is shorter, or a frame has no colour."""
    for number, (one, other) in enumerate(zip_longest(a, b)):
        if one is None or other is None:
            raise UsageError(f"one film ends after {number} frames, the other does not")
        for frame in (one, other):
            if frame.dim() != 3 or frame.shape[0] != 3:
                raise UsageError(f"frame {number} is {tuple(frame.shape)}, not (3, H, W)")
        yield one, other


def _rounded(picture: Tensor) -> Tensor:
    return picture.float().round().clamp(0, 255)
