"""The process's memory, as networks use it."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT_BYTES = (1 << 31) - 1  # freed memory at the heap's end that is kept
MAPPED_BYTES = 1 << 30  # what is larger comes from the system and goes back to it


def keep_freed_memory() -> None:
    """Let the C library keep what a network frees; it needs as much for the next layer.

    Features of some megabytes would be fetched from the system page by page and given back, layer
    by layer: a quarter of the time of a convolution. glibc only; elsewhere nothing is done.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
