"""Where states, and frames with their flows, wait until they are read: in memory, or in a file.

::

    backward  <~~~~~~~~~~~~~~~~~~   a state a frame, all of them before the first one is read
    kept       [] [] [] [] [] []    outside the heap, in which layers come and go
    forward    ~~~> reads them one by one
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import shutil
import sys
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from vrestore.engine.memory import give_back_freed_memory

log = logging.getLogger("vrestore")

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
    pages = _pages(x.numel() * x.element_size())
    # The tensor holds the pages, and they go with it.
    return torch.frombuffer(pages, dtype=x.dtype).as_strided(x.shape, _dense(x)).copy_(x)


def as_it_is(x: Tensor) -> Kept:
    """What does not wait."""
    return lambda: x


def in_memory(x: Tensor) -> Kept:
    """The state ``apart``."""
    held = apart(x)
    return lambda: held


class Store:
    """A file in ``folder`` where tensors wait, each at a place of its own; made by the first.

    It has no name: nothing is left behind even by a process that is killed. A place that nobody
    reads any more is taken by the next of as many bytes. The file goes when the store and all that
    is kept there have gone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._free: defaultdict[int, list[int]] = defaultdict(list)  # places, by their bytes
        self._end = 0
        self._claims = threading.Lock()
        self._told = False

    def keep(self, x: Tensor) -> Kept:
        """The tensor; each time it is asked for, in pages of its own. ``in_memory`` where it
        cannot be written, OSError where it cannot be read any more."""
        if not _is_kept_elsewhere(x):
            return in_memory(x)
        dense = x if x.stride() == _dense(x) else x.clone()
        flat = dense.as_strided((x.numel(),), (1,), dense.storage_offset()).view(torch.uint8)
        size = flat.numel()
        try:
            place = self._write(flat.numpy().data)
        except OSError as error:
            if not self._told:
                log.warning("%s: %s; it waits in memory", self._folder, error.strerror)
            self._told = True
            return in_memory(x)
        form = x.dtype, x.shape, dense.stride()

        def kept() -> Tensor:
            pages = _pages(size)
            self._read(place, memoryview(pages))
            dtype, shape, strides = form
            return torch.frombuffer(pages, dtype=dtype).as_strided(shape, strides)

        # Whoever holds this function may read: the place is free when it goes.
        weakref.finalize(kept, self._free[size].append, place).atexit = False
        return kept

    def _write(self, data: memoryview) -> int:
        """Where it lies now."""
        size, done = data.nbytes, 0
        with self._claims:
            if self._file is None:
                folder = self._folder
                self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115, closed:
                weakref.finalize(self, self._file.close)
            free = self._free[size]
            place = free.pop() if free else self._end
            self._end = max(self._end, place + size)
        try:
            while done < size:
                done += os.pwrite(self._file.fileno(), data[done:], place + done)
        except OSError:
            with self._claims:
                if self._end == place + size:
                    self._end = place
                    self._file.truncate(place)  # what was written of it takes no room
                else:
                    free.append(place)
            raise
        return place

    def _read(self, place: int, into: memoryview) -> None:
        assert self._file is not None
        done = 0
        while done < into.nbytes:
            try:
                count = os.preadv(self._file.fileno(), [into[done:]], place + done)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self._folder)) from error
            if not count:
                raise OSError(errno.EIO, "what waited there has gone", str(self._folder))
            done += count


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
    """All in one file of the folder, where memory is short.

    Before every step, what lies free amid the heap goes back to the system.
    """
    keep = Store(folder).keep
    return Places(keep, keep, partial(give_back_freed_memory, CPU))


def room_in(folder: Path | None) -> int:
    """Bytes that they may take there; 0 where files are memory, or nothing is kept so."""
    if folder is None or sys.platform != "linux" or _file_system(folder) in IN_MEMORY:
        return 0
    try:
        return int(SHARE * shutil.disk_usage(folder).free)
    except OSError:
        return 0


def _pages(size: int) -> mmap.mmap:
    """Of that many bytes, outside the heap. MemoryError: there are no more."""
    try:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
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
