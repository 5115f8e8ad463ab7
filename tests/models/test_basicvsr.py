"""BasicVSR against the reference's numbers, and what must hold for any weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from golden import assert_equals_golden, golden_case, in_container
from networks import small_basicvsr_same_size, small_realbasicvsr
from torch import nn

from vrestore.errors import ModelError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.temporal import Seen

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


def test_the_same_size_form_sees_blocks_and_finds_flow_in_their_means() -> None:
    net, frame = small_basicvsr_same_size(), torch.rand(1, 3, 13, 18)
    seen, packed, small = net.encode(Seen((frame,), 0, True, 0))
    assert seen is frame
    assert packed.shape == (1, 48, 4, 5)
    assert small.shape == (1, 3, 4, 5)
    torch.testing.assert_close(packed.unflatten(1, (3, 16)).mean(2), small)
    torch.testing.assert_close(small[0, :, 2, 1], frame[0, :, 8:12, 4:8].mean((1, 2)))
    other = net.encode(Seen((torch.rand(1, 3, 13, 18),), 1, True, 0))
    for flow, expected in zip(
        net.flow((seen, packed, small), other), net.spynet.both_ways(small, other[2]), strict=True
    ):
        assert torch.equal(flow, expected)


def test_a_same_size_form_without_a_tail_gives_the_frames_themselves() -> None:
    net, clip = small_basicvsr_same_size(), torch.rand(3, 3, 13, 18)
    assert not torch.equal(net(clip), clip)
    for parameter in net.conv_last.parameters():
        parameter.zero_()
    assert torch.equal(net(clip), clip)


def test_which_form_it_is_is_read_off_the_weights(tmp_path: Path) -> None:
    for net in (compact(), small_basicvsr_same_size()):
        save_network(net, tmp_path / "net.safetensors", {})
        loaded, clip = load_network(tmp_path / "net.safetensors"), torch.rand(2, 3, 13, 18)
        assert isinstance(loaded, BasicVSR)
        assert (loaded.hr_in, loaded.scale) == (net.hr_in, net.scale)
        assert torch.equal(loaded(clip), net(clip))


def test_trunks_that_see_something_else_are_refused(tmp_path: Path) -> None:
    net = compact()
    net.backward_trunk.main[0] = nn.Conv2d(8 + 12, 8, 3, 1, 1)
    save_network(net, tmp_path / "net.safetensors", {})
    with pytest.raises(ModelError, match="cannot be read off backward_trunk"):
        load_network(tmp_path / "net.safetensors")
    real = small_realbasicvsr()
    real.basicvsr = small_basicvsr_same_size()
    save_network(real, tmp_path / "real.safetensors", {})
    with pytest.raises(ModelError, match=r"cannot be read off basicvsr\.backward_trunk"):
        load_network(tmp_path / "real.safetensors")


def compact() -> BasicVSR:
    torch.manual_seed(0)
    net = BasicVSR(8, 1, 8, spynet_levels=3, spynet_kernel=3, spynet_widths=(8, 8))
    return net.eval().requires_grad_(False)
