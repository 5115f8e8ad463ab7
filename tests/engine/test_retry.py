"""Frames that come again after memory ran out, with what they need before them."""

import pytest
import torch

from vrestore.engine.retry import Held, in_turn


def numbered(count):
    return [torch.tensor(float(i)) for i in range(count)]


def test_frames_not_restored_come_again_and_so_many_before_them_as_warm_up():
    held = Held(numbered(9), warm=2)
    for _ in range(6):
        next(held)
    for _ in range(4):
        held.restored()
    assert held.rewind() == 2
    assert [int(frame) for frame in held] == [2, 3, 4, 5, 6, 7, 8]


def test_no_more_is_held_than_the_warm_up_and_what_is_not_restored():
    held = Held(iter(numbered(1000)), warm=3)
    for i, _ in enumerate(held):
        if i >= 5:
            held.restored()
        assert len(held._held) <= 5 + 1 + 3


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
