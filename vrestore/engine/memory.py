"""How much memory a network takes on frames of a size, and how much there is.

Nothing is computed to know that: the network's functions run on tensors without values, of the very
size, and what is alive at once is added up.
"""

from __future__ import annotations

import copy
import ctypes
import sys
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vrestore.models.temporal import FrameNetwork, Network, RecurrentNetwork, Seen, WindowNetwork

if sys.platform != "win32":
    import resource

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
KEPT_BYTES = (1 << 31) - 1  # freed memory at the heap's end that is kept
MAPPED_BYTES = 1 << 30  # what is larger comes from the system and goes back to it
SPARE = 0.85  # of what there is, for the network; the rest for what cannot be foreseen
WASTE, FIXED_BYTES = 1.35, 45 << 20  # of the heap, and of the libraries' own buffers
PLENTY = 4096  # bytes a pixel and frame: no network takes more
LEAST_FRAMES = 4  # to render at a time, and to look ahead, where memory is short
TILE_SIDES = (512, 256, 128)  # pixels of the input
ON_THE_ROAD = 4  # output frames as float RGB: one that is converted, eight that wait to be coded


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


@dataclass(frozen=True)
class Lengths:
    """How a shot is parted: frames of a chunk (None: whole), frames ahead, side of a tile."""

    chunk: int | None
    lookahead: int
    tile: int | None = None

    @property
    def reach(self) -> int | None:
        """Frames that are held at once; None: as many as there are."""
        return None if self.chunk is None else self.chunk + self.lookahead


@dataclass(frozen=True)
class Costs:
    """Bytes that a network takes on frames of one size.

    ``moment``: a frame with its flows; ``kept``: its features of the passes that are kept until it
    is rendered; ``carried``: what goes from chunk to chunk; ``work``: the most at once inside a
    step; ``out``: an output frame.
    """

    moment: int
    kept: int
    kept_ahead: int
    carried: int
    work: int
    out: int

    def of(self, chunk: int, lookahead: int) -> int:
        """The most that is alive at once."""
        frames = chunk + lookahead
        return (
            frames * self.moment + chunk * self.kept + frames * self.kept_ahead
            + self.carried + self.work + self.out
        )  # fmt: skip


def need(net: Network, height: int, width: int, lengths: Lengths, shot: int | None = None) -> int:
    """Bytes that restoring takes beyond the program itself; ``shot`` frames where it is whole."""
    whole = costs(net, height, width)
    road = ON_THE_ROAD * whole.out
    chunk, lookahead = lengths.chunk, lengths.lookahead
    if chunk is None:
        chunk, lookahead = shot or 0, 0
    if not isinstance(net, RecurrentNetwork):
        chunk, lookahead = 1, 0
    if lengths.tile is None or lengths.tile >= max(height, width):
        return FIXED_BYTES + round(WASTE * (whole.of(chunk, lookahead) + road))
    sides = min(lengths.tile, height), min(lengths.tile, width)
    tile = costs(net, *sides)
    tiles = height * width / (sides[0] * sides[1]) * 1.3  # with their overlaps
    held = tiles * ((chunk + lookahead) * tile.moment + tile.carried) + chunk * whole.out
    return FIXED_BYTES + round(WASTE * (held + tile.of(chunk, lookahead) + road))


def fitting(net: Network, height: int, width: int, asked: Lengths, budget: int) -> Lengths:
    """The lengths nearest to those asked for that fit ``budget`` bytes; else those that take least.

    Shorter chunks cost time, less look-ahead and tiles cost quality: in this order. Tiles are for
    pictures of twice their size and more; of others they would hold as much.
    """
    if asked.reach is not None and PLENTY * height * width * asked.reach <= budget:
        return asked
    tries = [asked]
    if isinstance(net, RecurrentNetwork) and asked.chunk is not None:
        while (less := shorter(tries[-1])) is not None:
            tries.append(less)
    least = tries[-1]
    sides = [side for side in TILE_SIDES if 2 * side <= max(height, width)]
    for side in sides if asked.tile is None else ():
        tries += [replace(least, lookahead=asked.lookahead, tile=side), replace(least, tile=side)]
    needs = [need(net, height, width, lengths) for lengths in tries]
    fits = (lengths for lengths, size in zip(tries, needs, strict=True) if size <= budget)
    return next(fits, tries[needs.index(min(needs))])


def shorter(lengths: Lengths) -> Lengths | None:
    """What to try next, None: no less would do before tiles."""
    chunk, lookahead = lengths.chunk, lengths.lookahead
    if chunk is not None and chunk > LEAST_FRAMES:
        return Lengths(max(chunk // 2, LEAST_FRAMES), lookahead, lengths.tile)
    if chunk is not None and lookahead > LEAST_FRAMES:
        return Lengths(chunk, max(lookahead // 2, LEAST_FRAMES), lengths.tile)
    return None


def at_hand(cap: int | None, device: torch.device) -> int:
    """Bytes that a network may take: of ``cap`` for the whole program, or of what is free."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        return round(SPARE * min(free, cap or free))
    used = resident()
    limits = [cap] if cap else [used + free for free in (_free(),) if free is not None]
    if sys.platform != "win32":
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        if soft != resource.RLIM_INFINITY:
            limits.append(soft - _virtual() + used)
    limits += [limit for limit in (_group_limit(),) if limit is not None]
    return max(0, round(SPARE * min(limits, default=1 << 62)) - used)


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


def _group_limit() -> int | None:
    """Of the control group that a container, or a batch system, runs in."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return int(Path("/sys/fs/cgroup", name).read_text())
    return None


@lru_cache(maxsize=16)
def costs(net: Network, height: int, width: int) -> Costs:
    """What ``net`` takes on frames of ``(3, height, width)`` in float32."""
    ghost = copy.deepcopy(net).to("meta")
    frame = torch.empty(1, 3, height, width, device="meta")
    out = 3 * net.scale**2 * height * width * 4
    with torch.no_grad():
        if isinstance(ghost, FrameNetwork):
            return Costs(0, 0, 0, 0, _most(lambda: ghost(frame))[1], out)
        if isinstance(ghost, WindowNetwork):
            one, work = _most(lambda: ghost.features(frame))
            window = [one] * (ghost.before + 1 + ghost.after)
            fusing = _most(lambda: ghost.fuse(window))[1]
            return Costs(0, 0, 0, len(window) * _bytes(one), max(work, fusing), out)
        return _of_recurrent(ghost, frame, out)


def work_of_chunks(
    net: Network, height: int, width: int, lengths: Lengths, how: str, shot: int
) -> float:
    """How many times the multiplications of one piece a shot of ``shot`` frames in chunks takes.

    ``how``: ``lookahead``, ``whole`` or ``exact``.
    """
    if not isinstance(net, RecurrentNetwork) or how == "whole":
        return 1.0
    ghost = copy.deepcopy(net).to("meta")
    frame = torch.empty(1, 3, height, width, device="meta")
    x, frames = _multiplications(
        lambda: ghost.encode(Seen((frame,) * (2 * ghost.context + 1), 0, False, 0))
    )
    flows, more = _multiplications(lambda: ghost.flow(x, x))
    frames += more
    features: dict[str, Tensor] = {}
    passes, rerun = 0, 0.0
    chunk = lengths.chunk or shot
    reaches = (min(chunk + lengths.lookahead, shot - k) for k in range(0, shot, chunk))
    ahead = sum(reaches) / shot  # how often a pass that runs ahead of the chunk sees a frame
    for pass_ in ghost.passes:
        read = [features[name] for name in pass_.reads]
        state: Tensor | None = None
        states: list[Tensor] = []
        for past in range(pass_.order + 1):
            states = [] if state is None else [state] * past
            step = partial(ghost.advance, pass_, x, states, [flows[0]] * past, read)
            state, count = _multiplications(step)
        assert state is not None
        features[pass_.name] = state
        passes += count
        rerun += count * (ahead if pass_.step < 0 or ghost.read_ahead(pass_) else 1)
    _, last = _multiplications(lambda: ghost.render(x, features))
    n = len(ghost.passes)
    parts = n * frames + (n + 1) / 2 * passes if how == "exact" else frames + rerun
    return (parts + last) / (frames + passes + last)


def _multiplications(run: Callable[[], Any]) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = run()
    return out, counter.get_total_flops() // 2


def _of_recurrent(net: RecurrentNetwork, frame: Tensor, out: int) -> Costs:
    seen = Seen((frame,) * (2 * net.context + 1), 0, False, 0)
    x, work = _most(lambda: net.encode(seen))
    flows, most = _most(lambda: net.flow(x, x))
    works = [work, most]
    features: dict[str, Tensor] = {}
    kept = kept_ahead = carried = 0
    for k, pass_ in enumerate(net.passes):
        read = [features[name] for name in pass_.reads]
        state: Tensor | None = None
        for past in range(pass_.order + 1):
            states = [] if state is None else [state] * past
            towards = [flows[0]] * past
            advance = partial(net.advance, pass_, x, states, towards, read)
            state, work = _most(advance)
            works.append(work)
        assert state is not None
        features[pass_.name] = state
        if k + 1 < len(net.passes) or pass_.step < 0:
            if net.read_ahead(pass_):
                kept_ahead += _bytes(state)
            else:
                kept += _bytes(state)
        carried += (pass_.order + 1) * _bytes(state)
    works.append(_most(lambda: net.render(x, features))[1])
    moment = _bytes((frame, x, flows))
    return Costs(moment, kept, kept_ahead, carried, max(works), out)


def _bytes(tensors: Any) -> int:
    """Of all the tensors, each storage once."""
    leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
    storages = {leaf.untyped_storage()._cdata: leaf.untyped_storage().nbytes() for leaf in leaves}
    return sum(storages.values())


def _most(run: Callable[[], Any]) -> tuple[Any, int]:
    """What ``run`` gives, and the most bytes of new tensors that were alive at once in it."""
    with _Alive() as alive:
        out = run()
    return out, alive.most


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are made under it, as long as a tensor uses them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._users: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }  # fmt: skip
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf, given)
        self.most = max(self.most, self.now)
        return out

    def _count(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in given and key not in self._users:
            return  # it was there before
        if key not in self._users:
            self._users[key] = 0
            self.now += size
        self._users[key] += 1
        weakref.finalize(tensor, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.now -= size
