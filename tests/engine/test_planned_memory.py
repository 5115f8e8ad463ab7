"""What a network is said to take, against what it took."""

import gc
import subprocess
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from networks import small_basicvsr, small_edvr, small_frbasicvsr_same_size

from vrestore.engine import memory
from vrestore.engine.costs import costs
from vrestore.engine.ghosts import measured
from vrestore.engine.lengths import TILES_SAVE, WASTE, Lengths, fitting, kept_on_disk, need
from vrestore.engine.memory import at_hand, resident
from vrestore.models.catalogue import load_model

CPU = torch.device("cpu")
GIB = 1 << 30


def test_what_is_alive_at_once_is_added_up():
    def work():
        a = torch.ones(1000)  # 4000 bytes
        b = a + 1
        del a
        c = b[:500] * 2
        return c.view(50, 10)

    found = measured(work)
    assert found.result.shape == (50, 10)
    assert found.most == 8000
    assert found.multiplications == 0


def test_a_network_that_was_measured_is_let_go_of():
    net = small_basicvsr()
    costs(net, 8, 8)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


def test_states_and_frames_cost_what_their_tensors_hold():
    """Eight features, one pass that is kept; three channels and two flows of two."""
    found = costs(small_basicvsr(), 40, 48)
    backward, forward = found.passes
    assert backward.state == forward.state == 8 * 40 * 48 * 4
    assert (backward.kept, forward.kept) == (True, False)  # the last pass renders as it goes
    assert not backward.read_ahead
    assert found.moment == (3 + 2 * 2) * 40 * 48 * 4
    assert found.out == 3 * 16 * 40 * 48 * 4
    kept = 8 * backward.state  # of chunk 8 and look-ahead 4
    held = 12 * found.moment + backward.state + 2 * forward.state + found.out
    assert found.bytes(8, 4) == kept + held + found.most
    assert found.bytes(8, 4, waste=1.5) == kept + 1.5 * (held + found.most)
    less = held - 10 * found.moment + backward.state  # all else is in files
    assert found.bytes(8, 4, on_disk=True) == less + found.most


def test_what_enters_is_gone_before_states_are_kept():
    """An IconVSR's key frames take more than all else; one frame of five holds their features."""
    found = costs(load_model("iconvsr"), 40, 48)
    assert found.entering > found.most + 4 * found.passes[0].state
    held = 6 * found.moment + found.carried + found.out
    assert found.bytes(4, 2) == held + found.entering
    assert found.bytes(90, 0) > 90 * found.passes[0].state + found.most
    frame, refill = (3 + 2 * 2) * 40 * 48 * 4, 32 * 40 * 48 * 4
    assert found.moment == frame + refill // 5


def test_the_same_size_form_carries_a_quarter_and_holds_the_frame_twice():
    """As it is and packed, padded from 13x18 to 16x20, with luma, block means and three flows."""
    found = costs(small_frbasicvsr_same_size(), 13, 18)
    assert [p.state for p in found.passes] == [8 * 8 * 10 * 4] * 2
    assert found.moment == (3 * 13 * 18 + 3 * 16 * 20 + 12 * 8 * 10 + (3 + 3 * 2) * 4 * 5) * 4
    assert found.out == 3 * 13 * 18 * 4


def test_more_frames_larger_pictures_and_wider_tiles_need_more():
    net = small_basicvsr()
    base = need(net, 64, 96, Lengths(8, 8))
    assert need(net, 64, 96, Lengths(16, 8)) > base
    assert need(net, 64, 96, Lengths(8, 16)) > base
    assert need(net, 128, 96, Lengths(8, 8)) > base
    assert need(net, 640, 960, Lengths(2, 2, 128)) < need(net, 640, 960, Lengths(2, 2))
    assert need(net, 64, 96, Lengths(None, 0), shot=100) > base


def test_half_precision_halves_states_and_leaves_frames_and_flow():
    whole = costs(small_basicvsr(), 40, 48)
    half = costs(small_basicvsr(), 40, 48, torch.bfloat16)
    assert [p.state * 2 for p in half.passes] == [p.state for p in whole.passes]
    assert (half.moment, half.out) == (whole.moment, whole.out)
    assert [p.work for p in half.passes] == [p.work for p in whole.passes]
    assert half.most < whole.most
    net = load_model("basicvsr")
    budget = need(net, 270, 480, Lengths(32, 16), dtype=torch.bfloat16)
    found = fitting(net, 270, 480, Lengths(32, 16), budget, dtype=torch.bfloat16)
    assert found == Lengths(32, 16)
    assert fitting(net, 270, 480, Lengths(32, 16), budget).chunk == 16


def test_where_nothing_fits_tiles_are_for_what_they_save():
    """Of 320x180 tiles take as much as whole pictures, of 1920x1080 a sixth less."""
    net, asked = load_model("basicvsr"), Lengths(32, 16)
    assert fitting(net, 180, 320, asked, 1) == Lengths(4, 4)
    large = fitting(net, 1080, 1920, asked, 1)
    assert large == Lengths(4, 4, 128)
    whole, tiled = (need(net, 1080, 1920, lengths) for lengths in (Lengths(4, 4), large))
    assert tiled < TILES_SAVE * whole


def test_shorter_chunks_come_before_less_look_ahead_and_that_before_tiles():
    net, asked, seen = load_model("basicvsr"), Lengths(32, 16), []
    for budget in range(200, 10000, 200):
        found = fitting(net, 540, 960, asked, budget << 20)
        if found not in seen:
            seen.append(found)
    order = [*seen[::-1]]
    assert order[0] == asked
    chunks = [x.chunk for x in order]
    assert chunks == sorted(chunks, reverse=True)
    assert any(x.tile for x in order)
    for x in order:
        assert x.tile is None or x.chunk == 4
        assert x.lookahead == 16 or x.chunk == 4


def test_states_wait_on_disk_before_chunks_are_shorter_where_there_is_room():
    net, asked = load_model("basicvsr"), Lengths(32, 16)
    there = replace(asked, on_disk=True)
    states = kept_on_disk(net, 540, 960, there)
    found, frame = costs(net, 540, 960), 3 * 4 * 540 * 960
    assert states == 32 * found.passes[0].state + 48 * found.moment + (48 + 16) * frame
    assert kept_on_disk(net, 540, 960, asked) == 0
    sizes = [need(net, 540, 960, lengths) for lengths in (asked, there)]
    in_files = 31 * found.passes[0].state + WASTE * 46 * found.moment  # one state and two are read
    assert sizes[0] - sizes[1] == pytest.approx(in_files, abs=2)
    for disk, found in ((states, there), (states - 1, Lengths(4, 16))):
        assert fitting(net, 540, 960, asked, sizes[1], disk=disk).on_disk == found.on_disk
    assert fitting(net, 540, 960, asked, sizes[1], disk=states) == there
    assert fitting(net, 540, 960, asked, sizes[0], disk=states) == asked
    less = fitting(net, 540, 960, asked, sizes[1] - 1, disk=states)
    assert less == Lengths(4, 16, 128, on_disk=True)  # shorter chunks alone would hold as much
    assert fitting(net, 180, 320, asked, 1, disk=1 << 40) == there


def test_a_cap_is_of_the_whole_program(monkeypatch):
    used = resident()
    assert at_hand(used + GIB, CPU) < GIB
    assert at_hand(1, CPU) == 0
    assert 0 < at_hand(None, CPU) < 1 << 45


def test_what_lies_free_amid_the_heap_is_at_hand(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "give_back_freed_memory", asked.append)
    monkeypatch.setattr(memory, "resident", lambda: 100 << 20 if asked else 500 << 20)
    assert at_hand(GIB, CPU) == round(memory.SPARE * (GIB - (100 << 20)))


def group(folder, names, limit, used, cached):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\n")


@pytest.mark.parametrize(
    ("where", "names", "line"),
    [
        ("", ("memory.max", "memory.current"), "0::/jobs/one"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "4:cpu,memory:/jobs/one"),
    ],
)
def test_the_least_of_the_groups_around_a_process_counts(where, names, line, tmp_path):
    """As ``systemd-run -p MemoryMax`` and batch systems nest them; others' share is taken off."""
    membership = tmp_path / "cgroup"
    membership.write_text(f"1:name=systemd:/other\n{line}\n")
    root = tmp_path / where if where else tmp_path
    assert memory.group_room(tmp_path, membership) is None
    group(root, names, "max" if not where else 1 << 62, 900, 0)
    group(root / "jobs", names, 1000, 600, 50)
    assert memory.group_room(tmp_path, membership) == 450
    group(root / "jobs/one", names, 800, 500, 100)
    assert memory.group_room(tmp_path, membership) == 400
    group(root / "jobs/one", names, 800, 900, 0)
    assert memory.group_room(tmp_path, membership) == 0


def test_a_group_s_room_is_what_is_at_hand(monkeypatch):
    monkeypatch.setattr(memory, "group_room", lambda: 300 << 20)
    monkeypatch.setattr(memory, "resident", lambda: 100 << 20)
    monkeypatch.setattr(memory, "_free", lambda: 64 * GIB)
    assert at_hand(None, CPU) == round(memory.SPARE * (300 << 20))
    assert at_hand(None, CPU, 100 << 20) == round(memory.SPARE * (200 << 20))  # an encoder's
    assert at_hand(None, CPU, GIB) == 0


MEASURED = """
import sys, torch
from pathlib import Path
from vrestore.engine.costs import costs
from vrestore.engine.lengths import ON_THE_ROAD, WASTE, Lengths, need
from vrestore.engine.memory import resident
from vrestore.engine.precision import DTYPES
from vrestore.engine.restorer import Restorer
from vrestore.models.catalogue import load_model
torch.set_num_threads(2)
net, precision = load_model("basicvsr"), sys.argv[1]
height, width, chunk, ahead = map(int, sys.argv[2:])
dtype = DTYPES[precision]
planned = need(net, height, width, Lengths(chunk, ahead), dtype=dtype)
planned -= round(WASTE * (ON_THE_ROAD - 1) * costs(net, height, width).out)  # there is no encoder
restorer = Restorer(net, device="cpu", precision=precision, chunk=chunk, lookahead=ahead)
before = resident()
for out in restorer.stream(torch.rand(3, height, width) for _ in range(chunk * 2 + ahead)):
    pass
# Not getrusage's: that begins with what the parent process held.
peak = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 / (before + planned))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read as Linux gives it")
@pytest.mark.parametrize("form", ["fp32 90 160 8 4", "fp32 180 320 8 2", "bf16 90 160 8 4"])
def test_what_was_planned_is_within_a_quarter_of_what_it_took(form):
    command = [sys.executable, "-c", MEASURED, *form.split()]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 0.75 < float(answer.stdout) < 1.25


def test_windows_are_counted_too():
    net = small_edvr()
    assert need(net, 32, 48, Lengths(32, 16)) == need(net, 32, 48, Lengths(4, 4))
    assert costs(net, 32, 48).carried > 5 * 8 * 32 * 48 * 4


def test_multiplications_are_those_of_the_layers_and_chunks_repeat_only_what_runs_ahead():
    found = costs(load_model("basicvsr"), 96, 128)
    once = found.work(None, 0, 100)
    assert found.work(50, 0, 100) == once
    backward, _ = found.passes
    ahead = once + 0.4 * backward.work  # 30, 30, 30, 30, 20 for 100
    assert found.work(20, 10, 100) == pytest.approx(ahead)
    assert found.work(20, 0, 100, exact=True) == once + found.entry + 0.5 * 2 * backward.work
