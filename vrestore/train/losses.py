"""What training makes small."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.models.layers import warp
from vrestore.train.config import Adversarial


def charbonnier(a: Tensor, b: Tensor, eps: float = 1e-12) -> Tensor:
    """Mean of sqrt(d² + eps): the L1 that is smooth at zero (BasicVSR, sec. 4)."""
    return ((a - b).square() + eps).sqrt().mean()


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference."""
    return (a - b).abs().mean()


def log_error(a: Tensor, b: Tensor) -> Tensor:
    """What mean PSNR counts: the mean of ln(MSE) of each sample ``(N, ...)``, in 0..1.

    Errors below 0.3% count less and less. A hundredth of it, so that its gradients are as long as
    those of the Charbonnier loss and one clipping serves both.
    """
    return ((a - b).square().flatten(1).mean(1) + 1e-5).log().mean() / 100


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "charbonnier": charbonnier,
    "l1": l1,
    "log_error": log_error,
}


def reduced_truth(truth: Tensor) -> Tensor:
    """What cleaned input is compared with: ``(N, T, 3, H, W)``, the mean of every 4x4 block.

    RealBasicVSR, sec. 3.2 and appendix.
    """
    return torch.stack([F.avg_pool2d(clip, 4) for clip in truth])


def generator_loss(form: Adversarial, fake: Tensor, real: Tensor | None = None) -> Tensor:
    """How little the discriminator takes what was made for real; scores of any shape.

    ``vanilla``: Goodfellow et al. 2014, the form that does not saturate. ``lsgan``: Mao et al.
    2017. ``hinge``: Miyato et al. 2018, eq. 17. ``relativistic``: the average form of ESRGAN, eq.
    2, which alone needs ``real``, the scores of the truth; half of it, so that it is as long as the
    others.
    """
    if form == "vanilla":
        return _cross_entropy(fake, 1.0)
    if form == "lsgan":
        return (fake - 1).square().mean()
    if form == "hinge":
        return -fake.mean()
    if real is None:
        raise ValueError("the relativistic loss compares with the scores of the truth")
    return (_cross_entropy(real - fake.mean(), 0.0) + _cross_entropy(fake - real.mean(), 1.0)) / 2


def discriminator_losses(form: Adversarial, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """How wrong the discriminator is about the truth, and about what was made."""
    if form == "vanilla":
        return _cross_entropy(real, 1.0), _cross_entropy(fake, 0.0)
    if form == "lsgan":
        return (real - 1).square().mean(), fake.square().mean()
    if form == "hinge":
        return F.relu(1 - real).mean(), F.relu(1 + fake).mean()
    right = _cross_entropy(real - fake.mean(), 1.0)
    return right / 2, _cross_entropy(fake - real.mean(), 0.0) / 2


def _cross_entropy(scores: Tensor, target: float) -> Tensor:
    """Of logits against one and the same target."""
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


def end_point_error(pyramid: list[Tensor], truth: Tensor) -> Tensor:
    """Distance between flow and true flow in full-size pixels, over all levels of the pyramid.

    ``pyramid``: ``(N, 2, h, w)`` each, coarsest first; ``truth``: ``(N, 2, H, W)``. Coarse levels
    count less, in proportion to the area that they describe.
    """
    total = truth.new_zeros(())
    for flow in pyramid:
        factor = truth.shape[-1] // flow.shape[-1]
        target = F.avg_pool2d(truth, factor)
        distance = (flow * factor - target).square().sum(1).add(1e-6).sqrt()
        total = total + distance.mean() / factor
    return total


def photometric(flow: Tensor, ref: Tensor, supp: Tensor) -> Tensor:
    """How badly ``supp`` warped by ``flow`` explains ``ref``, plus some roughness of the flow."""
    error = charbonnier(warp(supp, flow, padding_mode="border"), ref, 1e-6)
    rough = flow.diff(dim=-1).abs().mean() + flow.diff(dim=-2).abs().mean()
    return error + 0.005 * rough
