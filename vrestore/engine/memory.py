"""How much memory there is, and what the C library does with what is freed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

if sys.platform != "win32":
    import resource

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT_BYTES = (1 << 31) - 1  # freed memory at the heap's end that is kept
MAPPED_BYTES = 1 << 30  # what is larger comes from the system and goes back to it
GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
V1, V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
NO_LIMIT = 1 << 60  # of version 1, which has no word for it
SPARE = 0.85  # of what is left, for the network; the rest for what cannot be foreseen


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


def give_back_freed_memory(device: torch.device) -> None:
    """Give the system the pages that are free amid the heap, where ``device`` is the CPU.

    Before what takes most: it may find no room among what layers before it left in pieces, and
    takes new pages. glibc only; elsewhere nothing is done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None and device.type == "cpu":
        trim(0)


def at_hand(cap: int | None, device: torch.device, beside: int = 0) -> int:
    """Bytes that a network may take: of ``cap`` for the whole program, or of what is free.

    ``beside``: of that, for other processes, which a ``cap`` is not for.
    What lies free amid the heap is given back first: it is not in use.
    """
    give_back_freed_memory(device)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return round(SPARE * min(free, cap or free))
    used = resident()
    limits = [cap] if cap else [used + free - beside for free in (_free(),) if free is not None]
    if sys.platform != "win32":
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - _virtual() + used)
    limits += [used + free - beside for free in (group_room(),) if free is not None]
    return max(0, round(SPARE * (min(limits, default=1 << 62) - used)))


def resident() -> int:
    """Bytes of memory that this process holds; 0 where it cannot be known."""
    if sys.platform == "win32":
        return 0
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _virtual() -> int:
    if sys.platform == "win32":
        return 0
    with suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return resident()


def _free() -> int | None:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvail"))
    return None


def group_room(root: Path = GROUPS, membership: Path = MEMBERSHIP) -> int | None:
    """Bytes left in the control groups that a container, or a batch system, put this process into.

    Of the innermost to the outermost the least; what others in them hold, such as an encoder, is
    taken off, but for pages of files that can be given back. None: there is no limit.
    """
    rooms = []
    for folder, limit_name, used_name in _groups(root, membership):
        with suppress(OSError, ValueError):  # "max": none
            limit = int((folder / limit_name).read_text())
            if limit >= NO_LIMIT:
                continue
            used = int((folder / used_name).read_text())
            stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
            cached = stat.get("total_inactive_file", stat.get("inactive_file", 0))
            rooms.append(max(0, limit - used + int(cached)))
    return min(rooms, default=None)


def _groups(root: Path, membership: Path) -> Iterator[tuple[Path, str, str]]:
    """Folders of this process's memory groups up to the root, and their files' names (cgroups(7)).

    In a container the folders may be the root's though the path says otherwise.
    """
    paths = {"": Path("/"), "memory": Path("/")}
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                paths[controller] = Path(path)
    places = {"": (root, *V2), "memory": (root / "memory", *V1)}
    for name, (base, limit, used) in places.items():
        for group in dict.fromkeys((paths[name], *paths[name].parents, Path("/"))):
            yield base / group.relative_to("/"), limit, used
