"""Frame-recurrent BasicVSR: what is carried from frame to frame beside the features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import SMALL_FLOW, small_basicvsr, small_frbasicvsr
from torch import nn
from torch.nn import functional as F

from vrestore.errors import ModelError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.frbasicvsr import FRBasicVSR, packed, unpacked


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
    blocks = torch.rand(2, 16, 3, 5)
    for form in (torch.contiguous_format, torch.channels_last):
        picture = unpacked(blocks.contiguous(memory_format=form))
        assert torch.equal(picture, F.pixel_shuffle(blocks, 4))
        assert torch.equal(packed(picture), blocks)


def test_a_trunk_sees_the_moved_picture_of_its_neighbour() -> None:
    net = small_frbasicvsr()
    x, flow = (torch.rand(1, 3, 6, 7),), torch.zeros(1, 2, 6, 7)
    state = torch.rand(1, 8, 6, 7)
    before = net.advance(net.passes[1], x, [state], [flow], [])
    net.picture.bias += 0.5
    assert not torch.equal(net.advance(net.passes[1], x, [state], [flow], []), before)


def test_it_is_known_by_its_weights_and_apart_from_basicvsr(tmp_path: Path) -> None:
    clip = torch.rand(3, 3, 9, 8)
    for net, kind in ((small_frbasicvsr(), FRBasicVSR), (small_basicvsr(), BasicVSR)):
        save_network(net, tmp_path / "net.safetensors", {})
        loaded = load_network(tmp_path / "net.safetensors")
        assert type(loaded) is kind
        assert torch.equal(loaded(clip), net(clip))


def test_trunks_that_see_no_picture_are_refused(tmp_path: Path) -> None:
    net = FRBasicVSR(8, 1, **SMALL_FLOW)
    net.backward_trunk.main[0] = nn.Conv2d(8 + 3, 8, 3, 1, 1)
    save_network(net, tmp_path / "net.safetensors", {})
    with pytest.raises(ModelError, match="cannot be read off backward_trunk"):
        load_network(tmp_path / "net.safetensors")
