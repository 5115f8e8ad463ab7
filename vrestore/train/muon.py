"""Muon: steps of momentum made orthogonal, for convolutions; Adam for all else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic of Jordan's note: fast, not exact
ITERATIONS = 5


class Muon(torch.optim.Adam):
    """Muon (Jordan et al. 2024) for groups that say ``orthogonal``, Adam for the others.

    A convolution's step is its momentum (Nesterov's) with all singular values made one, as a matrix
    of outputs by what each sees: the directions in which gradients are small are gone as far as the
    others. Times 0.2 sqrt(larger side), so that its elements move as far as Adam's would (Liu et
    al. 2025, arXiv 2502.16982, eq. 4). From nothing it takes half of Adam's steps. Weights become
    smaller by ``shrink`` times the rate at each step (eq. 3 there): all directions grow alike, and
    what is fed back frame by frame must not.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Both kinds of groups, each with its own rate."""
        turned = []
        for group in self.param_groups:
            if group["orthogonal"]:
                turned += [(p, p.grad) for p in group["params"] if p.grad is not None]
                self._turn(group)
                for parameter in group["params"]:
                    parameter.grad = None  # Adam passes it by
        result = super().step(closure)
        for parameter, grad in turned:
            parameter.grad = grad
        return result

    def _turn(self, group: dict[str, Any]) -> None:
        """One step; weights of one shape go together."""
        alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)  # Adam asks every state for it when loaded
                state["momentum"] = torch.zeros_like(parameter)
            momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)
            alike[parameter.shape].append((parameter, ahead))
        for moved in alike.values():
            steps = orthogonal(torch.stack([ahead for _, ahead in moved]))
            reach = 0.2 * max(steps.shape[1:]) ** 0.5 * group["lr"]
            for (parameter, _), step in zip(moved, steps, strict=True):
                parameter.mul_(1 - group["lr"] * group.get("shrink", 0.0))
                parameter.sub_(step.reshape(parameter.shape), alpha=reach)


def orthogonal(matrices: Tensor) -> Tensor:
    """``(N, rows, columns)`` with singular values near one (0.7 to 1.2), by Newton and Schulz.

    What is zero stays zero.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x: Tensor = wide / wide.norm(dim=(1, 2), keepdim=True).clamp_min(1e-20)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide is matrices else x.mT
