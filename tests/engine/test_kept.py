"""Where states wait: in pages of their own, or in a file."""

import errno
import gc
import os
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_basicvsr, small_basicvsrpp, small_realbasicvsr

from vrestore.engine import kept
from vrestore.engine.kept import Store, apart, in_memory, room_in
from vrestore.engine.lengths import Lengths
from vrestore.engine.restorer import Restorer
from vrestore.errors import told

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere states stay in the heap")


KEPT = """
import torch
from vrestore.engine.kept import apart
from vrestore.engine.memory import keep_freed_memory, resident
keep_freed_memory()
state = torch.ones(1, 16, 256, 256)
before = resident()
kept = [apart(state) for _ in range(16)]
held = resident()
del kept
print(held - before >> 20, held - resident() >> 20)
"""


@linux
def test_what_is_kept_apart_takes_its_own_pages_and_gives_them_back():
    answer = subprocess.run(
        [sys.executable, "-c", KEPT], check=True, capture_output=True, text=True
    )
    held, given_back = map(int, answer.stdout.split())
    assert 63 <= held < 70  # 16 states of 4 MiB
    assert given_back >= 63


@pytest.mark.parametrize(("ways", "edges"), [({"lookahead": 2}, 0), ({"propagation": "exact"}, 2)])
def test_states_that_wait_to_be_rendered_are_kept_apart(ways, edges, monkeypatch):
    """Those of the backward pass, one a frame; ``exact`` has them at the edges of three chunks."""
    waiting = []
    monkeypatch.setattr(kept, "apart", lambda x: waiting.append(x) or x)
    restorer = Restorer(small_basicvsr(), device="cpu", precision="fp32", chunk=4, **ways)
    assert len(list(restorer.stream(torch.rand(12, 3, 16, 16)))) == 12
    assert [x.shape for x in waiting] == [(1, 8, 16, 16)] * (12 + edges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_has_its_values_and_its_layout(dtype, tmp_path):
    x = torch.rand(2, 3, 4, 5).to(dtype)
    for state in (x, x.to(memory_format=torch.channels_last), x[:, :, 1:3, ::2], x[1:], x[:0]):
        for keep in (in_memory, Store(tmp_path).keep):
            there = keep(state)
            for found in (there(), there()):
                assert torch.equal(found, state)
                assert found.stride() == torch.empty_like(state).stride()
                if state.numel() and sys.platform == "linux":
                    assert found.data_ptr() != state.data_ptr()


IN_FILES = """
import sys, torch
from pathlib import Path
from threading import Barrier
from vrestore.engine.kept import Store
from vrestore.engine.memory import keep_freed_memory, resident
keep_freed_memory()
state, keep = torch.ones(1, 16, 256, 256), Store(Path(sys.argv[1])).keep
keep(state)()
before = resident()
kept = [keep(state * k) for k in range(64)]
held = resident()
seen = [int(there().sum()) >> 20 for there in kept]
print(held - before >> 20, resident() - before >> 20, *seen)
"""


@linux
def test_what_waits_in_a_file_is_in_memory_only_where_it_is_read(tmp_path):
    command = [sys.executable, "-c", IN_FILES, str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    held, after, *seen = map(int, answer.stdout.split())
    assert held < 64  # of 256 MiB
    assert after < 64
    assert seen == list(range(64))


def open_files():
    return len(os.listdir("/proc/self/fd"))


@linux
def test_all_that_waits_is_in_one_file_without_a_name_that_goes_with_it(tmp_path):
    before = open_files()
    store = Store(tmp_path)
    assert open_files() == before  # nobody waits yet
    waiting = [store.keep(torch.rand(1, 8, 16, 16)) for _ in range(6)]
    assert open_files() == before + 1
    assert list(tmp_path.iterdir()) == []
    state = waiting[0]()
    del waiting[1:], store
    assert open_files() == before + 1
    assert torch.equal(waiting[0](), state)
    del waiting
    gc.collect()
    assert open_files() == before
    assert state.sum() > 0  # its pages are its own


@linux
@settings(max_examples=50, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 5, 1000]))))
def test_places_that_are_free_again_are_taken_and_no_other(steps):
    """A number goes, as a state that was rendered does, and another comes to its place."""
    with tempfile.TemporaryDirectory() as folder:
        store, waiting = Store(Path(folder)), {}
        most: Counter[int] = Counter()
        for value, (name, size) in enumerate(steps):
            waiting.pop(name, None)
            x = torch.full((1, 1, 1, size), float(value))
            waiting[name] = x, store.keep(x)
            now = Counter(x.numel() for x, _ in waiting.values())
            most |= now
            for x, kept_there in waiting.values():
                assert torch.equal(kept_there(), x)
            del kept_there
        assert store._end == sum(4 * size * count for size, count in most.items())


@linux
@pytest.mark.parametrize("ways", [{}, {"tile": 96}, {"propagation": "exact"}])
def test_a_shot_has_one_file_however_long_it_is(ways, tmp_path):
    """For the edges of chunks, too, and the flows that second-order passes keep there."""
    seen, before = [], open_files()
    net = small_basicvsrpp()
    restorer = Restorer(net, device="cpu", precision="fp32", chunk=4, lookahead=2, **ways)
    choice = restorer.choice
    choice.scratch = tmp_path
    choice.chosen[16, 112] = replace(choice.lengths(16, 112), on_disk=True)
    for frames in (12, 30):
        for _ in restorer.stream(torch.rand(frames, 3, 16, 112)):
            seen.append(open_files())
    assert set(seen) == {before + 1}
    assert open_files() == before


@linux
def test_exact_keeps_the_edges_of_chunks_in_a_file_where_there_is_one(tmp_path, monkeypatch):
    """Of a film of hours they are more than memory holds."""
    monkeypatch.setattr("vrestore.engine.choice.room_in", lambda folder: 1 << 30 if folder else 0)
    net, clip, held = small_basicvsr(), torch.rand(12, 3, 16, 16), []
    monkeypatch.setattr(kept, "apart", lambda x: held.append(x) or x)
    restorers = [
        Restorer(net, device="cpu", precision="fp32", chunk=4, propagation="exact")
        for _ in range(2)
    ]
    restorers[1].choice.scratch = tmp_path
    outs, counts = [], []
    for restorer in restorers:
        outs.append(torch.stack([*restorer.stream(clip)]))
        counts.append(len(held))
    assert torch.equal(*outs)
    assert counts == [14, 26]  # 12 states of chunks; without a file, and of two edges
    whole, edge = (restorer.choice.on_disk(16, 16, 12) for restorer in restorers)
    assert (whole, edge) == (0, 3 * 8 * 16 * 16 * 4)
    needs = [restorer.choice.need(16, 16, Lengths(4, 0), 12) for restorer in restorers]
    assert needs[0] - needs[1] == edge


@pytest.fixture
def frames_read(monkeypatch):
    """How many frames of 16x112 were in memory, each time that one was read."""
    asked, alive, counts = kept._pages, set(), []

    def pages(size):
        made = asked(size)
        if size == 3 * 16 * 112 * 4:
            alive.add(weakref.ref(made, alive.discard))
            counts.append(len(alive))
        return made

    monkeypatch.setattr(kept, "_pages", pages)
    return counts


@linux
@pytest.mark.parametrize("tile", [None, 96])
def test_frames_that_wait_on_disk_are_in_memory_one_by_one(tile, tmp_path, frames_read):
    """Looked at beforehand and in tiles as well; of a large film some dozen are more than all
    else."""
    net, seen = small_realbasicvsr(), []
    survey = net.survey
    net.survey = lambda frames: seen.append(sum(1 for _ in frames)) or survey(frames)
    restorer = Restorer(net, device="cpu", precision="fp32", chunk=4, lookahead=4)
    restorer.choice.scratch = tmp_path
    restorer.choice.chosen[16, 112] = Lengths(4, 4, tile, on_disk=True)
    clip = torch.rand(40, 3, 16, 112)
    assert len([*restorer.stream(iter(clip))]) == 40
    assert seen == [8 * (1 + (tile is not None))]
    assert len(frames_read) >= 40
    assert max(frames_read) <= 3


FULL = """
import os, resource, sys, torch
from pathlib import Path
from threading import Barrier
from vrestore.engine.kept import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
store, states = Store(Path(sys.argv[1])), [torch.rand(1, 1, 99, side) for side in (99, 999)]
waiting = [store.keep(state) for state in states * 2]
print(*(torch.equal(there(), state) for there, state in zip(waiting, states * 2)))
print(os.fstat(store._file.fileno()).st_size)
"""


@linux
def test_what_no_file_has_room_for_stays_in_memory_and_is_told_once(tmp_path, caplog):
    """A first state fits, no other does; what was written of them is given back."""
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert answer.stdout.split() == ["True"] * 4 + [str(99 * 99 * 4)]
    store, x = Store(tmp_path / "gone"), torch.rand(1, 2, 3, 4)
    for _ in range(2):
        assert torch.equal(store.keep(x)(), x)
    assert [m.partition("gone: ")[2] for m in caplog.messages] == [
        "No such file or directory; it waits in memory"
    ]


@linux
def test_two_threads_write_to_places_of_their_own(tmp_path):
    """The first of each comes at once, when there is no file yet."""
    store, both = Store(tmp_path), Barrier(2)

    def many(first):
        both.wait()
        states = [torch.full((1, 1, 500, 500), first + i) for i in range(40)]
        return [(store.keep(state), state) for state in states]

    with ThreadPoolExecutor(2) as pool:
        for waiting in pool.map(many, (0.0, 100.0)):
            for there, state in waiting:
                assert torch.equal(there(), state)


@linux
def test_files_that_are_memory_have_no_room():
    assert room_in(None) == 0
    assert room_in(Path("/proc/no/such/folder")) == 0
    disk = Path("/var/tmp")
    if kept._file_system(disk) not in kept.IN_MEMORY:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        assert room_in(disk) == pytest.approx(free / 2, rel=0.1)
    if kept._file_system(Path("/dev/shm")) == "tmpfs":
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            assert room_in(Path(folder)) == 0


@linux
def test_no_room_for_what_is_kept_is_memory_that_ran_out(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("vrestore.engine.kept.mmap.mmap", full)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        apart(torch.ones(1))


@linux
def test_pages_that_cannot_be_had_are_a_want_of_memory(monkeypatch, tmp_path):
    """Not a fault of the file, in which the state is whole."""
    held = Store(tmp_path).keep(torch.ones(1, 2, 3, 3))

    def none_left(*args, **kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(kept.mmap, "mmap", none_left)
        for ask in (held, lambda: apart(torch.ones(1, 2, 3, 3))):
            with pytest.raises(MemoryError):
                ask()
    assert torch.equal(held(), torch.ones(1, 2, 3, 3))


@linux
def test_a_file_that_cannot_be_read_any_more_is_told_with_its_folder(tmp_path, monkeypatch):
    """A share that is gone; pages of the file itself would end the process without a word."""
    held = Store(tmp_path).keep(torch.ones(1, 2, 3, 3))

    def stale(*how):
        raise OSError(errno.ESTALE, "Stale file handle")

    for reads, said in ((lambda *how: 0, "has gone"), (stale, "Stale file handle")):
        monkeypatch.setattr(kept.os, "preadv", reads)
        with pytest.raises(OSError, match=said) as found:
            held()
        assert told(found.value).exit_code == 6
        assert str(told(found.value)).startswith(f"{tmp_path}: ")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_every_want_of_memory_is_told_as_one(error):
    assert told(error).exit_code == 5
    assert "fault in vrestore" not in str(told(error))
