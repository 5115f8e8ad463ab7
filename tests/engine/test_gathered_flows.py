"""The flows of a chunk found together, as on a GPU; here a CPU is told to."""

import weakref

import pytest
import torch
from networks import (
    GridNetwork,
    moving_clip,
    small_basicvsr,
    small_basicvsrpp,
    small_frbasicvsr_same_size,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore.engine import precision
from vrestore.engine.lengths import Lengths, Parting
from vrestore.engine.precision import InPrecision
from vrestore.engine.propagation import propagate
from vrestore.engine.restorer import Restorer

EVERY = [
    small_basicvsr,
    small_frbasicvsr_same_size,
    small_iconvsr,
    small_basicvsrpp,
    lambda: small_basicvsrpp(is_low_res_input=False),
    small_realbasicvsr,
    GridNetwork,
]
NAMES = ["basicvsr", "same size", "iconvsr", "basicvsrpp", "basicvsrpp same size", "real", "grid"]


def restored(net, frames, *, gathers, **how):
    restorer = Restorer(net, precision="fp32", device="cpu", **how)
    restorer._run._gathers = gathers
    return torch.stack(list(restorer.stream(frames)))


def pairs_of_each_call(net):
    """How many pairs each call of ``net.flow`` is given from now on."""
    counts, original = [], net.flow

    def flow(a, b):
        assert {len(x) for x in (*a, *b)} == {len(a[0])}
        counts.append(len(a[0]))
        return original(a, b)

    net.flow = flow
    return counts


@pytest.mark.parametrize("frames", [1, 2, 3, 11])
@pytest.mark.parametrize("make", EVERY, ids=NAMES)
def test_flows_found_together_restore_the_same_frames(make, frames):
    """Chunks of three whose last is whole, and is not; with look-ahead and without."""
    net, clip = make(), moving_clip(frames, 21, 26)
    for chunk, lookahead in [(3, 2), (3, 0), (1, 2), (4, 20)]:
        how = {"chunk": chunk, "lookahead": lookahead}
        one_by_one = restored(net, clip, gathers=False, **how)
        together = restored(net, clip, gathers=True, **how)
        assert together.shape == one_by_one.shape
        assert (together - one_by_one).abs().max() < 1e-5, how


def test_clips_side_by_side_keep_to_themselves():
    net = small_basicvsr()
    frames = torch.stack([moving_clip(7, seed=1), moving_clip(7, seed=2)], 1)
    run = InPrecision(net, torch.device("cpu"), "fp32")
    one_by_one = torch.stack(list(propagate(run, net, frames, Parting(Lengths(3, 2)))))
    run._gathers = True
    together = torch.stack(list(propagate(run, net, frames, Parting(Lengths(3, 2)))))
    assert (together - one_by_one).abs().max() < 1e-5


def test_each_pair_is_in_one_call_and_no_call_has_more_than_a_chunk():
    net = small_basicvsr()
    counts = pairs_of_each_call(net)
    restored(net, moving_clip(21), gathers=True, chunk=6, lookahead=5)
    assert counts == [5, 5, 6, 4]  # 11 frames, then 6, then the 4 that are left


def test_large_frames_come_one_by_one(monkeypatch):
    net = small_basicvsr()
    counts = pairs_of_each_call(net)
    monkeypatch.setattr(precision, "FLOW_BATCH_PX", 2 * (2 * 20 * 24) + 1)
    restored(net, moving_clip(9, 20, 24), gathers=True, chunk=8, lookahead=4)
    assert counts == [2, 2, 2, 2]
    counts.clear()
    restored(net, moving_clip(9, 40, 48), gathers=True, chunk=8, lookahead=4)
    assert counts == [1] * 8


@pytest.mark.parametrize("propagation", ["whole", "exact"])
def test_what_is_promised_to_the_bit_is_found_one_by_one(propagation):
    net = small_basicvsr()
    counts = pairs_of_each_call(net)
    restored(net, moving_clip(9), gathers=True, propagation=propagation, chunk=4)
    assert set(counts) == {1}


def test_a_cpu_finds_them_one_by_one():
    net = small_basicvsr()
    counts = pairs_of_each_call(net)
    list(Restorer(net, precision="fp32", device="cpu", chunk=4).stream(moving_clip(9)))
    assert counts == [1] * 8


def test_no_more_frames_are_held_for_it():
    def most_alive(gathers):
        alive, most = weakref.WeakSet(), []

        def source():
            for frame in moving_clip(40):
                copy = frame.clone()
                alive.add(copy)
                yield copy
                del copy
                most.append(len(alive))

        restored(small_basicvsr(), source(), gathers=gathers, chunk=4, lookahead=3)
        return max(most)

    assert most_alive(gathers=True) == most_alive(gathers=False)


def test_no_more_flows_are_held_than_the_window_has_frames():
    net, alive, most = small_basicvsr(), weakref.WeakSet(), []
    original = net.flow

    def flow(a, b):
        there, back = (x.clone() for x in original(a, b))
        alive.add(there)
        most.append(len(alive))
        return there, back

    net.flow = flow
    restored(net, moving_clip(40), gathers=False, chunk=4, lookahead=3)
    assert max(most) == 4 + 3


def test_memory_that_runs_out_there_costs_no_frame():
    """Calls of more than four pairs do not fit: chunks of 16, then of 8, are given up."""
    net, clip, tried = small_basicvsr(), moving_clip(40), []
    whole, original = net(clip), net.flow

    def flow(a, b):
        tried.append(len(a[0]))
        if len(a[0]) > 4:
            raise MemoryError
        return original(a, b)

    net.flow = flow
    together = restored(net, clip, gathers=True, chunk=16, lookahead=40)
    assert (together - whole).abs().max() < 1e-5
    assert tried[:2] == [13, 7]
    assert max(tried[2:]) <= 4
    assert sum(tried[2:]) == 39


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_together_and_one_by_one_are_equal_but_for_rounding():
    net, clip = small_basicvsrpp(), moving_clip(40, 64, 80)
    outs = []
    for gathers in (True, False):
        restorer = Restorer(net, precision="fp32", device="cuda", chunk=8, lookahead=4)
        assert restorer._run._gathers
        restorer._run._gathers = gathers
        outs.append(torch.stack(list(restorer.stream(clip))))
    assert (outs[0] - outs[1]).abs().max() < 1e-4
