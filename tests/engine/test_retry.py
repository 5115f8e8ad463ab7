"""Frames that come again after memory ran out, with what they need before them."""

import itertools
import weakref
from itertools import islice

import pytest
import torch

from vrestore.engine.retry import Held, in_turn


def numbered(count):
    return [torch.tensor(float(i)) for i in range(count)]


def test_frames_not_restored_come_again_and_so_many_before_them_as_warm_up():
    held = Held(numbered(9), warm=2)
    assert [int(frame) for frame in islice(held, 6)] == [0, 1, 2, 3, 4, 5]
    for _ in range(4):
        held.restored()
    assert held.known == 2
    assert [int(frame) for frame in held] == [2, 3, 4, 5, 6, 7, 8]


def test_no_more_is_held_than_the_warm_up_and_what_is_not_restored():
    held = Held(iter(numbered(1000)), warm=3)
    for i, _ in enumerate(held):
        if i >= 5:
            held.restored()
        assert len(held._held) <= 5 + 1 + 3


def test_a_frame_that_finds_no_place_to_wait_is_not_lost():
    calls = itertools.count()

    def keep(frame):
        if next(calls) == 4:
            raise MemoryError
        return lambda: frame

    held = Held(iter(numbered(9)), warm=2)
    held.put_away(keep)
    found = in_turn(held, ["one", "other"], lambda way, frames: (x * 1 for x in frames), int)
    assert list(found) == list(range(9))


def test_what_could_not_be_finished_is_not_held_beside_the_next_try():
    made = weakref.WeakSet()

    def run(way, frames):
        assert not made
        for frame in frames:
            made.add(out := frame * 1)
            yield out
            del out

    def finish(out):
        if int(out) == 3 and not failed:
            failed.append(out.item())
            raise MemoryError
        return int(out)

    failed = []
    found = in_turn(Held(numbered(9), warm=0), ["one", "other"], run, finish)
    assert list(found) == list(range(9))
    assert failed


def test_each_frame_is_given_once_whatever_way_it_was_restored():
    def run(way, frames):
        for i, frame in enumerate(frames):
            if way == "wide" and i == 4:
                raise MemoryError
            yield frame * 1

    found = list(in_turn(Held(numbered(9), warm=2), ["wide", "narrow"], run, int))
    assert found == list(range(9))
    with pytest.raises(MemoryError):
        list(in_turn(Held(numbered(9), warm=2), ["wide"], run, int))


@pytest.mark.parametrize("count", [2, 9, None])
def test_frames_ahead_are_seen_as_often_as_asked_and_come_all_the_same(count):
    held = Held(iter(numbered(6)), warm=1)
    ahead = held.ahead(count)
    for _ in range(2):
        assert [*map(float, ahead)] == [0, 1, 2, 3, 4, 5][:count]
    assert [*map(float, held)] == [0, 1, 2, 3, 4, 5]


def test_several_go_through_them_at_once_as_tiles_do():
    held = Held(iter(numbered(9)), warm=1)
    one, other = iter(held), iter(held)
    assert [int(frame) for frame in islice(one, 5)] == [0, 1, 2, 3, 4]
    assert [int(frame) for frame in islice(other, 3)] == [0, 1, 2]
    for _ in range(3):
        held.restored()
    assert [int(frame) for frame in other] == [3, 4, 5, 6, 7, 8]
    assert [int(frame) for frame in one] == [5, 6, 7, 8]
