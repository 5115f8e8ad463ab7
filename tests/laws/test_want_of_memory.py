"""Where memory runs out, nothing is lost: the frames come again, in what takes less."""

import itertools
import sys
import weakref

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
    small_edvr,
    small_frbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore import Restorer
from vrestore.engine import choice
from vrestore.engine import restorer as restoring
from vrestore.engine.costs import costs
from vrestore.engine.lengths import Lengths
from vrestore.errors import OutOfMemory


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([small_basicvsr, small_iconvsr, GridNetwork]),
    frames=st.integers(1, 14),
    chunk=st.integers(16, 40),  # at least two smaller ones are left to try
    fails=st.sets(st.integers(0, 150), max_size=2),
)
def test_memory_that_runs_out_anywhere_costs_no_frame_and_no_bit(make, frames, chunk, fails):
    """The look-ahead covers the shot, so that every chunking gives the same bits."""
    net, clip = make(), moving_clip(frames, 8, 8)
    whole = net(clip)
    calls = itertools.count()
    for name in ("encode", "flow", "advance", "render"):
        setattr(net, name, starving(getattr(net, name), lambda: next(calls) in fails))
    assert torch.equal(run(net, clip, chunk=chunk, lookahead=20), whole)


WANT_OF_MEMORY = itertools.cycle(
    (
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("could not create a primitive"),  # oneDNN's
        MemoryError(),
    )
)


def starving(function, fails):
    def call(*args):
        if fails():
            raise next(WANT_OF_MEMORY)
        return function(*args)

    return call


def short_of_memory(net):
    """There is room for seven states, whoever holds them."""
    alive, original = weakref.WeakSet(), net.advance

    def advance(*args):
        if len(alive) > 7:
            raise MemoryError
        out = original(*args)
        alive.add(out)
        return out

    net.advance = advance
    return net


@pytest.mark.usefixtures("as_they_come")
def test_what_a_failed_try_held_is_let_go_before_the_next(caplog):
    """Of chunks of 16, 8 and 4 only the last fits, and that only beside nothing else."""
    net = short_of_memory(small_basicvsr())
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=16, lookahead=8)
    assert len(list(restorer.stream(moving_clip(40, 8, 8)))) == 40
    assert [m.partition(": going on with ")[2] for m in caplog.messages] == [
        "--chunk 8 --lookahead 8",
        "--chunk 4 --lookahead 8",
    ]


@pytest.mark.parametrize(
    ("failures", "left"),
    [
        (1, "--chunk 8 --lookahead 8"),
        (3, "--chunk 4 --lookahead 4"),
        (4, None),
    ],
)
def test_chunks_are_shortened_before_look_ahead_and_then_it_is_said(failures, left, caplog):
    net, calls = small_basicvsr(), itertools.count()
    net.advance = starving(net.advance, lambda: next(calls) < failures)
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=16, lookahead=8)
    if left is None:
        with pytest.raises(OutOfMemory, match="cpu ran out of memory; the shortest chunks"):
            list(restorer.stream(moving_clip(20, 8, 8)))
        return
    assert len(list(restorer.stream(moving_clip(20, 8, 8)))) == 20
    assert caplog.messages[-1].endswith(left)


@pytest.mark.parametrize("when", [0, 5, 25, 60, 90])
@pytest.mark.parametrize("make", [small_basicvsr, small_basicvsrpp, small_iconvsr, GridNetwork])
def test_exact_goes_on_in_shorter_chunks_and_no_bit_changes(make, when, caplog):
    net, clip = make(), moving_clip(20, 8, 8)
    expected = torch.stack(list(run(net, clip, propagation="exact", chunk=16)))
    calls, advance, render = itertools.count(), net.advance, net.render
    net.advance = starving(advance, lambda: next(calls) == when)
    net.render = starving(render, lambda: next(calls) == when)
    found = list(run(net, clip, propagation="exact", chunk=16))
    assert torch.equal(torch.stack(found), expected)
    steps = [m.partition(": going on with ")[2] for m in caplog.messages]
    assert steps == ["--chunk 8 --lookahead 0"][: next(calls) > when]


@pytest.mark.parametrize("propagation", ["lookahead", "exact"])
@pytest.mark.parametrize("make", [small_basicvsr, small_edvr, small_frbasicvsr])
def test_memory_that_runs_out_in_what_finishes_a_frame_costs_no_frame(make, propagation, caplog):
    """The conversion to what is stored, most often."""
    net, clip, calls = make(), moving_clip(20, 16, 16), itertools.count()
    expected = run(net, clip, propagation=propagation, chunk=16)
    restorer = Restorer(net, precision="fp32", device="cpu", propagation=propagation, chunk=16)
    made = restorer.finished(clip, starving(torch.clone, lambda: next(calls) == 5))
    if make is small_edvr:  # it has no shorter chunks, and the pictures are too small for tiles
        with pytest.raises(OutOfMemory, match="cpu ran out of memory; try a smaller picture"):
            list(made)
        return
    found = torch.stack(list(made))
    assert torch.equal(found, expected) or propagation == "lookahead"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert [m.partition(": going on with ")[2][:9] for m in caplog.messages] == ["--chunk 8"]


def test_memory_that_runs_out_where_nothing_was_tried_is_told_so():
    def starved():
        yield from moving_clip(3, 8, 8)
        raise MemoryError

    with pytest.raises(OutOfMemory, match="memory; try a smaller picture, or end what else"):
        list(Restorer(small_basicvsr(), device="cpu", precision="fp32").stream(starved()))


def test_a_plan_that_finds_no_memory_is_for_the_least(monkeypatch):
    def no_room(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(choice, "fitting", no_room)
    restorer = Restorer(small_basicvsr(), precision="fp32", device="cpu")
    assert restorer.choice.lengths(16, 16) == Lengths(4, 4)
    assert len(list(restorer.stream(moving_clip(9, 16, 16)))) == 9


def test_exact_gives_up_where_the_shortest_chunks_do_not_fit():
    net = small_basicvsr()
    net.advance = starving(net.advance, lambda: True)
    with pytest.raises(OutOfMemory, match=r"shortest chunks .* --propagation lookahead"):
        list(run(net, moving_clip(20, 8, 8), propagation="exact", chunk=16))


@pytest.mark.skipif(sys.platform != "linux", reason="states stay in memory elsewhere")
@pytest.mark.parametrize("propagation", ["lookahead", "exact"])
def test_states_go_to_files_before_chunks_are_shortened(propagation, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(choice, "room_in", lambda folder: 1 << 30)
    net, calls = small_basicvsr(), itertools.count()
    clip = moving_clip(20, 8, 8)
    costs(net, 8, 8)  # what is asked for beforehand, of the network as it is
    net.advance = starving(net.advance, lambda: next(calls) in (3, 30))
    restorer = Restorer(net, precision="fp32", device="cpu", propagation=propagation, chunk=16)
    restorer.choice.scratch = tmp_path
    assert len(list(restorer.stream(clip))) == 20
    ahead = 16 if propagation == "lookahead" else 0
    assert [m.partition(": going on with ")[2] for m in caplog.messages] == [
        "what waits on disk",
        f"--chunk 8 --lookahead {ahead}",
    ]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("as_they_come")
def test_memory_that_runs_out_in_rendering_costs_no_frame_either():
    """Eleven of a chunk's sixteen are rendered, more than the next chunk has."""
    net, clip, alive, left = small_basicvsr(), moving_clip(20, 8, 8), weakref.WeakSet(), []
    whole = net(clip)
    advance, calls = net.advance, itertools.count()

    def counted(*args):
        left.append(len(alive))
        out = advance(*args)
        alive.add(out)
        return out

    def render(*args, original=net.render):
        if next(calls) == 11:
            left.clear()
            raise MemoryError
        return original(*args)

    net.advance, net.render = counted, render
    assert torch.equal(run(net, clip, chunk=16, lookahead=20), whole)
    assert left[0] <= 1  # of the failed try's features, when the next begins


def test_a_window_too_full_to_encode_more_is_rendered_first(caplog):
    """Memory for twenty encoded frames, where chunk and look-ahead ask for forty."""
    net, clip, held = small_basicvsr(), moving_clip(40, 8, 8), weakref.WeakSet()
    whole, original = net(clip), net.encode

    def encode(seen):
        if len(held) >= 20:
            raise MemoryError
        x = original(seen)[0].clone()
        held.add(x)
        return (x,)

    net.encode = encode
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=32, lookahead=8)
    out = torch.stack(list(restorer.stream(iter(clip))))
    assert caplog.messages[-1].endswith("--chunk 8 --lookahead 8")
    assert (out - whole).abs().mean() < 1e-3


@pytest.mark.usefixtures("as_they_come")
def test_tiles_of_one_shot_are_shortened_together_and_told_once(caplog):
    net, clip = short_of_memory(small_basicvsr()), moving_clip(12, 96, 200)
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=16, lookahead=4, tile=96)
    assert len(list(restorer.stream(iter(clip)))) == 12
    said = [m.partition("--chunk ")[2].split()[0] for m in caplog.messages]
    assert said == ["8", "4"]
    assert restorer.choice.lengths(96, 200).chunk == 4


def test_a_shot_is_surveyed_once_for_all_its_tiles_and_tries():
    """Half of the picture black, half bright: tiles by themselves would be cleaned unlike."""
    net, clip, found = small_realbasicvsr(), moving_clip(16, 140, 150), []
    clip[..., :75] = 0
    changes = [net.change(half, 1) for half in (clip[:1, ..., :75], clip[:1, ..., 75:])]
    net.dynamic_refine_thres = 255 * (0.3 * changes[0] + 0.7 * changes[1])
    survey, advance, calls = net.survey, net.advance, itertools.count()

    def surveyed(frames):
        found.append(survey(frames))
        return found[-1]

    def starving_once(pass_, x, *args):
        if next(calls) > 30 and x[0].shape[-1] > 130:
            raise MemoryError
        return advance(pass_, x, *args)

    net.survey = surveyed
    assert len(run(net, clip, tile=96)) == 16
    whole = survey(clip.unsqueeze(1))
    assert found == [whole]
    net.advance = starving_once
    assert len(run(net, clip, chunk=4, lookahead=4)) == 16
    assert found == [whole] * 2


@pytest.mark.parametrize("fails", [2, 7, 8, 9])
def test_windows_that_come_again_have_the_same_neighbours(fails, monkeypatch):
    """The next way is the same one here: tiles would differ anyway."""
    net, clip, calls = small_edvr(), moving_clip(10, 16, 20), itertools.count()
    whole, fuse = run(net, clip), net.fuse
    monkeypatch.setattr(choice, "TILE_SIDES", (19,))
    monkeypatch.setattr(restoring, "tiled", lambda restore, frames, *how: restore(frames()))

    def starving_once(window):
        if next(calls) == fails:
            raise MemoryError
        return fuse(window)

    net.fuse = starving_once
    assert torch.equal(run(net, clip), whole)


def test_frames_that_come_again_keep_their_numbers(monkeypatch):
    """Of which every third is a key frame."""
    net, clip, calls, numbers = small_iconvsr(), moving_clip(14, 16, 20), itertools.count(), {}
    advance, encode = net.advance, net.encode
    monkeypatch.setattr(choice, "TILE_SIDES", (19,))
    monkeypatch.setattr(restoring, "tiled", lambda restore, frames, *how: restore(frames()))

    def encoded(seen):
        numbers.setdefault(seen.frame.mean().item(), []).append(seen.index)
        return encode(seen)

    def starving(*args):
        if next(calls) == 30:  # chunks and look-ahead are as short as they get
            raise MemoryError
        return advance(*args)

    net.encode, net.advance = encoded, starving
    assert len(run(net, clip, chunk=4, lookahead=4)) == 14
    assert sorted(found[0] for found in numbers.values()) == list(range(14))
    assert any(len(found) > 1 for found in numbers.values())
    assert all(set(found) == {found[0]} for found in numbers.values())


def test_networks_that_see_windows_are_not_told_of_chunks(caplog):
    net, calls = small_edvr(), itertools.count()
    fuse = net.fuse

    def starving_once(window):
        if next(calls) == 3:
            raise MemoryError
        return fuse(window)

    net.fuse = starving_once
    assert len(run(net, moving_clip(6, 140, 150))) == 6
    assert caplog.messages == ["out of memory: going on with --tile 128"]


def test_what_does_not_fit_whole_is_restored_in_tiles_and_nothing_is_lost(caplog):
    """Memory that holds 100x100 pixels of a picture runs out after nine frames of 140x150."""
    net, clip, calls = small_basicvsr(), moving_clip(30, 140, 150), itertools.count()
    whole = run(net, clip, propagation="whole")
    original = net.advance

    def advance(pass_, x, *args):
        if next(calls) > 40 and x[0].shape[-1] > 130:
            raise MemoryError
        return original(pass_, x, *args)

    net.advance = advance
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=8, lookahead=4)
    out = torch.stack(list(restorer.stream(iter(clip))))
    assert out.shape == whole.shape
    assert (out - whole).abs().mean() < 1e-3
    tiles = [m for m in caplog.messages if "--tile" in m]
    assert [m.rpartition(" ")[2] for m in tiles] == ["128"]
    caplog.clear()
    assert len(list(restorer.stream(clip[:6]))) == 6  # the next shot begins with what fits
    assert not caplog.messages


def test_memory_that_runs_out_behind_the_last_frame_is_met_with_tiles_too():
    net, clip = small_basicvsr(), moving_clip(6, 140, 150)
    original = net.advance

    def advance(pass_, x, *args):
        if x[0].shape[-1] > 130:
            raise MemoryError
        return original(pass_, x, *args)

    net.advance = advance
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=8, lookahead=4)
    assert len(list(restorer.stream(iter(clip)))) == 6


def test_another_error_is_not_taken_for_want_of_memory(caplog):
    net = small_basicvsr()

    def broken(*args):
        raise RuntimeError("shapes do not fit")

    net.advance = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(net, moving_clip(3, 8, 8))
    assert caplog.messages == []
