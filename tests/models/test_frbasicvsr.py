"""Frame-recurrent BasicVSR: what is carried from frame to frame beside the features."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from networks import (
    SMALL_FLOW,
    small_basicvsr,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
)
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.errors import ModelError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.frbasicvsr import FRBasicVSR, packed, unpacked
from vrestore.models.temporal import Features, Seen


def encoded(net: FRBasicVSR, frames: Tensor, index: int = 0) -> Features:
    """The middle one of three frames ``(3, 3, H, W)``, which has that number in its shot."""
    return net.encode(Seen(tuple(frames[:, None].unbind()), index, False, 0))


def seen_by(trunk: nn.Module) -> list[Tensor]:
    seen: list[Tensor] = []
    trunk.register_forward_pre_hook(lambda _, parts: seen.extend(parts))
    return seen


def seen_size(x: Features) -> tuple[int, int]:
    """Rows and columns of the features."""
    height, width = x[3].shape[2:] if len(x) > 3 else x[0].shape[2:]
    return height, width


@pytest.mark.parametrize(("across", "down"), [(1, 0), (0, 2), (-3, 1)])
def test_quarters_of_a_pixel_move_the_picture_by_whole_ones(across: int, down: int) -> None:
    net, state = small_frbasicvsr(), torch.rand(1, 8, 9, 11)
    flow = torch.tensor([across / 4, down / 4]).view(1, 2, 1, 1).expand(1, 2, 9, 11)
    painted = F.pixel_shuffle(net.picture(state), 4)
    moved = F.pixel_shuffle(net.moved_picture(state, flow), 4)
    inner = slice(4, -4)
    shifted = painted.roll((-down, -across), (2, 3))
    torch.testing.assert_close(
        moved[..., inner, inner], shifted[..., inner, inner], atol=1e-4, rtol=1e-4
    )


def test_the_mean_of_both_pictures_is_part_of_the_output() -> None:
    net, x = small_frbasicvsr(), (torch.rand(1, 3, 6, 7),)
    states = {"backward": torch.rand(1, 8, 6, 7), "forward": torch.rand(1, 8, 6, 7)}
    pictures = [F.pixel_shuffle(net.picture(state), 4) for state in states.values()]
    without = BasicVSR.render(net, x, states)
    expected = without + sum(pictures) / 2
    torch.testing.assert_close(net.render(x, states), expected.expand(-1, 3, -1, -1))


def test_pictures_are_packed_as_pixel_shuffle_has_it() -> None:
    for side in (2, 4):
        blocks = torch.rand(2, side**2, 3, 5)
        for form in (torch.contiguous_format, torch.channels_last):
            picture = unpacked(blocks.contiguous(memory_format=form))
            assert torch.equal(picture, F.pixel_shuffle(blocks, side))
            assert torch.equal(packed(picture, side), blocks)


def test_a_trunk_sees_the_moved_picture_of_its_neighbour() -> None:
    net = small_frbasicvsr()
    x, flow = encoded(net, torch.rand(3, 3, 6, 7)), torch.zeros(1, 2, 6, 7)
    state = torch.rand(1, 8, 6, 7)
    before = net.advance(net.passes[1], x, [state], [flow], [])
    net.picture.bias += 0.5
    assert not torch.equal(net.advance(net.passes[1], x, [state], [flow], []), before)


@pytest.mark.parametrize("make", [small_frbasicvsr, small_frbasicvsr_same_size])
@pytest.mark.parametrize("step", [-1, 1])
def test_a_trunk_sees_by_how_much_the_luma_of_its_neighbour_moved_differs(
    make: Callable[[], FRBasicVSR], step: int
) -> None:
    """One whole pixel of the luma to the left and two down; in one place the frame is brighter."""
    net, there, other = make(), torch.rand(3, 20, 24), torch.rand(3, 20, 24)
    here = there.roll((-2, 1), (1, 2))
    here[:, 8, 9] += 0.25
    x = encoded(net, torch.stack((other, here, there) if step < 0 else (there, here, other)))
    seen = seen_by(net.backward_trunk if step < 0 else net.forward_trunk)
    pass_ = next(p for p in net.passes if p.step == step)
    down, across = (20, 24) if net.scale == 4 else (5, 6)
    flow = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1).expand(1, 2, down, across)
    state = torch.rand(1, 8, *seen_size(x))
    net.advance(pass_, x, [state], [flow * across / 24], [])
    differs = F.pixel_shuffle(seen[1], 24 // seen[1].shape[3])[0, 0]
    expected = torch.zeros(20, 24)
    expected[8, 9] = -0.25
    inner = slice(4, -4)
    torch.testing.assert_close(differs[inner, inner], expected[inner, inner], atol=1e-4, rtol=0)


def test_it_is_known_by_its_weights_and_apart_from_basicvsr(tmp_path: Path) -> None:
    clip = torch.rand(3, 3, 9, 8)
    for net in (small_frbasicvsr(), small_basicvsr(), small_frbasicvsr_same_size()):
        save_network(net, tmp_path / "net.safetensors", {})
        loaded = load_network(tmp_path / "net.safetensors")
        assert type(loaded) is type(net)
        assert loaded.scale == net.scale
        assert torch.equal(loaded(clip), net(clip))


def test_trunks_that_see_no_picture_are_refused(tmp_path: Path) -> None:
    net = FRBasicVSR(8, 1, **SMALL_FLOW)
    net.backward_trunk.main[0] = nn.Conv2d(8 + 3, 8, 3, 1, 1)
    save_network(net, tmp_path / "net.safetensors", {})
    with pytest.raises(ModelError, match="cannot be read off backward_trunk"):
        load_network(tmp_path / "net.safetensors")


def test_the_same_size_form_sees_blocks_and_finds_flow_in_means_of_four() -> None:
    net, frame = small_frbasicvsr_same_size(), torch.rand(1, 3, 13, 18)
    seen, _, rest, packed, small = encoded(net, frame.expand(3, -1, -1, -1))
    assert torch.equal(seen, frame)
    assert packed.shape == (1, 12, 8, 10)
    assert small.shape == (1, 3, 4, 5)
    means = F.avg_pool2d(packed.unflatten(1, (3, 4)).mean(2), 2)
    torch.testing.assert_close(means, small)
    torch.testing.assert_close(small[0, :, 2, 1], frame[0, :, 8:12, 4:8].mean((1, 2)))
    assert torch.equal(rest, net.spynet(small, small))
    other = encoded(net, torch.rand(3, 3, 13, 18), 1)
    assert not other[2].any()
    x = encoded(net, frame.expand(3, -1, -1, -1))
    flows = net.spynet.both_ways(small, other[4])
    for found, expected in zip(net.flow(x, other), flows, strict=True):
        assert torch.equal(found, expected - rest)


@pytest.mark.parametrize("make", [small_frbasicvsr, small_frbasicvsr_same_size])
def test_what_stands_still_has_no_flow(make: Callable[[], FRBasicVSR]) -> None:
    """The flow network alone would find some: it is random."""
    net, frame = make(), torch.rand(3, 20, 24)
    shot = [encoded(net, frame.expand(3, -1, -1, -1), index) for index in range(3)]
    small = shot[0][4] if net.hr_in else shot[0][0]
    assert net.spynet(small, small).abs().max() > 0.01
    for before, after in pairwise(shot):
        for flow in net.flow(before, after):
            assert flow.abs().max() < 1e-5


def test_the_flow_of_the_same_size_form_moves_features_and_pictures_as_far() -> None:
    """A flow is of blocks of four pixels, a place of the features two of them to a side."""
    net, state = small_frbasicvsr_same_size(), torch.rand(1, 8, 10, 12)
    flow = torch.tensor([0.5, -1.0]).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    painted, inner = F.pixel_shuffle(net.picture(state), 2), slice(6, -6)
    moved = F.pixel_shuffle(net.moved_picture(state, flow), 2)
    shifted = painted.roll((4, -2), (2, 3))
    torch.testing.assert_close(
        moved[..., inner, inner], shifted[..., inner, inner], atol=1e-4, rtol=1e-4
    )
    seen = seen_by(net.forward_trunk)
    net.advance(net.passes[1], encoded(net, torch.rand(3, 3, 20, 24)), [state], [flow], [])
    _, _, _, features = seen
    inner = slice(3, -3)
    expected = state.roll((2, -1), (2, 3))
    torch.testing.assert_close(
        features[..., inner, inner], expected[..., inner, inner], atol=1e-4, rtol=1e-4
    )


def test_a_same_size_form_that_adds_nothing_gives_the_frames_themselves() -> None:
    net, clip = small_frbasicvsr_same_size(), torch.rand(3, 3, 13, 18)
    assert not torch.equal(net(clip), clip)
    for parameter in (*net.conv_last.parameters(), *net.picture.parameters()):
        parameter.zero_()
    assert torch.equal(net(clip), clip)


def test_the_tail_of_the_same_size_form_sees_single_pixels() -> None:
    """A pixel that its block's means hide, and whose features are cut off, still reaches it."""
    net, frame = small_frbasicvsr_same_size(), torch.rand(1, 3, 12, 16)
    states = {"backward": torch.rand(1, 8, 6, 8), "forward": torch.rand(1, 8, 6, 8)}
    before = net.render((frame,), states)
    other = frame.clone()
    other[..., 5, 6] += 0.2
    changed = ((net.render((other,), states) - before) - (other - frame)).abs() > 1e-6
    rows, columns = changed[0, 0].nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 7, 4, 8)
