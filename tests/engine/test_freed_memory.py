"""What the C library does with the memory that a network frees."""

import errno
import platform
import subprocess
import sys

import pytest
import torch
from networks import small_basicvsr

from vrestore.engine import exact, propagation
from vrestore.engine.memory import apart
from vrestore.engine.restorer import Restorer

FAULTS = """
import resource, torch
from vrestore.engine.restorer import Restorer
from vrestore.models.baselines import Identity
Restorer(Identity(), device="cpu")
def fetched():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(3, 1 << 20), torch.ones(40 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
fetched()
print(fetched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_freed_memory_is_used_again_and_not_fetched_from_the_system():
    answer = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True
    )
    assert int(answer.stdout) < 1000  # pages; each round would fetch 13,000


PIECES = """
import torch
from vrestore.engine.memory import give_back_freed_memory, keep_freed_memory, resident
keep_freed_memory()
small = []
large = []
for _ in range(16):
    large.append(torch.ones(1 << 20))
    small.append(torch.ones(1 << 10))
del large
full = resident()
give_back_freed_memory(torch.device("cuda"))
untouched = resident()
give_back_freed_memory(torch.device("cpu"))
print(full - untouched >> 20, full - resident() >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
def test_what_lies_free_amid_the_heap_goes_back_where_that_is_asked_for():
    answer = subprocess.run(
        [sys.executable, "-c", PIECES], check=True, capture_output=True, text=True
    )
    on_a_gpu, on_the_cpu = map(int, answer.stdout.split())
    assert on_a_gpu < 4
    assert on_the_cpu > 48  # of 64 MiB


def test_a_chunk_asks_for_it_before_its_passes_and_before_it_renders_and_at_its_end(monkeypatch):
    asked = []
    monkeypatch.setattr(propagation, "give_back_freed_memory", asked.append)
    restorer = Restorer(small_basicvsr(), device="cpu", precision="fp32", chunk=4, lookahead=2)
    assert len(list(restorer.stream(torch.rand(12, 3, 16, 16)))) == 12
    assert asked == [torch.device("cpu")] * 3 * 3


KEPT = """
import torch
from vrestore.engine.memory import apart, keep_freed_memory, resident
keep_freed_memory()
state = torch.ones(1, 16, 256, 256)
before = resident()
kept = [apart(state) for _ in range(16)]
held = resident()
del kept
print(held - before >> 20, held - resident() >> 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what is kept stays in the heap")
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
    kept = []
    for module in (exact, propagation):
        monkeypatch.setattr(module, "apart", lambda x: kept.append(x) or x)
    restorer = Restorer(small_basicvsr(), device="cpu", precision="fp32", chunk=4, **ways)
    assert len(list(restorer.stream(torch.rand(12, 3, 16, 16)))) == 12
    assert [x.shape for x in kept] == [(1, 8, 16, 16)] * (12 + edges)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_kept_apart_has_its_values_and_its_layout(dtype):
    x = torch.rand(2, 3, 4, 5).to(dtype)
    for state in (x, x.to(memory_format=torch.channels_last), x[:, :, 1:3, ::2], x[:0]):
        kept = apart(state)
        assert torch.equal(kept, state)
        assert kept.stride() == torch.empty_like(state).stride()
        if state.numel() and sys.platform == "linux":
            assert kept.data_ptr() != state.data_ptr()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere what is kept stays in the heap")
def test_no_room_for_what_is_kept_is_memory_that_ran_out(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("vrestore.engine.memory.mmap.mmap", full)
    with pytest.raises(MemoryError, match="Cannot allocate memory"):
        apart(torch.ones(1))
