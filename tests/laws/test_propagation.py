"""Law 3: the whole shot is ``net(clip)``; chunks approach it as they look further ahead."""

import os
import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import (
    GridNetwork,
    moving_clip,
    run,
    small_basicvsr,
    small_basicvsrpp,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore import Restorer
from vrestore.engine.exact import Again
from vrestore.engine.ghosts import Alive
from vrestore.engine.lengths import Lengths, need

EVERY = [
    small_basicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_basicvsrpp,
    small_frbasicvsr,
    small_realbasicvsr,
    GridNetwork,
]


@pytest.mark.parametrize("frames", [1, 2, 3, 11])
@pytest.mark.parametrize("make", EVERY)
def test_whole_equals_the_network_bit_for_bit(make, frames):
    net, clip = make(), moving_clip(frames)
    assert torch.equal(run(net, clip, propagation="whole"), net(clip))


@pytest.mark.parametrize("make", EVERY)
def test_a_chunk_that_holds_the_shot_equals_the_whole_shot(make):
    net, clip = make(), moving_clip(9)
    for chunk, lookahead in [(9, 0), (4, 5), (1, 8), (20, 3)]:
        assert torch.equal(run(net, clip, chunk=chunk, lookahead=lookahead), net(clip))


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("source", [iter, lambda clip: clip], ids=["spooled", "read again"])
def test_exact_equals_the_whole_shot_bit_for_bit(make, source):
    net, clip = make(), moving_clip(11, 13, 18)
    whole = run(net, clip, propagation="whole")
    for chunk in (1, 3, 4, 11, 20):
        restorer = Restorer(net, precision="fp32", device="cpu", propagation="exact", chunk=chunk)
        out = torch.stack(list(restorer.stream(source(clip))))
        assert torch.equal(out, whole), chunk


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize("ways", [{}, {"propagation": "exact"}, {"tile": 96}])
def test_states_on_disk_change_no_bit(make, ways, tmp_path, monkeypatch):
    net, clip = make(), moving_clip(9, 40, 112)
    restorers = [Restorer(net, precision="fp32", device="cpu", chunk=4, **ways) for _ in range(2)]
    restorers[1].choice.scratch = tmp_path
    written = []
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda *what: written.append(what[1].nbytes) or write(*what))
    choice = restorers[1].choice
    choice.chosen[40, 112] = replace(choice.lengths(40, 112), on_disk=True)
    outs = [torch.stack(list(restorer.stream(clip))) for restorer in restorers]
    assert torch.equal(*outs)
    kept_passes = [p for p in net.passes if p is not net.passes[-1] or p.step < 0]
    waiting = 9 * len(kept_passes) + 9 + 8 * 2  # their states, nine frames, flows between these
    if ways.get("propagation") != "exact":
        waiting += 9  # frames that may have to come again
    assert len(written) >= waiting


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 14), chunk=st.integers(1, 6), backward_last=st.booleans())
def test_exact_is_exact_for_every_chunking_and_order_of_passes(frames, chunk, backward_last):
    net, clip = GridNetwork(), moving_clip(frames, 6, 6)
    if backward_last:
        net.passes = tuple(replace(p, step=-p.step) for p in net.passes)
    assert torch.equal(run(net, clip, propagation="exact", chunk=chunk), net(clip))


def test_exact_runs_n_passes_n_plus_one_halves_times_and_holds_one_chunk():
    net, steps = GridNetwork(), Counter()
    original = net.advance
    net.advance = lambda p, *rest: steps.update([p.name]) or original(p, *rest)
    held, most = set(), []

    def read(index):
        frame = clip[index].clone()
        held.add(index)
        weakref.finalize(frame, held.discard, index)
        most.append(len(held))
        return frame

    clip = moving_clip(24, 6, 6)
    restorer = Restorer(net, precision="fp32", device="cpu", propagation="exact", chunk=4)
    list(restorer.stream(Again(range(24), read)))
    assert steps == {"backward_1": 96, "forward_1": 72, "backward_2": 48, "forward_2": 24}
    assert max(most) <= 4 + 2  # the chunk, and a neighbour on each side


@pytest.mark.usefixtures("as_they_come")
def test_exact_keeps_no_edge_of_the_pass_that_renders():
    """What grows with the shot: one state of the backward pass for each chunk."""
    net = small_basicvsr()
    state = 8 * 24 * 24 * 4
    restorer = Restorer(net, precision="fp32", device="cpu", propagation="exact", chunk=4)
    most = []
    for frames in (32, 128):
        clip = moving_clip(4, 24, 24)
        with torch.no_grad(), Alive() as alive:
            for out in restorer.stream([clip[i % 4] for i in range(frames)]):
                del out
        most.append(alive.most)
    grown = most[1] - most[0]
    assert 0.9 * 24 * state < grown < 1.1 * 24 * state
    sizes = [need(net, 24, 24, Lengths(4, 0), frames, edges=True) for frames in (32, 128)]
    assert sizes[1] - sizes[0] == 24 * state


@pytest.mark.usefixtures("as_they_come")
def test_a_sweep_of_exact_keeps_no_state_but_at_the_edges():
    """The first sweep runs the backward pass, which nobody reads before the next sweep."""
    net, alive, most = small_basicvsr(), weakref.WeakSet(), []
    advance = net.advance

    def counted(*args):
        out = advance(*args)
        alive.add(out)
        most.append(len(alive))
        return out

    net.advance = counted
    restorer = Restorer(net, precision="fp32", device="cpu", propagation="exact", chunk=8)
    assert len(list(restorer.stream(moving_clip(24, 8, 8)))) == 24
    assert max(most[:24]) <= 2 + 2  # the edges, the state before, the one that comes
    assert max(most) <= 8 + 2 + 2  # in the last sweep a chunk's, too


def test_lookahead_approaches_the_whole_shot_as_it_grows():
    net, clip = small_basicvsr(), moving_clip(24)
    whole = net(clip)
    errors = [
        (run(net, clip, chunk=4, lookahead=lookahead) - whole).square().mean().item()
        for lookahead in (0, 1, 2, 4, 8, 20)
    ]
    assert errors[0] > 1e-9
    assert errors[-1] == 0
    assert errors == sorted(errors, reverse=True)


def test_forward_states_cross_chunk_edges_exactly():
    """Only the backward pass is cut short: without one, any chunking is the whole shot."""
    net, clip = GridNetwork(), moving_clip(13)
    net.passes = tuple(p for p in GridNetwork.passes if p.name == "forward_1")
    net.passes = (type(net.passes[0])("forward_1", step=+1, order=2),)
    for chunk in (1, 2, 5):
        assert torch.equal(run(net, clip, chunk=chunk, lookahead=0), net(clip))


@settings(max_examples=25, deadline=None)
@given(frames=st.integers(1, 14), chunk=st.integers(1, 6), lookahead=st.integers(0, 6))
def test_every_chunking_gives_one_frame_for_one_and_the_tail_is_exact(frames, chunk, lookahead):
    net, clip = GridNetwork(), moving_clip(frames, 6, 6)
    out = run(net, clip, chunk=chunk, lookahead=lookahead)
    assert out.shape == clip.shape
    exact_from = max(0, (frames - 1) // chunk * chunk) if frames > chunk + lookahead else 0
    if exact_from == 0:
        assert torch.equal(out, net(clip))


def test_frames_are_read_only_as_far_as_the_window_reaches():
    taken = 0

    def source():
        nonlocal taken
        for frame in moving_clip(30):
            taken += 1
            yield frame

    stream = Restorer(
        small_basicvsr(), chunk=4, lookahead=3, precision="fp32", device="cpu"
    ).stream(source())
    next(stream)
    assert taken == 7
    for _ in range(4):
        next(stream)
    assert taken == 11


def test_a_flow_is_computed_once_however_chunks_overlap():
    net, calls = small_basicvsr(), []
    original = net.flow
    net.flow = lambda a, b: calls.append(1) or original(a, b)
    run(net, moving_clip(12), chunk=3, lookahead=5)
    assert len(calls) == 11
