"""What training makes small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vrestore.models.layers import warp


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean of sqrt(d² + eps): the L1 that is smooth at zero (BasicVSR, sec. 4)."""
    return ((a - b).square() + eps).sqrt().mean()


def log_error(a: Tensor, b: Tensor) -> Tensor:
    """What mean PSNR counts: the mean of ln(MSE) of each sample ``(N, ...)``, in 0..1.

    Errors below 0.3% count less and less. A hundredth of it, so that its gradients are as long as
    those of the Charbonnier loss and one clipping serves both.
    """
    return ((a - b).square().flatten(1).mean(1) + 1e-5).log().mean() / 100


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "charbonnier": charbonnier,
    "log_error": log_error,
}


def end_point_error(pyramid: list[Tensor], truth: Tensor) -> Tensor:
    """Distance between flow and true flow in full-size pixels, over all levels of the pyramid.

    ``pyramid``: ``(N, 2, h, w)`` each, coarsest first; ``truth``: ``(N, 2, H, W)``. Coarse levels
    count less, in proportion to the area that they describe.
    """
    total = truth.new_zeros(())
    for flow in pyramid:
        factor = truth.shape[-1] // flow.shape[-1]
        target = torch.nn.functional.avg_pool2d(truth, factor)
        distance = (flow * factor - target).square().sum(1).add(1e-6).sqrt()
        total = total + distance.mean() / factor
    return total


def photometric(flow: Tensor, ref: Tensor, supp: Tensor) -> Tensor:
    """How badly ``supp`` warped by ``flow`` explains ``ref``, plus some roughness of the flow."""
    error = charbonnier(warp(supp, flow, padding_mode="border"), ref, 1e-6)
    rough = flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean()
    return error + 0.005 * rough
