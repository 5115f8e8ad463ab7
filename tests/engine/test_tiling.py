"""Tiles that are put together to the picture that they were cut from."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import moving_clip, small_basicvsr, small_edvr, small_frbasicvsr_same_size

from vrestore.engine.restorer import Restorer
from vrestore.engine.tiling import OVERLAP, shares, spans, tiled
from vrestore.errors import UsageError
from vrestore.models.frbasicvsr import FRBasicVSR

LENGTHS = st.integers(1, 1000)
SIDES = st.integers(3 * OVERLAP, 600)


@given(LENGTHS, SIDES)
@settings(deadline=None)
def test_tiles_cover_a_side_and_overlap(length, side):
    places = spans(length, side)
    assert places[0][0] == 0
    assert places[-1][1] == length
    for (a, b), (c, d) in itertools.pairwise(places):
        assert a < c
        assert b - c >= OVERLAP
        assert b - a == d - c == side


@given(LENGTHS, SIDES, st.sampled_from([1, 2, 4]))
@settings(deadline=None)
def test_shares_of_all_tiles_are_one_everywhere(length, side, scale):
    places = spans(length, side)
    total = torch.zeros(length * scale)
    for (start, end), share in zip(places, shares(places, scale), strict=True):
        assert share.min() > 0
        total[start * scale : end * scale] += share
    torch.testing.assert_close(total, torch.ones_like(total))


def test_a_tile_fades_out_where_the_next_fades_in():
    first, second, third = shares(spans(200, 100), 4)
    shared = (100 - spans(200, 100)[1][0]) * 4
    assert first[-1] < 0.02
    assert second[0] < 0.02
    assert (first[-shared:].diff() < 0).all()
    assert (second[:shared].diff() > 0).all()
    assert (first[:-shared] == 1).all()
    assert (third[shared:] == 1).all()


def test_what_changes_nothing_changes_nothing_in_tiles():
    clip = moving_clip(5, 230, 310).unsqueeze(1)
    out = torch.stack(list(tiled(iter, lambda: iter(clip), 100, 1, 2)))
    torch.testing.assert_close(out, clip, atol=1e-6, rtol=0)


@pytest.mark.parametrize("make", [small_basicvsr, small_frbasicvsr_same_size, small_edvr])
def test_tiles_are_near_the_whole_picture(make):
    net, clip = make(), moving_clip(5, 96, 140)
    if isinstance(net, FRBasicVSR):  # random pictures that go round would shake everything
        net.picture.weight.mul_(0.1)
    whole, parts = (
        torch.stack(list(Restorer(net, precision="fp32", device="cpu", tile=t).stream(clip)))
        for t in (None, 100)
    )
    assert parts.shape == whole.shape
    assert 0 < (parts - whole).abs().mean() < 0.01 * whole.std()


def test_a_shot_of_no_frames_is_one_in_tiles():
    assert list(tiled(iter, lambda: iter(()), 100, 1, 2)) == []


def test_tiles_smaller_than_their_overlaps_are_refused():
    with pytest.raises(UsageError, match="tile 64 must be at least 96"):
        Restorer(small_basicvsr(), tile=64)
