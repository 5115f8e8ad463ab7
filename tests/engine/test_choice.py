"""How a restorer parts shots: what was asked for, what there is, what it says of that."""

import pytest

from vrestore.engine import choice as choosing
from vrestore.engine import memory
from vrestore.engine.choice import Choice
from vrestore.engine.kept import HERE
from vrestore.engine.lengths import Lengths, kept_on_disk
from vrestore.engine.memory import resident
from vrestore.engine.restorer import Restorer
from vrestore.errors import UsageError
from vrestore.models.catalogue import load_model

GIB = 1 << 30


def choice(precision: str = "fp32", **ways) -> Choice:
    """Of the shipped network, on the CPU."""
    return Restorer(load_model("basicvsr"), precision=precision, device="cpu", **ways).choice


def test_states_wait_beside_the_output_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "room_in", lambda folder: 1 << 40 if folder else 0)
    nowhere, beside = choice(memory=GIB), choice(memory=GIB)
    there = Lengths(32, 16, on_disk=True)
    budget = nowhere.need(270, 480, there)
    monkeypatch.setattr(choosing, "at_hand", lambda *how: budget)
    beside.scratch = tmp_path
    assert nowhere.lengths(270, 480).chunk < 32
    assert nowhere.on_disk(270, 480, 100) == 0
    assert beside.lengths(270, 480) == there
    taken = kept_on_disk(load_model("basicvsr"), 270, 480, there)
    assert beside.on_disk(270, 480, 100) == taken > 0


def test_a_group_that_is_too_small_is_told_of(monkeypatch, caplog):
    for room in (choosing, memory):
        monkeypatch.setattr(room, "group_room", lambda: 1 << 20)
    assert choice().lengths(270, 480).chunk == 4
    assert "the control group's limit of memory will hardly do" in caplog.messages[0]


def test_a_cap_makes_chunks_shorter():
    assert choice(memory=64 * GIB).lengths(270, 480) == Lengths(32, 16)
    assert choice(memory=resident() + GIB).lengths(270, 480).chunk < 32
    exact = choice(memory=resident() + GIB, propagation="exact")
    assert exact.lengths(270, 480).chunk < 32
    assert exact.lengths(1080, 1920).tile is None
    assert choice(memory=1, chunk=32).lengths(270, 480) == Lengths(32, 16)


def test_a_cap_that_cannot_be_held_is_told_of_once(caplog):
    starved = choice(memory=100 << 20)
    for _ in range(2):
        starved.lengths(270, 480)
    assert len(caplog.messages) == 1
    assert "--memory cannot be held: the least that there is takes about" in caplog.messages[0]
    assert starved.told == caplog.messages


def test_what_fits_is_reckoned_in_the_precision_that_runs(monkeypatch):
    whole, half = (choice(precision, memory=GIB) for precision in ("fp32", "bf16"))
    budget = half.need(270, 480, Lengths(32, 16))
    assert whole.need(270, 480, Lengths(32, 16)) > 1.3 * budget
    monkeypatch.setattr(choosing, "at_hand", lambda *how: budget)
    assert half.lengths(270, 480) == Lengths(32, 16)
    assert whole.lengths(270, 480).chunk == 16


def test_edges_that_a_disk_has_no_room_for_stay_in_memory(tmp_path, monkeypatch):
    """The output is to have its half of it."""
    exact, room = choice(propagation="exact", chunk=32), [1 << 40]
    monkeypatch.setattr(choosing, "room_in", lambda folder: room[0] if folder else 0)
    exact.scratch, lengths = tmp_path, Lengths(32, 0)
    edges = exact.on_disk(64, 64, 3200)
    assert edges == 100 * 48 * 64 * 64 * 4
    there = exact.need(64, 64, lengths, 3200)
    room[0] = edges - 1
    assert exact.on_disk(64, 64, 3200) == 0
    assert exact.need(64, 64, lengths, 3200) == there + edges


def test_a_second_film_whose_folder_is_memory_waits_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(choosing, "room_in", lambda folder: 0)
    one = choice()
    one.scratch = tmp_path
    assert one.places(Lengths(32, 16, on_disk=True)) is HERE


def test_lengths_that_cannot_be_are_refused_before_anything_is_timed(monkeypatch):
    def timed(*how):
        raise AssertionError

    monkeypatch.setattr("vrestore.engine.restorer.choose_precision", timed)
    for ways in (
        {"tile": 5},
        {"chunk": 0},
        {"lookahead": -1},
        {"tile": 96, "propagation": "exact"},
    ):
        with pytest.raises(UsageError):
            choice("auto", **ways)
