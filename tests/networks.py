"""Small networks that tests run: random weights, every way of propagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.temporal import Pass, RecurrentNetwork


def small_basicvsr(seed: int = 0) -> BasicVSR:
    """A BasicVSR of a few thousand parameters whose recurrence is felt over several frames."""
    torch.manual_seed(seed)
    net = BasicVSR(8, 1, 8, spynet_levels=3, spynet_kernel=3, spynet_widths=(4, 4, 4, 4)).eval()
    return net.requires_grad_(False)


def moving_clip(frames: int, height: int = 20, width: int = 24, seed: int = 0) -> Tensor:
    """``(T, 3, H, W)``: a smooth random picture that slides by a pixel and a half a frame."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, height // 2 + frames, width // 2 + frames, generator=generator)
    picture = torch.nn.functional.interpolate(picture, scale_factor=4, mode="bicubic")[0]
    steps = [round(1.5 * t) for t in range(frames)]
    return torch.stack([picture[:, t : t + height, t : t + width] for t in steps])


class GridNetwork(RecurrentNetwork):
    """BasicVSR++'s order of passes (its fig. 2) with arithmetic that shows any wrong step."""

    scale = 1
    passes = (
        Pass("backward_1", step=-1, order=2),
        Pass("forward_1", step=+1, reads=("backward_1",), order=2),
        Pass("backward_2", step=-1, reads=("backward_1", "forward_1"), order=2),
        Pass("forward_2", step=+1, reads=("backward_1", "forward_1", "backward_2"), order=2),
    )

    def encode(self, frame: Tensor) -> Tensor:
        return frame * 2 - 1

    def flow(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return (b - a)[:, :2], (a - b)[:, :2]

    def advance(
        self,
        pass_: Pass,
        x: Tensor,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        assert len(states) == len(flows) <= pass_.order
        out = x
        for k, (state, flow) in enumerate(zip(states, flows, strict=True)):
            out = out + 0.3 / (k + 1) * state * (1 + flow.mean(1, keepdim=True))
        return out + 0.1 * sum(read, torch.zeros_like(x))

    def render(self, frame: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        return frame + sum((k + 1) * features[p.name] for k, p in enumerate(self.passes))
