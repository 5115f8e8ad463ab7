"""Small networks that tests run: random weights, every way of propagation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vrestore.engine.restorer import Restorer
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.edvr import EDVR
from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.frrealbasicvsr import FRRealBasicVSR
from vrestore.models.iconvsr import IconVSR
from vrestore.models.realbasicvsr import RealBasicVSR
from vrestore.models.temporal import Features, Network, Pass, RecurrentNetwork, Seen


def small_basicvsr(seed: int = 0) -> BasicVSR:
    """A BasicVSR of a few thousand parameters whose recurrence is felt over several frames."""
    torch.manual_seed(seed)
    net = BasicVSR(8, 1, 8, spynet_levels=3, spynet_kernel=3, spynet_widths=(4, 4, 4, 4)).eval()
    return net.requires_grad_(False)


def small_frbasicvsr() -> FRBasicVSR:
    net = awake(FRBasicVSR(8, 1, **SMALL_FLOW))
    assert isinstance(net, FRBasicVSR)
    return net


def small_frbasicvsr_same_size() -> FRBasicVSR:
    """Its form of scale 1."""
    net = awake(FRBasicVSR(8, 1, hr_in=True, **SMALL_FLOW))
    assert isinstance(net, FRBasicVSR)
    return net


def small_frrealbasicvsr() -> FRRealBasicVSR:
    """It and a cleaner before it, of another size."""
    sizes = {"cleaner_feat": 12, "cleaner_block": 2, "cleaner_tail_feat": 4}
    net = awake(FRRealBasicVSR(8, 1, **(SMALL_FLOW | sizes)))
    assert isinstance(net, FRRealBasicVSR)
    return net


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight random, those too that start at zero; eval mode, no gradients."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * spread)
    return net.eval().requires_grad_(False)


def small_edvr(**how: Any) -> EDVR:
    """An EDVR of 8 features whose offsets are not zero."""
    sizes = {"num_feat": 8, "deformable_groups": 2, "num_extract_block": 1}
    net = awake(EDVR(**(sizes | {"num_reconstruct_block": 1} | how)))
    assert isinstance(net, EDVR)
    return net


SMALL_FLOW: dict[str, Any] = {
    "num_tail_feat": 8,
    "spynet_levels": 3,
    "spynet_kernel": 3,
    "spynet_widths": (4, 4, 4, 4),
}


def small_iconvsr(**how: Any) -> IconVSR:
    """Key frames at every third frame of a shot, and at its last."""
    net = awake(IconVSR(8, 1, **({"keyframe_stride": 3} | SMALL_FLOW | how)))
    assert isinstance(net, IconVSR)
    return net


def small_basicvsrpp(**how: Any) -> BasicVSRPlusPlus:
    net = awake(BasicVSRPlusPlus(8, 1, **({"deformable_groups": 2} | SMALL_FLOW | how)))
    assert isinstance(net, BasicVSRPlusPlus)
    return net


def small_realbasicvsr(**how: Any) -> RealBasicVSR:
    net = awake(RealBasicVSR(8, 1, 1, **(SMALL_FLOW | how)))
    assert isinstance(net, RealBasicVSR)
    return net


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

    def encode(self, seen: Seen) -> Features:
        return seen.frame * 2 - 1, seen.frame

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        return (b[1] - a[1])[:, :2], (a[1] - b[1])[:, :2]

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        assert len(states) == len(flows) <= pass_.order
        out = x[0]
        for k, (state, flow) in enumerate(zip(states, flows, strict=True)):
            out = out + 0.3 / (k + 1) * state * (1 + flow.mean(1, keepdim=True))
        return out + 0.1 * sum(read, torch.zeros_like(out))

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        return x[1] + sum((k + 1) * features[p.name] for k, p in enumerate(self.passes))


def run(net: Network, clip: Tensor, **how: Any) -> Tensor:
    """The clip, streamed through a ``Restorer`` in float32."""
    restorer = Restorer(net, precision="fp32", device="cpu", **how)
    return torch.stack(list(restorer.stream(iter(clip))))
