"""The same frames again, where memory ran out in the middle of a shot."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor

from vrestore.engine.exact import Again
from vrestore.engine.kept import Keep, Kept, as_it_is
from vrestore.errors import is_out_of_memory

T = TypeVar("T")
R = TypeVar("R")


class Held:
    """A shot's frames, of which those not yet restored can be had again, and ``warm`` before them.

    What carries features from frame to frame begins anew; on ``warm`` frames it finds them again.
    Each time that they are gone through it is from the first one held; tiles do so at once.
    """

    def __init__(self, frames: Iterable[Tensor], warm: int) -> None:
        self._stream = iter(frames)
        self._warm = warm
        self._held: deque[Kept] = deque()
        self._keep: Keep = as_it_is
        self.known = 0  # of those held: how many were restored already
        self.first = 0  # the number of the first one held
        self.broken = False  # the source raised: nothing comes after, however often one asks

    def __iter__(self) -> Iterator[Tensor]:
        number = self.first
        while number - self.first < len(self._held) or self._one_more():
            yield self._held[number - self.first]()
            number += 1

    def _one_more(self) -> bool:
        try:
            frame = next(self._stream)
        except StopIteration:
            return False
        except BaseException:
            self.broken = True
            raise
        self._held.append(as_it_is(frame))  # it does not come again
        del frame
        self._held[-1] = self._keep(self._held[-1]())
        return True

    def ahead(self, count: int | None) -> Again[Tensor]:
        """The first that are held, None: all there are; each had when it is asked for."""
        while (count is None or len(self._held) < count) and self._one_more():
            pass
        return Again(range(len(self._held))[:count], lambda i: self._held[i]())

    def put_away(self, keep: Keep) -> None:
        """Where the frames are, from now on; the first time counts."""
        if self._keep is as_it_is:
            self._held = deque(keep(frame()) for frame in self._held)
            self._keep = keep

    def restored(self) -> None:
        """One frame more needs not come again, but to warm up."""
        self.known += 1
        if self.known > self._warm:
            self._held.popleft()
            self.first += 1
            self.known -= 1


def in_turn(
    frames: Held,
    ways: Iterable[T],
    run: Callable[[T, Held], Iterator[Tensor]],
    finish: Callable[[Tensor], R],
) -> Iterator[R]:
    """Restore all frames in the first of the ``ways`` whose memory suffices, then in the next.

    ``finish`` makes of each restored frame what is given out, and may run out of memory as well.
    A frame that was given out is not given again. What the last way raises is raised, and what the
    frames' own source raises at once.
    """
    ways = iter(ways)
    way = next(ways)
    while True:
        known = frames.known
        try:
            for out in run(way, frames):
                if known:
                    known -= 1
                    del out
                    continue
                try:
                    finished = finish(out)
                finally:
                    del out  # of the network's own; it would be there beside the next try
                yield finished
                del finished
                frames.restored()
            return
        except (RuntimeError, MemoryError) as error:
            if frames.broken or not is_out_of_memory(error):
                raise
            other = next(ways, None)
            if other is None:
                raise
        way = other
