"""What the C library does with the memory that a network frees."""

import platform
import subprocess
import sys

import pytest
import torch
from networks import small_basicvsr

from vrestore.engine import propagation
from vrestore.engine.restorer import Restorer
from vrestore.models.int8 import int8_is_possible

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


CALIBRATED = """
from vrestore.engine.memory import resident
from vrestore.engine.restorer import Restorer
from vrestore.models.catalogue import load_model
net = load_model("basicvsr")
before = resident()
restorer = Restorer(net, device="cpu", precision="int8")
print(resident() - before >> 20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone is told")
@pytest.mark.skipif(not int8_is_possible(), reason="torch has no int8 convolutions for this CPU")
def test_what_calibration_took_is_given_back_before_anything_is_planned():
    answer = subprocess.run(
        [sys.executable, "-c", CALIBRATED], check=True, capture_output=True, text=True
    )
    assert int(answer.stdout) < 80  # 160 with what lies free
