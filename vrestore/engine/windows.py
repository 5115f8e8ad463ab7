"""Sliding windows over an endless shot; what is computed of a frame is computed once.

::

    shot       . . . . . . . . . . . . .
    window             [- - c - -]             the ring: no more frames than one window
    restored   ~~~~~~~~~~~~~~~>
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

from torch import Tensor

from vrestore.engine.precision import InPrecision
from vrestore.models.temporal import Border, WindowNetwork, neighbours

T = TypeVar("T")


@dataclass(frozen=True)
class Window(Generic[T]):
    """An item with its neighbours, in order; ``index`` counts from the shot's first."""

    items: tuple[T, ...]
    index: int
    last: bool


def windows(items: Iterable[T], before: int, after: int, border: Border) -> Iterator[Window[T]]:
    """A window round every item of a shot; ``before + 1 + after`` are held, and the one that comes.

    ``last`` is true of the shot's last item alone where ``after`` is not 0.
    """
    stream = iter(items)
    ring: dict[int, T] = {}
    newest, ended = -1, False
    for index in count():
        # At the start whole windows are needed: what lies before the shot is made of what follows.
        while not ended and newest < max(index + after, before + after):
            for item in stream:
                newest += 1
                ring[newest] = item
                ring.pop(newest - (before + 1 + after), None)
                break
            else:
                ended = True
        if index > newest:
            return
        around = neighbours(index, before, after, border, newest if ended else None)
        yield Window(tuple(ring[i] for i in around), index, ended and index == newest)


def slide(run: InPrecision, net: WindowNetwork, frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """Restore one shot: frames ``(N, 3, H, W)`` in, ``(N, 3, sH, sW)`` out, one for one."""
    features = (run.features(frame) for frame in frames)
    for window in windows(features, net.before, net.after, net.border):
        out = run.fuse(window.items)
        del window
        yield out
        del out
