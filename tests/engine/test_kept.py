"""Where states wait: in pages of their own, or in files."""

import errno
import gc
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import small_basicvsr, small_basicvsrpp

from vrestore.engine import exact, kept
from vrestore.engine.kept import apart, in_files_of, in_memory, room_in
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
    for module in (exact, kept):
        monkeypatch.setattr(module, "apart", lambda x: waiting.append(x) or x)
    restorer = Restorer(small_basicvsr(), device="cpu", precision="fp32", chunk=4, **ways)
    assert len(list(restorer.stream(torch.rand(12, 3, 16, 16)))) == 12
    assert [x.shape for x in waiting] == [(1, 8, 16, 16)] * (12 + edges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_has_its_values_and_its_layout(dtype, tmp_path):
    x = torch.rand(2, 3, 4, 5).to(dtype)
    for state in (x, x.to(memory_format=torch.channels_last), x[:, :, 1:3, ::2], x[1:], x[:0]):
        for keep in (in_memory, in_files_of(tmp_path)):
            there = keep(state)
            for found in (there(), there()):
                assert torch.equal(found, state)
                assert found.stride() == torch.empty_like(state).stride()
                if state.numel() and sys.platform == "linux":
                    assert found.data_ptr() != state.data_ptr()


IN_FILES = """
import sys, torch
from pathlib import Path
from vrestore.engine.kept import in_files_of
from vrestore.engine.memory import keep_freed_memory, resident
keep_freed_memory()
state, keep = torch.ones(1, 16, 256, 256), in_files_of(Path(sys.argv[1]))
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


@linux
def test_the_files_have_no_names_and_go_with_what_is_kept(tmp_path):
    def open_files():
        return len(os.listdir("/proc/self/fd"))

    before = open_files()
    waiting = [in_files_of(tmp_path)(torch.rand(1, 8, 16, 16)) for _ in range(6)]
    assert open_files() == before + 6
    assert list(tmp_path.iterdir()) == []
    state = waiting[0]()
    del waiting
    gc.collect()
    assert open_files() == before + 1  # the pages that are held have one
    del state
    assert open_files() == before


@linux
def test_files_leave_half_of_those_that_may_be_open(tmp_path, monkeypatch):
    least = max(map(int, os.listdir("/proc/self/fd")))
    monkeypatch.setattr(kept.resource, "getrlimit", lambda what: (2 * (least + 4), -1))
    x = torch.rand(1, 2, 3, 4)
    waiting = [in_files_of(tmp_path)(x) for _ in range(9)]
    assert max(map(int, os.listdir("/proc/self/fd"))) <= least + 4
    assert all(torch.equal(there(), x) for there in waiting)


@linux
def test_exact_holds_no_file_for_a_chunk_s_edge(tmp_path):
    """Of a second-order pass flows are kept there, too."""

    def most_open(frames):
        seen = []
        restorer = Restorer(
            small_basicvsrpp(), device="cpu", precision="fp32", propagation="exact", chunk=4
        )
        restorer.choice.scratch = tmp_path
        restorer.choice.chosen[16, 16] = replace(restorer.choice.lengths(16, 16), on_disk=True)
        for _ in restorer.stream(torch.rand(frames, 3, 16, 16)):
            seen.append(len(os.listdir("/proc/self/fd")))
        return max(seen)

    assert most_open(48) <= most_open(12) + 2


FULL = """
import resource, sys, torch
from pathlib import Path
from vrestore.engine.kept import in_files_of
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
keep, states = in_files_of(Path(sys.argv[1])), [torch.rand(1, 1, 99, side) for side in (99, 999)]
print(*(torch.equal(keep(state)(), state) for state in states))
"""


@linux
def test_what_no_file_has_room_for_stays_in_memory(tmp_path, monkeypatch):
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    assert answer.stdout.split() == ["True", "True"]
    x = torch.rand(1, 2, 3, 4)
    assert torch.equal(in_files_of(tmp_path / "gone")(x)(), x)


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
    held = in_files_of(tmp_path)(torch.ones(1, 2, 3, 3))

    def none_left(*args, **kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(kept.mmap, "mmap", none_left)
        for ask in (held, lambda: apart(torch.ones(1, 2, 3, 3))):
            with pytest.raises(MemoryError):
                ask()
    assert torch.equal(held(), torch.ones(1, 2, 3, 3))


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
