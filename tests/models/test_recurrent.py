"""IconVSR, BasicVSR++ and RealBasicVSR: the reference's numbers, and what any weights must give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_equals_golden, golden_case, in_container
from networks import (
    moving_clip,
    small_basicvsr,
    small_basicvsrpp,
    small_edvr,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore import Restorer
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.iconvsr import IconVSR
from vrestore.models.realbasicvsr import RealBasicVSR

# Case -> class, and what no shape tells where it is not the published value.
CASES: dict[str, tuple[type, dict[str, Any]]] = {
    "iconvsr_basicsr_p2": (IconVSR, {}),
    "iconvsr_basicsr_p3_odd": (IconVSR, {}),
    "iconvsr_mmagic_p2": (IconVSR, {}),
    "iconvsr_mmagic_p3_odd": (IconVSR, {"keyframe_stride": 3}),
    "basicvsrpp_basicsr_lowres": (BasicVSRPlusPlus, {}),
    "basicvsrpp_mmagic_lowres": (BasicVSRPlusPlus, {}),
    "basicvsrpp_mmagic_mirror_odd": (BasicVSRPlusPlus, {"max_residue_magnitude": 5}),
    "basicvsrpp_mmagic_samesize": (BasicVSRPlusPlus, {}),
    "realbasicvsr_1pass": (RealBasicVSR, {}),
    "realbasicvsr_2pass": (RealBasicVSR, {"dynamic_refine_thres": 41.727}),
    "realbasicvsr_3pass": (RealBasicVSR, {"dynamic_refine_thres": 0}),
    "realbasicvsr_sequential": (RealBasicVSR, {"dynamic_refine_thres": 5}),
}
SMALL = [
    small_basicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_basicvsrpp,
    small_frbasicvsr,
    small_realbasicvsr,
]


def test_a_refill_of_another_size_is_read_off_the_weights(tmp_path: Path) -> None:
    net = small_iconvsr(num_edvr_feat=4, num_extract_block=2, deformable_groups=2)
    save_network(net, tmp_path / "net.safetensors", {})
    found = load_network(tmp_path / "net.safetensors", keyframe_stride=3)
    clip = moving_clip(4)
    assert torch.equal(found(clip), net(clip))


@pytest.mark.parametrize("name", CASES)
def test_output_equals_the_reference(name: str, tmp_path: Path) -> None:
    case, (kind, told) = golden_case(name), CASES[name]
    torch.save(in_container(case.state, case.layout), tmp_path / "net.pth")
    net = load_network(tmp_path / "net.pth", **told)
    assert isinstance(net, kind)
    assert_equals_golden(case, net(case.inputs["x"]), "y")


@pytest.mark.parametrize(
    "make", [small_iconvsr, small_basicvsrpp, small_frbasicvsr, small_realbasicvsr]
)
@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("size", [(1, 1), (6, 9), (17, 12)])
def test_any_shot_and_any_frame_size_work(make, frames, size):
    net = make()
    out = net(torch.rand(frames, 3, *size))
    assert out.shape == (frames, 3, size[0] * 4, size[1] * 4)
    assert out.isfinite().all()


@pytest.mark.parametrize(
    "make", [small_frbasicvsr_same_size, lambda: small_basicvsrpp(is_low_res_input=False)]
)
@pytest.mark.parametrize("size", [(1, 1), (6, 9), (18, 13)])
def test_a_same_size_form_takes_any_frame_size(make, size):
    out = make()(torch.rand(3, 3, *size))
    assert out.shape == (3, 3, *size)
    assert out.isfinite().all()


@pytest.mark.parametrize("make", SMALL)
def test_one_training_step_moves_every_parameter(make):
    net = make().requires_grad_(True)
    net(torch.rand(7, 3, 16, 16)).square().mean().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


@pytest.mark.parametrize("make", SMALL)
def test_every_frame_is_seen_by_every_output(make):
    net, clip = make(), moving_clip(5, 16, 16)
    before = net(clip)
    for changed in range(5):
        other = clip.clone()
        other[changed] += 0.1
        assert ((net(other) - before).flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize("make", [*SMALL, small_edvr])
def test_half_precision_stays_near_float32(make):
    net, clip = make(), moving_clip(5, 16, 16)
    full, half = (
        torch.stack(list(Restorer(net, precision=p, device="cpu").stream(clip)))
        for p in ("fp32", "bf16")
    )
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().mean() < 0.03 * full.std()


def test_key_frames_are_counted_from_the_shots_start_whatever_the_chunking():
    net, refilled = small_iconvsr(), []
    original = net.edvr.aligned_and_fused
    net.edvr.aligned_and_fused = lambda window: refilled.append(1) or original(window)
    clip = moving_clip(12, 12, 12)
    for how in ({"propagation": "whole"}, {"chunk": 4, "lookahead": 2}, {"chunk": 5}):
        refilled.clear()
        list(Restorer(net, precision="fp32", device="cpu", **how).stream(clip))
        assert len(refilled) == 5  # frames 0, 3, 6, 9 and the last, 11


def test_forward_of_a_shorter_lookahead_keeps_the_same_refills():
    """With the window as long as the shot the stream equals the clip, refills at its ends too."""
    net, clip = small_iconvsr(temporal_padding=3), moving_clip(9, 12, 12)
    streamed = list(
        Restorer(net, precision="fp32", device="cpu", chunk=4, lookahead=5).stream(clip)
    )
    assert torch.equal(torch.stack(streamed), net(clip))


def test_cleaning_is_decided_once_per_shot():
    """Frames that grow worse within a shot are all cleaned alike, in every chunk."""
    net, seen = small_realbasicvsr(), []
    original = net.encode
    net.encode = lambda s: seen.append(s.shot) or original(s)
    clip = torch.cat((torch.zeros(6, 3, 12, 12), torch.rand(14, 3, 12, 12) * 9))
    for thres, expected in ((0, {3}), (1e6, {1}), (20, {1, 2, 3})):
        net.dynamic_refine_thres = thres
        seen.clear()
        list(Restorer(net, precision="fp32", device="cpu", chunk=4, lookahead=2).stream(clip))
        assert len(seen) == 20
        assert len(set(seen)) == 1
        assert set(seen) <= expected


def test_more_cleaning_is_made_of_worse_footage():
    net, clip = small_realbasicvsr(dynamic_refine_thres=0), torch.rand(2, 3, 12, 12)
    assert net.survey(clip.unsqueeze(1).unbind(0)) == 3
    net.dynamic_refine_thres = 1e6
    assert net.survey(clip.unsqueeze(1).unbind(0)) == 1
