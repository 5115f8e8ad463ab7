"""BasicVSR against the reference's numbers, and what must hold for any weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import assert_equals_golden, golden_case, in_container
from torch import nn

from vrestore.errors import ModelError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network, save_network

CASES = [
    "basicvsr_basicsr",
    "basicvsr_basicsr_odd_b2",
    "basicvsr_mmagic",
    "basicvsr_mmagic_mirror",
    "basicvsr_mmagic_t1",
]


@pytest.mark.parametrize("name", CASES)
def test_output_equals_the_reference(name: str, tmp_path: Path) -> None:
    case = golden_case(name)
    torch.save(in_container(case.state, case.layout), tmp_path / "basicvsr.pth")
    net = load_network(tmp_path / "basicvsr.pth")
    assert isinstance(net, BasicVSR)
    assert_equals_golden(case, net(case.inputs["x"]), "y")


def test_a_batch_of_two_clips_equals_the_clips_alone() -> None:
    net, clips = compact(), torch.rand(2, 3, 3, 10, 12)
    alone = torch.stack([net(clip) for clip in clips])
    torch.testing.assert_close(net(clips), alone, rtol=0, atol=1e-5)


def test_a_clip_without_batch_axis_equals_a_batch_of_one() -> None:
    net, clip = compact(), torch.rand(3, 3, 10, 12)
    assert torch.equal(net(clip), net(clip[None])[0])


@pytest.mark.parametrize("frames", [1, 2])
def test_clips_too_short_for_motion_work(frames: int) -> None:
    out = compact()(torch.rand(frames, 3, 10, 12))
    assert out.shape == (frames, 3, 40, 48)
    assert out.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 7), (33, 31)])
def test_any_frame_size_works(size: tuple[int, int]) -> None:
    out = compact()(torch.rand(2, 3, *size))
    assert out.shape == (2, 3, size[0] * 4, size[1] * 4)
    assert out.isfinite().all()


def test_every_frame_is_seen_by_every_output() -> None:
    net, clip = compact(), torch.rand(4, 3, 8, 8)
    before = net(clip)
    for changed in range(4):
        other = clip.clone()
        other[changed] += 0.1
        assert ((net(other) - before).flatten(1).abs().amax(1) > 0).all()


def test_the_input_is_left_as_it_was() -> None:
    clip = torch.rand(3, 3, 8, 8)
    kept = clip.clone()
    compact()(clip)
    assert torch.equal(clip, kept)


def test_trunks_that_see_something_else_are_refused(tmp_path: Path) -> None:
    net = compact()
    net.backward_trunk.main[0] = nn.Conv2d(8 + 12, 8, 3, 1, 1)
    save_network(net, tmp_path / "net.safetensors", {})
    with pytest.raises(ModelError, match=r"backward_trunk\.main\.0\.weight"):
        load_network(tmp_path / "net.safetensors")


def compact() -> BasicVSR:
    torch.manual_seed(0)
    net = BasicVSR(8, 1, 8, spynet_levels=3, spynet_kernel=3, spynet_widths=(8, 8))
    return net.eval().requires_grad_(False)
