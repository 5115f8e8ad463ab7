"""Which pixels of which frames a patch of the output was made from: local attribution maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

BLUR_SIGMA_PX = 1.2  # of the path's beginning, in input pixels, as in the paper's experiments

Run = Callable[[Tensor], Tensor]


def attribution(
    run: Run,
    clip: Tensor,
    row: int,
    column: int,
    patch: int,
    steps: int,
    stepped: Callable[[int], object] = lambda done: None,
) -> Tensor:
    """How much each value of ``clip`` ``(T, 3, H, W)`` contributed, signed: the same shape.

    ``run`` makes of a clip the picture ``(3, H', W')`` that is asked about; the patch of ``patch``
    pixels begins at ``row`` and ``column`` of it. Gu and Dong, CVPR 2021 (arXiv 2011.11036), eq. 4
    and 5: gradients of the patch's edges, integrated along the path on which a blurred clip becomes
    sharp (eq. 7), in ``steps`` steps. Their sum is the edges of the patch less those of the patch
    that the blurred clip gives. ``stepped`` is told after each step how many are done.
    """
    total = torch.zeros_like(clip)
    here = blurred(clip, BLUR_SIGMA_PX)
    for step in range(steps):
        there = blurred(clip, BLUR_SIGMA_PX * (1 - (step + 1) / steps))
        point = ((here + there) / 2).requires_grad_()
        with torch.enable_grad():
            edges = edges_in(run(point), row, column, patch)
            (gradient,) = torch.autograd.grad(edges, point)
        total += gradient * (there - here)
        here = there
        stepped(step + 1)
    return total


def edges_in(picture: Tensor, row: int, column: int, patch: int) -> Tensor:
    """The paper's detector (eq. 3): the sum of the patch's absolute differences of neighbours."""
    part = picture[..., row : row + patch, column : column + patch]
    return part.diff(dim=-1).abs().sum() + part.diff(dim=-2).abs().sum()


def blurred(clip: Tensor, sigma: float) -> Tensor:
    """Each picture of ``(T, 3, H, W)`` convolved with a Gaussian; borders are continued."""
    if sigma <= 0:
        return clip.clone()
    reach = max(1, round(4 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=clip.dtype, device=clip.device)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(clip.reshape(-1, 1, *clip.shape[-2:]), (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel), kernel.mT).reshape(clip.shape)


def shares(contributions: Tensor) -> list[float]:
    """What part of all contributions, whatever their sign, came from each frame; the sum is 1."""
    of_frame = contributions.abs().sum((1, 2, 3))
    return [float(share) for share in of_frame / of_frame.sum().clamp_min(1e-12)]
