"""What the C library does with the memory that a network frees."""

import platform
import subprocess
import sys

import pytest

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
