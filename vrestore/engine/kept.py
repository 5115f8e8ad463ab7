"""Where states, and frames with their flows, wait until they are read: in memory, or in files.

::

    backward  <~~~~~~~~~~~~~~~~~~   a state a frame, all of them before the first one is read
    kept       [] [] [] [] [] []    outside the heap, in which layers come and go
    forward    ~~~> reads them one by one
"""

from __future__ import annotations

import errno
import mmap
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vrestore.engine.memory import give_back_freed_memory

if sys.platform != "win32":
    import resource

Kept = Callable[[], Tensor]  # gives the tensor, whenever it is asked for
Keep = Callable[[Tensor], Kept]

IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})  # file systems whose files are memory
SHARE = 0.5  # of the room in a folder that they may take
CPU = torch.device("cpu")


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
    """Each tensor in a file of the folder; where it cannot be written, ``in_memory``.

    The files have no names: nothing is left behind even by a process that is killed. They take up
    to half of those that the process may have open. What is kept is in memory as long as the one
    that asked for it holds it.
    """

    def keep(x: Tensor) -> Kept:
        if not _is_kept_elsewhere(x):
            return in_memory(x)
        dense = x if x.stride() == _dense(x) else x.clone()
        flat = dense.as_strided((x.numel(),), (1,), dense.storage_offset())
        try:
            with ExitStack() as on_failure:
                file = on_failure.enter_context(tempfile.TemporaryFile(dir=folder))
                if file.fileno() >= _most_files():
                    return in_memory(x)
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


def together(tensors: Iterable[Tensor], keep: Keep) -> Callable[[], tuple[Tensor, ...]]:
    """Those of one frame, kept each for itself."""
    held = [keep(x) for x in tensors]
    return lambda: tuple(kept() for kept in held)


@dataclass(frozen=True)
class Places:
    """Where states that wait to be rendered do so, and where encoded frames with their flows.

    ``make_room`` comes before every step.
    """

    states: Keep
    frames: Keep
    make_room: Callable[[], object] = lambda: None


HERE = Places(in_memory, as_it_is)


def on_disk_in(folder: Path) -> Places:
    """All in files of the folder, where memory is short.

    Before every step, what lies free amid the heap goes back to the system.
    """
    keep = in_files_of(folder)
    return Places(keep, keep, partial(give_back_freed_memory, CPU))


def room_in(folder: Path | None) -> int:
    """Bytes that they may take there; 0 where files are memory, or nothing is kept so."""
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
        if error.errno != errno.ENOMEM:
            raise
        raise MemoryError(error.strerror) from error


def _most_files() -> int:
    """The rest is for the film's own, and for the processes beside this one."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if sys.platform != "win32" else 0


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
