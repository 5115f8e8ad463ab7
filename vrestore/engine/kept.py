"""Where states wait until they are rendered: in pages of their own, or in a file.

::

    backward  <~~~~~~~~~~~~~~~~~~   a state a frame, all of them before the first one is read
    kept       [] [] [] [] [] []    outside the heap, in which layers come and go
    forward    ~~~> reads them one by one
"""

from __future__ import annotations

import mmap
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor

Kept = Callable[[], Tensor]  # gives the state, whenever it is asked for
Keep = Callable[[Tensor], Kept]

IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})  # file systems whose files are memory
SHARE = 0.5  # of the room in a folder that states may take


def apart(x: Tensor) -> Tensor:
    """The same values in pages of their own; what is not on a CPU, or not on Linux, as it is.

    Amid the heap, kept states lie where the next layer finds no room between two of them: of
    1343 MiB that a chunk of 32 frames of 320x180 took, 931 lay free in pieces. MemoryError: there
    are no more pages.
    """
    if not _is_kept_elsewhere(x):
        return x
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    pages = _pages(-1, x.numel() * x.element_size(), flags=private)
    # The tensor holds the pages, and they go with it.
    return torch.frombuffer(pages, dtype=x.dtype).as_strided(x.shape, _dense(x)).copy_(x)


def as_it_is(x: Tensor) -> Kept:
    """What does not wait."""
    return lambda: x


def in_memory(x: Tensor) -> Kept:
    """The state ``apart``."""
    held = apart(x)
    return lambda: held


def in_files_of(folder: Path) -> Keep:
    """Each state in a file of the folder; where it cannot be written, ``in_memory``.

    The files have no names: nothing is left behind even by a process that is killed. A state is in
    memory as long as the one that asked for it holds it.
    """

    def keep(x: Tensor) -> Kept:
        if not _is_kept_elsewhere(x):
            return in_memory(x)
        dense = x if x.stride() == _dense(x) else x.clone()
        flat = dense.as_strided((x.numel(),), (1,), dense.storage_offset())
        try:
            with ExitStack() as on_failure:
                file = on_failure.enter_context(tempfile.TemporaryFile(dir=folder))
                file.write(flat.view(torch.uint8).numpy().data)
                file.flush()
                on_failure.pop_all()
        except OSError:
            return in_memory(x)
        form = x.dtype, x.shape, dense.stride()

        def kept() -> Tensor:
            dtype, shape, strides = form
            pages = _pages(file.fileno(), 0, access=mmap.ACCESS_COPY)
            return torch.frombuffer(pages, dtype=dtype).as_strided(shape, strides)

        weakref.finalize(kept, file.close)
        return kept

    return keep


def brought(features: dict[str, Kept]) -> dict[str, Tensor]:
    """A frame's features, wherever they waited."""
    return {name: kept() for name, kept in features.items()}


def room_in(folder: Path | None) -> int:
    """Bytes that states may take there; 0 where files are memory, or states are not kept so."""
    if folder is None or sys.platform != "linux" or _file_system(folder) in IN_MEMORY:
        return 0
    try:
        return int(SHARE * shutil.disk_usage(folder).free)
    except OSError:
        return 0


def _pages(file: int, length: int, **how: int) -> mmap.mmap:
    """MemoryError: there are no more."""
    try:
        return mmap.mmap(file, length, **how)
    except OSError as error:
        raise MemoryError(error.strerror) from error


def _is_kept_elsewhere(x: Tensor) -> bool:
    return x.device.type == "cpu" and sys.platform == "linux" and x.numel() > 0


def _dense(x: Tensor) -> tuple[int, ...]:
    """The strides of a copy."""
    return torch.empty_like(x, device="meta").stride()


def _file_system(folder: Path) -> str | None:
    """The type of the one that a folder lies in (proc(5), mountinfo); None: cannot be known."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        path = folder.resolve()
    except OSError:
        return None
    found: dict[Path, str] = {}
    for line in lines:  # later mounts hide those before them
        before, _, after = line.partition(" - ")
        place = before.split()[4].encode().decode("unicode_escape")
        found[Path(place)] = after.split()[0]
    return next((found[place] for place in (path, *path.parents) if place in found), None)
